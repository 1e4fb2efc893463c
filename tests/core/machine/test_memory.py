"""Checks before a run that memory and disk suffice, with a message that names the size that fits."""

import math
import re
from collections import namedtuple

import psutil
import pytest

from core.errors import InputError
from core.images.geometry import resized_shape
from core.jobs import execution
from core.jobs.slots import Slot
from core.machine import hardware
from core.machine.memory import (
    BASE_BYTES,
    BYTES_PER_PIXEL,
    _left_to_the_container,
    _needed,
    available_memory,
    check,
    estimate,
    shutil,
    tile_sides,
)
from core.machine.processes import ProcessId
from core.presets import choose
from core.runs import recovery, store
from core.runs.spec import RunSpec, Style
from core.settings import TransferSettings

PLENTY = 1e15


@pytest.fixture
def machine(own_home, monkeypatch):
    """Return a function that sets the bytes of memory, GPU memory and disk."""

    def has(memory=PLENTY, disk=PLENTY, card=PLENTY):
        monkeypatch.setattr(hardware, "free_card_memory", lambda: card)
        monkeypatch.setattr("core.machine.memory.available_memory", lambda: memory)
        usage = namedtuple("Usage", "free")(disk)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)

    return has


def refusal(settings, shape, **more):
    with pytest.raises(InputError) as caught:
        check(settings, shape, **more)
    return str(caught.value)


def tile_side(settings, shape, **more):
    return tile_sides(settings, shape, [shape], **more)[0]


def test_a_run_that_fits_is_not_refused(machine):
    machine(memory=2e9, disk=2e9)
    for preset in ("draft", "fast", "reference"):
        settings = choose(preset)
        check(settings, (settings.size * 3 // 4, settings.size))


@pytest.mark.parametrize("optimizer", ["adam", "l-bfgs"])
@pytest.mark.parametrize(
    ("short_of", "told", "remedy"),
    [
        ("memory", "memory", "close other programs"),
        ("card", "memory on the GPU", "end what else uses it"),
        ("disk", "disk space", "free space in /.*"),
    ],
)
@pytest.mark.parametrize("shape", [(7500, 10_000), (10_000, 3333)])
def test_the_size_in_the_message_fits_and_the_next_larger_does_not(machine, optimizer, short_of, told, remedy, shape):
    machine(**{short_of: 4e9})
    on_gpu = short_of == "card"
    settings = TransferSettings(size=10_000, optimizer=optimizer, history=100, frame_every=1)
    said = refusal(settings, shape, on_gpu=on_gpu)
    needs = rf"A run of {shape[1]} × {shape[0]} pixels needs about [0-9.]+ GB of {told}, and 4\.0 GB are available: "
    found = re.fullmatch(rf"{needs}choose (\d+) px or less, or {remedy}\.", said)
    fits = int(found[1])
    assert fits % 16 == 0
    check(settings, resized_shape(shape[1], shape[0], fits), on_gpu=on_gpu)
    refusal(settings, resized_shape(shape[1], shape[0], fits + 16), on_gpu=on_gpu)


def test_memory_that_other_runs_will_take_is_not_available(machine):
    machine(memory=5e9)
    settings, shape = choose("draft", size=1024), (768, 1024)
    assert 3e9 < estimate(settings, shape) < 4e9
    check(settings, shape, still_to_be_taken=1e9)
    assert tile_side(settings, shape, still_to_be_taken=1e9) is None
    assert tile_side(settings, shape, still_to_be_taken=2e9) is not None
    assert "and 1.1 GB are available" in refusal(settings, shape, still_to_be_taken=3.9e9)
    assert "and 0 MB are available" in refusal(settings, shape, still_to_be_taken=9e9)


def test_other_runs_will_take_their_need_minus_what_they_hold(own_home, new_run):
    """This counts every running run except the one that asks."""
    asks, small, large = (new_run() for _ in range(3))
    for run, shape in ((asks, (3072, 4096)), (small, (48, 64)), (large, (3072, 4096))):
        run.change(status="running", shape=shape)
    held = psutil.Process().memory_info().rss
    with Slot(0).occupied_by(asks):
        assert execution._memory_of_other_runs(asks) == 0
    with Slot(0).occupied_by(large):
        record = large.record()
        expected = estimate(record.settings, record.shape) - held
        assert execution._memory_of_other_runs(asks) == pytest.approx(expected, abs=1e8)
    small.change(writer=ProcessId(pid=2**22 + 1))
    with Slot(0).occupied_by(small):
        assert execution._memory_of_other_runs(asks) == 0


def test_tiles_are_as_large_as_memory_allows(machine):
    """There are no tiles if the whole picture fits; every size can be computed with the smallest tiles."""
    settings, shape, sides = TransferSettings(size=4096), (3072, 4096), []
    for gigabytes in (100, 16, 8, 6, 5, 4.2):
        machine(memory=gigabytes * 1e9)
        sides.append(tile_side(settings, shape))
        check(settings, shape)
        assert sides[-1] is None or _needed(settings, shape, sides[-1]) <= gigabytes * 1e9
    assert sides[0] is None and sides[1:] == sorted(sides[1:], reverse=True) and len(set(sides[1:])) > 2
    assert tile_side(settings.changed(memory=6), shape) == tile_side(settings, shape)  # 4.2 GB are available


def test_a_picture_that_fits_whole_is_not_refused_for_the_need_of_its_tiles(machine):
    """The border of a tile covers most of a small picture."""
    settings, shape = TransferSettings(size=384), (384, 384)
    whole, tiles = (_needed(settings, shape, side) for side in (384, 256))
    machine(memory=(whole + tiles) / 2)
    assert whole < tiles
    check(settings, shape)
    assert tile_side(settings, shape) is None


def test_the_memory_setting_limits_the_memory(machine):
    machine(memory=100e9)
    settings, shape = TransferSettings(size=4096), (3072, 4096)
    assert tile_side(settings, shape) is None
    side = tile_side(settings.changed(memory=6.0), shape)
    assert side is not None and _needed(settings, shape, side) <= 6e9
    said = refusal(settings.changed(memory=2.0), shape)  # other programs are not the reason
    found = re.fullmatch(
        r"A run of .* memory, and the setting memory allows 2\.0 GB: choose (\d+) px or less, or .*", said
    )
    assert said.endswith(" or less, or allow more.")
    check(settings.changed(memory=2.0), resized_shape(4096, 3072, int(found[1])))
    check(settings.changed(memory=6.0), shape)


def test_a_longer_history_needs_more_memory(machine):
    shape = (1536, 2048)
    machine(memory=BASE_BYTES + 1.5 * BYTES_PER_PIXEL * math.prod(shape))
    check(TransferSettings(size=2048, optimizer="l-bfgs", history=10), shape)
    assert "of memory" in refusal(TransferSettings(size=2048, optimizer="l-bfgs", history=100), shape)
    check(TransferSettings(size=2048, optimizer="l-bfgs", history=100, iterations=5), shape)  # five steps


def test_a_painting_needs_no_optimizer_history(machine):
    shape = (1536, 2048)
    machine(memory=BASE_BYTES + 1.1 * BYTES_PER_PIXEL * math.prod(shape))
    settings = TransferSettings(size=2048, optimizer="l-bfgs", history=50)
    side, of_paintings = tile_sides(settings, shape, [(64, 64), shape])
    assert side is not None and of_paintings is None
    side, of_paintings = tile_sides(settings, shape, [shape, (3072, 4096)])
    assert side is not None and of_paintings is not None


@pytest.mark.parametrize(
    ("changes", "masks", "bytes_per_pixel"),
    [
        ({"content_layers": ("block1_conv1",)}, 0, 4 * 64 - 8),  # minus the default layer
        ({"content_layers": ("block5_conv2", "block2_conv1")}, 0, 4 * 128 / 4),
        ({"style_scale": 4.0}, 0, 36 * 15),
        (
            {},
            3,
            4 * 4 * 3,
        ),  # at least: masks, guides and activations of the first layer, for three regions and the rest
        ({"style_scale": 0.5}, 0, 0),
    ],
)
def test_full_size_pictures_count_in_tiles_too(changes, masks, bytes_per_pixel):
    shape, usual = (3072, 4096), TransferSettings(size=4096)
    for side in (4096, 512):
        more = _needed(usual.changed(**changes), shape, side, masks) - _needed(usual, shape, side)
        assert more >= 0.9 * bytes_per_pixel * math.prod(shape)  # an earlier layer needs a smaller border
        assert more > 0 or not bytes_per_pixel


def test_the_message_names_no_size_if_none_fits(machine):
    machine(memory=1e9)
    assert refusal(choose("draft"), (192, 256)).endswith("and 1.0 GB are available: close other programs.")


def test_the_machine_s_memory_does_not_count_on_a_gpu(machine):
    machine(memory=1e9)
    check(choose("draft"), (192, 256), on_gpu=True)


def test_unknown_gpu_memory_refuses_no_run(machine):
    machine(card=None)
    check(choose("draft", size=4096), (3072, 4096), on_gpu=True)


def test_gpu_memory_does_not_count_on_a_cpu(machine):
    machine(card=0.0)
    check(choose("draft"), (192, 256))


def test_a_run_too_large_for_the_gpu_fails_before_loading(machine, new_run, monkeypatch):
    machine(card=1e9)
    monkeypatch.setattr(hardware, "cards", lambda: ("0",))
    run, loaded = new_run(), []
    with pytest.raises(InputError, match="GB of memory on the GPU"):
        next(execution.perform(run, lambda *_: loaded.append("engine")))
    assert (run.record().status, loaded) == ("failed", [])


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, version):
    monkeypatch.setattr("core.machine.memory.CGROUP", tmp_path)
    own = psutil.Process().memory_info().rss
    assert available_memory() > own + 10e6  # no limit
    folder, (limit, used, files) = {
        1: (tmp_path / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
        2: (tmp_path, ("memory.max", "memory.current", "inactive_file")),
    }[version]
    folder.mkdir(exist_ok=True)
    (folder / limit).write_text("9000000\n")
    (folder / used).write_text("7000000\n")
    (folder / "memory.stat").write_text(f"anon 5000000\n{files} 1000000\n")
    assert abs(available_memory() - own - 3e6) < 50e6
    assert _left_to_the_container() == 3e6
    (folder / limit).write_text("max\n")
    assert _left_to_the_container() == math.inf


def test_a_run_too_large_for_memory_fails_before_loading(machine, new_run):
    machine(memory=1e9)
    run, loaded = new_run(), []
    with pytest.raises(InputError, match="GB of memory"):
        next(execution.perform(run, lambda *_: loaded.append("engine")))
    assert (run.record().status, loaded) == ("failed", []) and "GB of memory" in run.record().message
    machine()
    recovery.resume(run)  # memory suffices now
    assert run.record().status == "queued"


@pytest.fixture
def new_run():
    from PIL import Image

    def make():
        picture = Image.new("RGB", (80, 64))
        return store.create(RunSpec([Style("painting", picture)], choose("draft", size=64), "draft"), picture, "photo")

    return make
