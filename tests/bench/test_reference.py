"""The published run: its losses, and its first hundred iterations on its own pair of pictures."""

import hashlib
import itertools
from types import SimpleNamespace

import pytest

from bench import reference
from core.errors import InputError
from core.images import codec, geometry, preprocessing
from core.presets import PRESETS
from core.timings import Timings
from core.transfer.stylize import stylize


def step(iteration, style, content, total):
    losses = SimpleNamespace(style=style, content=content, total=total, total_variation=0.0)
    return SimpleNamespace(iteration=iteration, losses=losses)


def test_the_published_rows():
    assert tuple(reference.PUBLISHED) == tuple(range(0, 1000, 100))
    for iteration, (style, content, total) in reference.PUBLISHED.items():
        if iteration != 600:  # row 600 does not add up as published
            assert style + content == pytest.approx(total, rel=2e-4)
    style, content, total = reference.PUBLISHED[600]
    assert style + content - 1e5 == pytest.approx(total, rel=1e-4)
    totals = [total for _, _, total in reference.PUBLISHED.values()]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", (0,)), ("0,100", (0, 100)), ("900,0,300", (0, 300, 900)), (" 100 , 0 ", (0, 100)), ("200,200", (200,))],
)
def test_parse_rows(text, expected):
    assert reference.parse_rows(text) == expected


@pytest.mark.parametrize("text", ["", ",", "0,", "all", "1e2", "0;100", "100.0", "-1"])
def test_rows_without_a_list_of_iterations_are_refused(text):
    with pytest.raises(InputError) as caught:
        reference.parse_rows(text)
    assert str(caught.value) == f"--rows {text} is no list of iterations such as 0,100."


@pytest.mark.parametrize(("text", "unknown"), [("0,150", 150), ("1000", 1000), ("-100,0", -100), ("0,50,77", 50)])
def test_unpublished_rows_are_refused(text, unknown):
    with pytest.raises(InputError) as caught:
        reference.parse_rows(text)
    assert str(caught.value) == (
        f"--rows {text}: row {unknown} was not published; choose from 0,100,200,300,400,500,600,700,800,900."
    )


def test_rows_compares_with_the_published_losses():
    steps = [step(0, 5.7769e08, 0.0, 5.8346690e08), step(1, 1.0, 1.0, 2.0), step(100, 1.6871e07, 1.434510e06, 1.0)]
    first, second = reference.rows(iter(steps), (100, 0, 200))
    assert (first.iteration, second.iteration) == (0, 100)
    assert first.ours == {"style": 5.7769e08, "content": 0.0, "total": 5.8346690e08}
    assert first.published == {"style": 5.7769e08, "content": 0.0, "total": 5.7769e08}
    assert first.deviation_percent == {"style": 0.0, "content": None, "total": pytest.approx(1.0)}
    assert second.deviation_percent["content"] == pytest.approx(-10.0)
    assert second.deviation_percent["total"] == pytest.approx(-100.0, abs=1e-4)
    assert second.as_json() == {
        "iteration": 100,
        "style": 1.6871e07,
        "content": 1.434510e06,
        "total": 1.0,
        "published_style": 1.6871e07,
        "published_content": 1.5939e06,
        "published_total": 1.8465e07,
        "deviation_percent": second.deviation_percent,
    }


def test_rows_are_yielded_as_soon_as_their_step():
    asked = []

    def steps():
        for iteration in (0, 50, 100):
            asked.append(iteration)
            yield step(iteration, 1.0, 1.0, 2.0)

    found = reference.rows(steps(), (0, 100))
    next(found)
    assert asked == [0]


def test_the_reference_pair_is_the_published_pair(reference_pair):
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in reference_pair]
    assert hashes == list(reference.PAIR.values())


def test_the_first_row_of_the_published_run(engine, reference_pair):
    settings = PRESETS["reference"].settings()
    content, style = (
        preprocessing.to_network(geometry.resize(codec.read_image(path), settings.size)) for path in reference_pair
    )
    objective, _ = engine.objective(content, style, settings)
    (row,) = itertools.islice(reference.rows(stylize(objective, content, settings), (0,)), 1)
    assert abs(row.deviation_percent["total"]) < 1
    assert abs(row.deviation_percent["style"]) < 2.5


@pytest.mark.published
@pytest.mark.timeout(1200)  # 101 evaluations at 512 × 384
def test_the_first_rows_of_the_published_run(engine, reference_pair):
    settings = PRESETS["reference"].settings()
    content, style = (
        preprocessing.to_network(geometry.resize(codec.read_image(path), settings.size)) for path in reference_pair
    )
    assert content.shape == (1, 384, 512, 3)
    objective, _ = engine.objective(content, style, settings, Timings())
    steps = stylize(objective, content, settings)
    found = []
    for row in reference.rows(steps, (0, 100)):
        found.append(row)
        if row.iteration == 100:
            steps.close()
            break
    start, hundredth = found
    assert (start.iteration, hundredth.iteration) == (0, 100)
    assert start.ours["content"] == 0 and start.deviation_percent["content"] is None
    assert abs(start.deviation_percent["total"]) < 1
    assert abs(start.deviation_percent["style"]) < 2.5
    assert abs(hundredth.deviation_percent["total"]) < 1
    assert abs(hundredth.deviation_percent["style"]) < 2.5
    assert abs(hundredth.deviation_percent["content"]) < 2.5
