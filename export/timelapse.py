"""Time lapses: the intermediate pictures and the result of a run as an animated WebP."""

import io

from core.errors import InputError
from core.images import codec
from core.runs.run import Run
from core.settings import SETTINGS

FRAMES = 120  # at most; from more, evenly spaced frames are kept
FRAME_MILLISECONDS = 120
LAST_MILLISECONDS = 2000
QUALITY = 82


def animate(run: Run, longest: int | None = None) -> bytes:
    """Return the time lapse as the bytes of a file, its longer side at most `longest` px.

    Raises:
        InputError: If the run has no intermediate pictures.
    """
    pictures = [path for _, path in run.frames()]
    if not pictures:
        raise InputError(f"The run {run.id} has no intermediate pictures for a time lapse.")
    pictures = pictures[:: -(-len(pictures) // FRAMES)]
    if run.result.is_file():
        pictures.append(run.result)
    side = longest or int(SETTINGS["size"].maximum or 0)
    first, *others = (codec.shrunk(path, side) for path in pictures)
    film = io.BytesIO()
    first.save(
        film,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=[FRAME_MILLISECONDS] * len(others) + [LAST_MILLISECONDS],
        loop=0,
        quality=QUALITY,
        method=2,
    )
    return film.getvalue()
