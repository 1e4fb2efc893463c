"""Eight paintings that the program creates: style images without a licence.

A neural style consists of palette, strokes and texture at several scales. Each painting therefore has many tones,
irregular edges, and the grain of paint, paper, glass or stone. Fixed seeds make the paintings reproducible.
"""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 768, 576
FINE = 2  # shapes with hard edges are drawn this many times larger and then shrunk
Array = np.ndarray


def _grid() -> tuple[Array, Array]:
    """Return the x and y coordinates of all pixels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return x, y


def _noise(rng: Generator, cell: float, stretch: float = 1, octaves: int = 3) -> Array:
    """Return smooth noise (HEIGHT, WIDTH) of deviation 1 with features `cell` px high and `stretch` times as wide."""
    total = np.zeros((HEIGHT, WIDTH), np.float32)
    for octave in range(octaves):
        high = max(1.0, cell / 2**octave)
        shape = int(HEIGHT / high) + 2, int(WIDTH / max(1.0, high * stretch)) + 2
        coarse = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))
        total += np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / 2**octave
    return (total - total.mean()) / total.std()


def _ramp(position: Array, colours: str) -> Array:
    """Return the colour (..., 3) in 0 … 1 at each position in 0 … 1 along evenly spaced hexadecimal colours."""
    stops = _palette(colours)
    places = np.linspace(0, len(stops) - 1, 1024)
    table = np.stack([np.interp(places, np.arange(len(stops)), channel) for channel in stops.T], axis=-1)
    entry = (np.clip(position, 0, 1) * 1023).astype(np.int32)
    return table.astype(np.float32).take(entry, axis=0)


def _by_number(number: Array, position: Array, ramps: Sequence[str]) -> Array:
    """Return the colour (..., 3) at each position along the ramp with the pixel's number."""
    colour = np.zeros((*number.shape, 3), np.float32)
    for own, colours in enumerate(ramps):
        inside = number == own
        colour[inside] = _ramp(position[inside], colours)
    return colour


def _palette(colours: str) -> Array:
    return np.array([list(bytes.fromhex(colour)) for colour in colours.split()], np.float32) / 255


def _mix(under: Array, over: Array, share: Array | float) -> Array:
    share = np.clip(share, 0, 1)
    return under + (over - under) * (share[..., None] if isinstance(share, np.ndarray) else share)


def _step(value: Array, soft: float = 1.0) -> Array:
    """Return 0 below zero and 1 above, with a soft edge; for distances in px, this is antialiasing."""
    return np.clip(value / soft + 0.5, 0, 1)


def _along(texture: Array, angle: Array, doublings: int) -> Array:
    """Smear the texture along the direction field by 2**doublings px in both directions (line integral convolution).

    Each round doubles the length by joining two equal paths, so a long smear costs little more than a short smear.
    """
    height, width = texture.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    total = np.zeros_like(texture)
    for sign in (1, -1):
        smeared, go_x, go_y = texture, sign * np.cos(angle), sign * np.sin(angle)
        for _ in range(doublings):
            row = (y + go_y).astype(np.int32).clip(0, height - 1)
            end = row * width + (x + go_x).astype(np.int32).clip(0, width - 1)
            smeared, go_x, go_y = smeared + smeared.take(end), go_x + go_x.take(end), go_y + go_y.take(end)
        total += smeared
    return (total - total.mean()) / total.std()


def _lit(picture: Array, relief: Array, strength: float) -> Array:
    """Light the image as a surface with this relief from the upper left: thick paint, glass, stone."""
    down, right = np.gradient(relief)
    slope = np.clip(-(down + right), -3, 3)
    return picture * (1 + strength * slope[..., None])


def _finish(picture: Array, rng: Generator, grain: float = 0.02) -> Image.Image:
    """Add the fine grain of a painted surface and convert to an RGB image."""
    picture = picture + grain * (_noise(rng, 1, octaves=1) + 0.6 * _noise(rng, 3))[..., None]
    return Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))


def _strokes(
    image: Image.Image,
    rng: Generator,
    colour: Array,
    angle: Array,
    count: int,
    length: float,
    width: float,
    wild: float = 0.05,
) -> None:
    """Draw `count` curved strokes along the direction field on an image that is `FINE` times larger.

    Each stroke has the colour (HEIGHT, WIDTH, 3) under its middle, changed at random by about `wild`, and a thin
    lighter ridge like thick paint.
    """
    draw = ImageDraw.Draw(image)
    x, y = rng.uniform(0, WIDTH - 1, count), rng.uniform(0, HEIGHT - 1, count)
    paint = colour[y.astype(int), x.astype(int)]
    paint = paint + wild * rng.standard_normal((count, 1)) + 0.6 * wild * rng.standard_normal((count, 3))
    half = length * rng.uniform(0.6, 1.3, count) / 2
    theta = angle[y.astype(int), x.astype(int)]
    path = [(x - half * np.cos(theta), y - half * np.sin(theta))]
    for _ in range(4):
        x, y = path[-1]
        theta = angle[y.astype(int).clip(0, HEIGHT - 1), x.astype(int).clip(0, WIDTH - 1)]
        path.append((x + half / 2 * np.cos(theta), y + half / 2 * np.sin(theta)))
    lines = (np.array(path).transpose(2, 0, 1) * FINE).astype(np.float32)
    thick = (width * FINE * rng.uniform(0.6, 1.3, count)).astype(int).clip(2)
    body = (np.clip(paint, 0, 1) * 255).astype(np.uint8)
    ridge = (np.clip(paint * 1.12 + 0.03, 0, 1) * 255).astype(np.uint8)
    for line, size, tone, light in zip(lines, thick, body.tolist(), ridge.tolist(), strict=True):
        draw.line(line.ravel().tolist(), fill=tuple(tone), width=int(size))
        draw.line((line[:-1] - size / 4).ravel().tolist(), fill=tuple(light), width=max(1, int(size) // 4))


def _large(picture: Array) -> Image.Image:
    ground = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    return ground.resize((WIDTH * FINE, HEIGHT * FINE), Image.Resampling.BILINEAR)


def _shrunk(image: Image.Image) -> Array:
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), np.float32) / 255


def _cells(rng: Generator, x: Array, y: Array, size: float) -> tuple[Array, Array]:
    """Return Voronoi cells of about `size` px: each pixel's cell number and its distance from the cell's edge in px."""
    u, v = x / size + 1, y / size + 1
    rows, columns = int(v.max()) + 2, int(u.max()) + 2
    seed_x = (np.arange(columns) + rng.uniform(0, 1, (rows, columns))).astype(np.float32).ravel()
    seed_y = (np.arange(rows)[:, None] + rng.uniform(0, 1, (rows, columns))).astype(np.float32).ravel()
    here = v.astype(np.int32) * columns + u.astype(np.int32)
    around = [here + i * columns + j for i in (-1, 0, 1) for j in (-1, 0, 1)]
    far = [(seed_x.take(other) - u) ** 2 + (seed_y.take(other) - v) ** 2 for other in around]
    cell = np.choose(np.argmin(far, axis=0), around)
    own_x, own_y = seed_x.take(cell), seed_y.take(cell)
    edge = np.full(u.shape, np.inf, np.float32)
    for other in around:
        to_x, to_y = seed_x.take(other) - own_x, seed_y.take(other) - own_y
        past = (own_x + to_x / 2 - u) * to_x + (own_y + to_y / 2 - v) * to_y
        edge = np.where(other == cell, edge, np.minimum(edge, past / np.maximum(np.hypot(to_x, to_y), 1e-3)))
    return cell, edge * size


def swirling_night() -> Image.Image:
    """Paint stars and a moon over hills, in thick curling strokes of blue and gold."""
    rng = default_rng(1889)
    x, y = _grid()
    flow_x, flow_y = 1 + 0 * x, 0.25 * np.sin(x / 90) + 0.1 * np.sin(y / 40)
    for centre_x, centre_y, radius, spin in ((300, 215, 105, 7), (480, 265, 75, -7), (110, 300, 55, 4)):
        dx, dy = (x - centre_x) / radius, (y - centre_y) / radius
        pull = spin * np.exp(-(dx**2) - dy**2)
        flow_x, flow_y = flow_x - pull * dy, flow_y + pull * dx
    stars = [(655, 95, 62), (80, 85, 30), (200, 60, 24), (330, 50, 20), (455, 90, 30), (540, 170, 20), (700, 260, 24),
             (30, 200, 22), (180, 150, 16), (610, 235, 14)]  # fmt: skip
    glow = np.zeros_like(x)
    for star_x, star_y, radius in stars:
        dx, dy = (x - star_x) / radius, (y - star_y) / radius
        far = np.hypot(dx, dy)
        halo = np.exp(-((far / 1.3) ** 2))
        flow_x, flow_y = flow_x - 9 * halo * dy, flow_y + 9 * halo * dx
        glow = np.maximum(glow, np.exp(-((far / 1.15) ** 2)) * (0.8 + 0.2 * np.cos(far * 7)) + 0.3 * (far < 0.45))
    angle = np.arctan2(flow_y, flow_x)
    streams = _along(_noise(rng, 26, octaves=2), angle, 5)
    sky = _ramp(0.36 + 0.19 * streams + 0.12 * (y / 400), "060f2b 0e2559 1b479a 2f78bd 6db4cf c5dfc4 f4e9b0")
    sky = _mix(sky, _ramp(glow, "3f86b8 a8cf9f f3d24c fbb829 fff3b8"), np.clip(glow * 1.7, 0, 1))
    land = sky
    for base, rise, tones in ((400, 26, "13305f 2c5f8f 4f93a2"), (440, 22, "0b2338 17564f 3f8a63 90ab58"),
                              (492, 16, "4a2f12 9c6416 d99a24 f4cf5a")):  # fmt: skip
        ridge = base + rise * np.sin(x / 75 + base) + 0.5 * rise * np.sin(x / 31 + 2 * base)
        inside = _step(y - ridge, 3)
        slope = np.arctan2(np.gradient(ridge, axis=1), 1) + 0.35 * np.sin(x / 50 + y / 23)
        angle = np.where(inside > 0.5, slope, angle)
        land = _mix(
            land, _ramp(0.5 + 0.25 * _noise(rng, 16, 3), tones) * (1 - 0.5 * _step(8 - y + ridge, 9)[..., None]), inside
        )
    image = _large(land)
    _strokes(image, rng, land, angle, 2500, 42, 7.5, 0.06)
    _strokes(image, rng, land, angle, 5000, 27, 4.8, 0.06)
    bristles = _along(_noise(rng, 1.3, octaves=1), angle, 4)
    return _finish(_lit(_shrunk(image) * (1 + 0.04 * bristles[..., None]), bristles, 0.05), rng, 0.012)


def indigo_waves() -> Image.Image:
    """Paint a sea of overlapping fans (seigaiha), block-printed in indigo on old paper, with some fans in gold."""
    rng = default_rng(1831)
    x, y = _grid()
    x = x + 1.0 * _noise(rng, 22) + 12 * np.sin(y / 120 + 1)
    y = y + 1.0 * _noise(rng, 22) + 16 * np.sin(x / 140) + 10 * np.sin(x / 61 + y / 200)
    radius = 58.0
    far, fan, turn = np.ones_like(x), np.zeros(x.shape, np.intp), np.zeros_like(x)
    for row in range(-2, int(HEIGHT / radius * 2) + 5):
        shift = (x / radius + row % 2) / 2
        column = np.floor(shift)
        dx, dy = (shift - column - 0.5) * 2, y / radius - row / 2
        distance = np.hypot(dx, dy)
        inside = (distance < 1) & (dy < 0.6)
        far, turn = np.where(inside, distance, far), np.where(inside, np.arctan2(dy, dx), turn)
        fan = np.where(inside, (row + 3) * 16 + column.astype(np.intp) + 3, fan)
    kind, tone = rng.uniform(0, 1, 999)[fan], rng.normal(0, 1, 999).astype(np.float32)[fan]
    rings = np.cos(far * 2 * np.pi * np.where(kind < 0.3, 8, 5)) * 1.4
    spokes = np.cos(turn * 34) * 1.5 + 3 * np.cos(far * 10 * np.pi) ** 8
    carved = np.where((kind > 0.55) & (kind < 0.75) & (far > 0.5), spokes, rings)
    worn = _noise(rng, 5) * 0.22 + _noise(rng, 60) * 0.1 + _noise(rng, 2, 4) * 0.2
    ink = _step(carved + 0.35 + worn, 0.7)
    ink = np.maximum(ink, _step((far - 0.955) * radius, 1.5) * _step(0.9 + worn, 0.5))
    fibres = _along(_noise(rng, 1, octaves=1), 0.4 * _noise(rng, 40), 3)
    paper = _ramp(0.55 + 0.14 * _noise(rng, 80) + 0.08 * fibres, "c9b48a e6d7b2 f3ead0 fbf6e6")
    depth = 0.5 + 0.17 * tone + 0.25 * (far - 0.5) + 0.1 * _noise(rng, 90) + 0.05 * _noise(rng, 3, 5)
    blue = _ramp(depth, "9cc3cf 4d8fb8 24609b 163f7d 0e2556 081433")
    gilded = kind > 0.93
    blue = np.where(gilded[..., None], _ramp(depth, "f2dc8c dca93a b3761f 7a4312"), blue)
    picture = _mix(paper, blue, ink * (0.93 + 0.05 * fibres))
    return _finish(picture, rng, 0.025)


def stained_glass() -> Image.Image:
    """Paint a rising sun over hills and a river in leaded glass with light from behind."""
    rng = default_rng(1250)
    x, y = _grid()
    cell, lead = _cells(rng, x, y, 52)
    ground, own = lead, cell
    dx, dy = x - 470, y - 300 + 2 * _noise(rng, 60)
    far, rays = np.hypot(dx, dy), np.sin(np.arctan2(dy, dx) * 9 + 0.4)
    spokes = np.where(far < 44, 44, np.abs(rays) * far / 9)
    petals = far < 135
    lead = np.minimum(np.where(petals, spokes, lead), spokes)
    for ring in (44, 80, 135, 225, 330):
        lead = np.minimum(lead, np.abs(far - ring))
    ray = np.floor((np.arctan2(dy, dx) * 9 + 0.4) / np.pi).astype(int) + 20
    cell = np.where(petals, np.where(far < 44, 0, ray), cell)
    region = np.digitize(far, [80, 135, 225, 330]) * 2 - ((rays > 0) & (far > 80))
    ridges = (365 + 30 * np.sin(x / 120), 430 + 24 * np.sin(x / 85 + 2.2), 500 + 18 * np.sin(x / 70 + 4))
    for number, ridge in enumerate(ridges):
        lead = np.minimum(np.where(y > ridge, ground, lead), np.abs(y - ridge))
        region, cell = np.where(y > ridge, 9 + number, region), np.where(y > ridge, own, cell)
    panes = (
        *("ffd75a fff3b0 ffb62e", "ff9c1c ffc94a", "f0641a ff8a2a", "e0391f f26a2a", "b3123a e0343c", "7a1a86 b03a9c"),
        *("3a2bb0 6a4fd0", "1d50c8 3f86e8", "123c9a 2a78c8"),
        *("0c7f86 30b49c 1d9fb0", "1d8a3c 74bf3a 2a9f5c", "0b4f9a 3aa4d8 145fb8"),  # far hills, near hills, river
    )
    piece = rng.uniform(0, 1, 1 << 14).astype(np.float32)[(cell * 16 + region) % (1 << 14)]
    glass = _by_number(region, piece, panes)
    streaks = _along(_noise(rng, 3), piece * np.pi, 4)
    light = 0.7 + 0.42 * _step(lead - 13, 26) + 0.07 * streaks + 0.1 * _noise(rng, 30) + 0.3 * (piece - 0.5)
    glass = glass * (light + 0.25 * np.exp(-far / 260))[..., None]
    glass = _mix(glass, np.ones_like(glass), 0.06 * np.maximum(streaks - 0.6, 0))
    width = 3.2 + 0.5 * _noise(rng, 30)
    came = _ramp(0.5 + 0.1 * _noise(rng, 4), "0d0c0e 24222a 45424c")
    came = _lit(came, 3 * _step(width - lead, 7), 1.1)
    return _finish(_mix(glass, came, _step(width - lead, 1.6)), rng, 0.018)


def dotted_summer() -> Image.Image:
    """Paint a river on a summer evening, in dots of pure colours next to their complements."""
    rng = default_rng(1886)
    x, y = _grid()
    horizon = 250
    sky = _ramp(y / horizon + 0.08 * _noise(rng, 50, 4), "2f6cc4 5595dc 8fc0e6 c9c4e6 f4bcb4 ffc47a ffd98a")
    sun = np.hypot(x - 520, (y - 205) * 1.05)
    sky = _mix(sky, _palette("ff9f5a")[0], 0.6 * np.exp(-((sun / 150) ** 2)))
    sky = _mix(sky, _palette("fff6c4")[0], 1.3 * np.exp(-((sun / 40) ** 4)) + 0.5 * np.exp(-((sun / 80) ** 2)))
    water = _ramp((y - horizon) / 210 + 0.12 * _noise(rng, 8, 9), "f6c98a a8c4d8 5a9ccf 2f6fb8 28509a")
    glitter = np.exp(-(((x - 520) / (20 + 0.22 * (y - horizon))) ** 2)) * (0.55 + 0.35 * _noise(rng, 6, 7))
    water = _mix(water, _palette("ffe27a")[0], glitter)
    scene = _mix(sky, water, _step(y - horizon, 3))
    far_bank = horizon - 16 - 9 * np.sin(x / 47) - 14 * np.exp(-(((x - 650) / 90) ** 2))
    scene = _mix(
        scene,
        _ramp(0.5 + 0.25 * _noise(rng, 14), "4a4fa0 5a86a8 7fb07a"),
        _step(y - far_bank, 3) * _step(horizon + 5 - y, 3),
    )
    greens = "1f2f6e 1f5a5a 2f8a46 8abf3f e6d84a"
    for trunk, top, spread in ((95, 40, 62), (190, 95, 46), (30, 110, 60), (262, 158, 28), (716, 120, 40)):
        crown = (
            1 - ((x - trunk) / spread) ** 2 - ((y - (top + 275) / 2) / ((275 - top) / 2)) ** 2 + 0.3 * _noise(rng, 22)
        )
        leaf = 0.5 + (x - trunk) / spread * 0.3 + 0.16 * _noise(rng, 12)
        scene = _mix(scene, _ramp(leaf, greens), _step(crown, 0.12))
        mirror = 1 - ((x - trunk + 5 * np.sin(y / 3)) / spread) ** 2 - ((y - 268) / (0.62 * (275 - top))) ** 2
        scene = _mix(scene, _ramp(leaf * 0.7, greens), 0.6 * _step(mirror, 0.4) * _step(y - 272, 4))
    shore = 11 - np.abs(y - 266 - 2 * np.sin(x / 29)) - 6 * _step(np.abs(x - 480) - 190, -60)
    scene = _mix(scene, _ramp(0.5 + 0.3 * _noise(rng, 9, 4), "3a3a7a 3f7a4a c8b84a"), _step(shore - 5, 3))
    for mast, foot, high in ((395, 300, 86), (448, 276, 44)):
        lean = (x - mast) / high
        sail = np.minimum((y - foot + high) * 0.42 - np.abs(x - mast - high * 0.06), foot - 4 - y)
        mirror = np.minimum((foot + 0.7 * high - y) * 0.42 - np.abs(x - mast + 3 * np.sin(y / 2.5)), y - foot - 4)
        scene = _mix(scene, _ramp(0.5 + 1.6 * lean, "c87a8a fff3dc ffe2a8"), _step(sail, 3))
        scene = _mix(scene, _palette("fbe6d0")[0], 0.55 * _step(mirror, 8))
        scene = _mix(
            scene, _palette("5a2a4a")[0], _step(0.33 * high - np.abs(x - mast)) * _step(4 - np.abs(y - foot), 2)
        )
    bank = 430 + 50 * np.sin(x / 190 + 2.4) + 8 * np.sin(x / 37)
    grass = _ramp(0.5 + (y - 470) / 260 + 0.2 * _noise(rng, 26, 3), "2a6a5a 3f9a4a 93bf3f dccf4a f0a23a")
    flowers = _noise(rng, 7) + 0.6 * _noise(rng, 60)
    grass = _mix(grass, _ramp(_noise(rng, 12) * 0.3 + 0.5, "d8305a f0502a ff8ab0"), _step(flowers - 1.2, 0.5))
    scene = _mix(scene, grass, _step(y - bank, 4))
    image = _large(_mix(scene, _palette("e8d6b0")[0], 0.35))
    draw = ImageDraw.Draw(image)
    for count, size in ((7000, 5.2), (13000, 3.6), (11000, 2.5)):
        at_x, at_y = rng.uniform(0, WIDTH, count), rng.uniform(0, HEIGHT, count)
        paint = scene[at_y.astype(int), at_x.astype(int)]
        grey = paint.mean(axis=1, keepdims=True)
        paint = grey + (paint - grey) * rng.choice([1.2, 0.8, -0.55], (count, 1), p=[0.68, 0.2, 0.12])
        paint = paint + rng.normal(0, 0.05, (count, 3)) + rng.normal(0, 0.06, (count, 1))
        tones = (np.clip(paint, 0, 1) * 255).astype(np.uint8).tolist()
        reach = size * rng.uniform(0.75, 1.2, (2, count))
        left, up, right, down = np.array([at_x - reach[0], at_y - reach[1], at_x + reach[0], at_y + reach[1]]) * FINE
        for box, tone in zip(np.stack([left, up, right, down], axis=1).tolist(), tones, strict=True):
            draw.ellipse(box, fill=tuple(tone))
    picture = _shrunk(image)
    return _finish(_lit(picture, picture.mean(axis=2) * 6, 0.09), rng)


def circles_of_colour() -> Image.Image:
    """Paint discs of light in oil, divided into quarters and rings of warm and cool colours."""
    rng = default_rng(1912)
    x, y = _grid()
    x, y = x + 3 * _noise(rng, 70), y + 3 * _noise(rng, 70)
    across, down = (x * 0.8 + y * 0.6) / 110, (y * 0.8 - x * 0.6) / 140
    patch = (np.floor(across) * 5 + np.floor(down) * 3).astype(int) % 12
    inner, angle = across % 1, np.full(x.shape, 0.64, np.float32)
    hue = patch
    for centre_x, centre_y, radius in ((80, 90, 150), (690, 60, 170), (60, 500, 190), (700, 500, 150), (400, 560, 130),
                                       (500, 215, 215), (255, 330, 165)):  # fmt: skip
        dx, dy = x - centre_x, y - centre_y
        far, turn = np.hypot(dx, dy), np.arctan2(dy, dx)
        rings = radius // 30
        ring = np.minimum(far / radius * rings, rings - 1e-3)
        sector = np.floor((turn + rng.uniform(0, 1.5)) / (np.pi / 2)).astype(int) % 4
        inside = far < radius
        hue = np.where(inside, (rng.integers(0, 12) + ring.astype(int) * 5 + np.array([0, 7, 2, 5])[sector]) % 12, hue)
        inner, angle = np.where(inside, ring % 1, inner), np.where(inside, turn + np.pi / 2, angle)
    shades = (
        *("5e0f1e c2282d ec6a4c", "a8320f e8621f f9a25c", "c06a0c f29a1e fbc768", "d79b12 f8cb38 fdeaa0"),
        *("5f7a1c 9cb53c d3d98a", "0f4a34 2c8a5a 86c29a", "0a4d5a 1f9098 8fd0c4", "123f80 3a82c8 a5cbe8"),
        *("0c1c58 2444a0 7890d4", "2c1450 5c3590 a98cc8", "5e1450 a83a82 e49ac0", "8f8468 d8cba8 f8f0dc"),
    )
    tone = 0.2 + 0.6 * inner + 0.16 * _along(_noise(rng, 10), angle, 4) + 0.12 * _noise(rng, 60)
    colour = _by_number(hue, tone, shades)
    image = _large(colour)
    _strokes(image, rng, colour, angle, 4000, 24, 7, 0.03)
    bristles = _along(_noise(rng, 1.6, octaves=2), angle, 4)
    return _finish(_lit(_shrunk(image) * (1 + 0.05 * bristles[..., None]), bristles, 0.09), rng, 0.012)


def misty_mountains() -> Image.Image:
    """Paint mountains in mist with ink on fibrous paper, with pines, birds and a red seal."""
    rng = default_rng(1495)
    x, y = _grid()
    fibres = _along(_noise(rng, 1, octaves=1), 2.5 * _noise(rng, 9, octaves=1), 2)
    wash = _noise(rng, 70, 3)
    paper = 0.52 + 0.14 * _noise(rng, 130, 2) + 0.07 * fibres + 0.05 * _noise(rng, 3) - 0.12 * wash
    picture = _ramp(paper, "bfa878 dcc9a0 eee2c6 f8f2e2")
    sun = _step(40 - np.hypot(x - 600, y - 112) + 0.5 * _noise(rng, 3), 3)
    picture = _mix(picture, _palette("c2402a")[0], sun * (0.74 + 0.12 * wash + 0.05 * fibres))
    falling = _along(_noise(rng, 2.5), np.pi / 2 + 0.5 * _noise(rng, 60), 4)
    turned = (falling, falling[:, ::-1], falling[::-1], falling[::-1, ::-1], falling)
    inks = ("7d8f9a", "5a6f80", "3c4d58", "222b30", "0e1012")
    for layer, (base, rise, dark) in enumerate(((228, 42, 0.38), (285, 95, 0.5), (355, 92, 0.66), (440, 80, 0.85),
                                                (540, 70, 1.05))):  # fmt: skip
        ridge = base - rise * _crags(rng, 115 + 12 * layer) + 1.2 * _noise(rng, 5)
        depth = np.maximum(y - ridge, 0)
        ink = dark * (0.35 * np.exp(-depth / 6) + 0.75 * np.exp(-depth / (50 + 14 * layer)))
        ink = ink * (1 + 0.42 * turned[layer] + 0.15 * wash) * _step(y - ridge, 2.2)
        picture = _mix(picture, _palette(inks[layer])[0], ink * (1 + 0.08 * fibres))
    image = _large(picture)
    draw = ImageDraw.Draw(image)
    for left, foot, high in ((610, 560, 150), (655, 585, 190), (706, 570, 120), (40, 575, 95), (78, 585, 130)):
        _pine(draw, rng, left, foot, high)
    for left, top, span in ((395, 120, 13), (425, 104, 11), (452, 122, 9), (368, 142, 8)):
        wing = np.array([(-1, -0.3), (-0.5, -0.5), (0, 0), (0.5, -0.5), (1, -0.2)]) * span + (left, top)
        draw.line((wing * FINE).ravel().tolist(), fill=(44, 46, 50), width=5, joint="curve")
    draw.rounded_rectangle([FINE * edge for edge in (58, 60, 92, 108)], radius=5, fill=(172, 42, 28))
    for sign in ((75, 70, 75, 97), (65, 80, 65, 98), (85, 80, 85, 98), (64, 97, 86, 97)):  # 山, mountain
        draw.line([FINE * edge for edge in sign], fill=(232, 206, 170), width=5)
    return _finish(_shrunk(image) * (1 + 0.03 * fibres[..., None]), rng, 0.02)


def _crags(rng: Generator, span: float) -> Array:
    """Return a ridge (WIDTH,): random heights every `span` px; each octave adds smaller heights at half the span."""
    line = np.zeros(WIDTH)
    for octave in range(6):
        places = np.arange(0, WIDTH + 2 * span, span / 2**octave) - rng.uniform(0, span / 2**octave)
        line += np.interp(np.arange(WIDTH), places, rng.uniform(-1, 1, len(places))) / 1.85**octave
    return line


def _pine(draw: ImageDraw.ImageDraw, rng: Generator, left: float, foot: float, high: float) -> None:
    """Draw a pine in dry strokes: a leaning trunk and hanging tiers of needles."""
    lean = rng.uniform(-0.12, 0.12)
    for share in np.arange(0.12, 1, 5 / high):
        at_x, at_y, reach = left + lean * high * (1 - share), foot - high * (1 - share), 0.3 * high * share**0.8
        for side in (-1, 1):
            span = side * reach * rng.uniform(0.35, 1.1)
            for needle in rng.uniform(0, 1, 10):
                start = FINE * (at_x + span * needle), FINE * (at_y + 0.25 * abs(span) * needle)
                end = start[0] + side * rng.uniform(3, 14), start[1] + rng.uniform(2, 9)
                draw.line([start, end], fill=(int(rng.uniform(14, 62)),) * 3, width=int(rng.integers(2, 7)))
    draw.line([FINE * (left + lean * high), FINE * (foot - high), FINE * left, FINE * foot], fill=(22, 22, 24), width=5)


def mosaic_garden() -> Image.Image:
    """Paint Roman rosettes: rings of small stones in cobalt, turquoise, terracotta and gold."""
    rng = default_rng(547)
    image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), (52, 44, 40))
    draw = ImageDraw.Draw(image)
    rosettes = np.array([(265, 300, 1.0), (625, 140, 0.62), (630, 480, 0.55), (20, 20, 0.5), (20, 570, 0.5)])
    themes = (
        "fff0b0 f2c230 d9701f 8f2f1f f6e6c0 1f6f9a 123a7a 2aa79a e9dcb8 b5472a",
        "f6e6c0 2aa79a 0f5f7a f2c230 123a7a d9701f e9dcb8 8f2f1f",
    )
    stone = 9.5
    for number, (centre_x, centre_y, size) in enumerate(rosettes):
        tones = _palette(themes[number % 2])
        for ring in range(1, int(760 / stone)):
            radius = ring * stone
            count = max(4, int(2 * np.pi * radius / stone))
            turn = (np.arange(count) + rng.uniform()) / count * 2 * np.pi
            at = np.stack([centre_x + radius * np.cos(turn), centre_y + radius * np.sin(turn)], axis=1)
            seen = (np.abs(at - (WIDTH / 2, HEIGHT / 2)) < (WIDTH / 2 + 9, HEIGHT / 2 + 9)).all(axis=1)
            reach = np.hypot(at[:, None, 0] - rosettes[:, 0], at[:, None, 1] - rosettes[:, 1]) / rosettes[:, 2]
            seen &= reach.argmin(axis=1) == number
            petal = radius / size / 30 + 1.1 * np.abs(np.sin(turn * 6)) * np.minimum(radius / size / 60, 1.5)
            paint = tones[petal.astype(int) % len(tones)]
            paint = paint * rng.normal(1, 0.13, (count, 1)) + rng.normal(0, 0.03, (count, 3))
            for place, angle, tone in zip(at[seen], turn[seen], paint[seen], strict=True):
                _stone(draw, rng, place, angle, stone, tone)
    picture = _shrunk(image)
    return _finish(_lit(picture, picture.mean(axis=2) * 5, 0.06), rng, 0.03)


def _stone(draw: ImageDraw.ImageDraw, rng: Generator, place: Array, angle: float, size: float, colour: Array) -> None:
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.43 * size + rng.normal(0, 0.05 * size, (4, 2))
    turned = corners @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    for shift, light in ((0.6, 0.6), (-0.5, 1.25), (0, 1)):
        tone = tuple(int(v) for v in np.clip(colour * light, 0, 1) * 255)
        draw.polygon(((turned + place + shift) * FINE).ravel().tolist(), fill=tone)


def woodcut_valley() -> Image.Image:
    """Paint a valley under a low sun as a woodcut: black lines of varying width over red and ochre."""
    rng = default_rng(1914)
    x, y = _grid()
    wobble = _noise(rng, 60, octaves=2)
    dx, dy = x - 250, y - 190
    far = np.hypot(dx, dy)
    lines = far / 9 + 0.5 * wobble
    tone = 0.36 + far / 1500 + 0.1 * _noise(rng, 50, 4)
    colour = _ramp(far / 560 + 0.05 * _noise(rng, 9), "fbe3a0 f6bd5a e88a3a d4552f a8322f")
    inside = _step(62 - far, 2)
    tone, colour = tone * (1 - inside), _mix(colour, _palette("d3301f")[0], inside)
    hills = (
        (300, 46, 0.9, 0.62, "8a4a3a b5673a"),
        (375, 34, -0.7, 0.55, "5a6a4a a08a3a"),
        (455, 22, 0.25, 0.45, "c98a2f e8b84a"),
    )
    for base, rise, lean, shade, tones in hills:
        ridge = base + rise * np.sin(x / 97 + base) + 0.4 * rise * np.sin(x / 41 + 1.7 * base)
        below = y > ridge + 1.2 * wobble
        depth = y - ridge
        lines = np.where(below, (depth + lean * x + 14 * np.sin(x / 60 + depth / 50)) / 8.5 + 0.45 * wobble, lines)
        tone = np.where(below, shade + 0.28 * np.sin(x / 70 + depth / 45 + base) - 0.15 * np.exp(-depth / 9), tone)
        tone = np.where(np.abs(depth) < 2.4, 1.4, tone)
        colour = np.where(below[..., None], _ramp(0.5 + 0.3 * _noise(rng, 30, 3), tones), colour)
    cut = 0.5 + 0.5 * np.cos(2 * np.pi * lines) - 1 + tone + 0.06 * _noise(rng, 2, 3)
    grain = _along(_noise(rng, 1.5, 2), 0.12 * _noise(rng, 90, 3), 4)
    black = _step(cut, 0.22) * _step(1.9 - grain, 0.8)
    paper = _palette("f4e6c6")[0] * (1 + 0.03 * _noise(rng, 2)[..., None])
    picture = _mix(paper, colour * (1 + 0.05 * grain[..., None]), 0.93 - 0.12 * np.maximum(grain, 0))
    picture = _mix(picture, _palette("17120f")[0] * (1 + 0.25 * _noise(rng, 4))[..., None], 0.95 * black)
    return _finish(picture, rng, 0.02)
