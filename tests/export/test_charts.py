"""Charts: their contents, and their SVG on light and dark pages."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from contrast import contrast

from core.presets import choose
from core.runs.record import Steering
from core.runs.run import METRICS
from export import charts
from export.charts import COLOURS, CURVES, GREY, POINTS, ROWS, SVG_WIDTH

LAYERS = ("block1_conv1", "block5_conv1")
SVG = "{http://www.w3.org/2000/svg}"


def metrics(rows=20, factor=1.0):
    iteration = np.arange(rows)
    total = factor * 1e6 / (1 + iteration)
    columns = [iteration, iteration + 1, 0.5 * (1 + iteration), total, 0.75 * total, 0.25 * total, 0 * total]
    layers = {name: total / (2 + place) for place, name in enumerate(LAYERS)}
    return pd.DataFrame(dict(zip(METRICS, columns, strict=True)) | layers)


def drawn(chart):
    """Return the rows of a chart without layers."""
    specification = chart.to_dict()
    return pd.DataFrame(specification["datasets"][specification["data"]["name"]])


def elements(text):
    return list(ElementTree.fromstring(text).iter())


def words(text):
    return {element.text for element in elements(text) if element.tag == f"{SVG}text"}


@pytest.mark.parametrize("page", ["#ffffff", "#0f1317", "#0e1117"])  # the two of the reports, and Streamlit's dark page
@pytest.mark.parametrize("colour", [*COLOURS, GREY])
def test_every_curve_stands_out_from_a_light_and_a_dark_page(colour, page):
    assert contrast(colour, page) >= 3


def test_losses_without_a_logarithm_are_not_drawn():
    given = metrics(5)
    given.loc[0, "content"] = 0.0
    given.loc[1, "total"] = np.nan
    given.loc[2, "total"] = np.inf
    rows = drawn(charts.loss_curves(given))
    assert {name: list(rows[rows["curve"] == name]["iteration"]) for name in CURVES.values()} == {
        "Total": [0, 3, 4],
        "Style": [0, 1, 2, 3, 4],
        "Content": [1, 2, 3, 4],
    }
    np.testing.assert_allclose(rows[rows["curve"] == "Style"]["loss"], given["style"])


def test_steering_is_marked_where_it_happened():
    steering = [
        Steering(iteration=4, changes={"style_weight": 0.1}),
        Steering(iteration=9, changes={"content_weight": 100.0, "style_layer_weights": (1.0, 2.5)}),
        Steering(iteration=9, changes={"total_variation_weight": 3.0}),
        Steering(iteration=12, changes={"style_layer_weights": ()}),
    ]
    specification = charts.loss_curves(metrics(), steering).to_dict()
    kinds = [layer["mark"]["type"] for layer in specification["layer"]]
    assert kinds == ["line", "rule", "text"]
    rule = specification["layer"][1]
    assert rule["encoding"]["x"]["field"] == "iteration"
    assert "changed" in [field["field"] for field in rule["encoding"]["tooltip"]]
    assert specification["datasets"][rule["data"]["name"]] == [
        {"iteration": 4, "number": "1", "changed": "Style weight 0.1"},
        {
            "iteration": 9,
            "number": "2",
            "changed": "Content weight 100; Style layer weights 1, 2.5; Smoothness 3",
        },
        {"iteration": 12, "number": "3", "changed": "Style layer weights 1 each"},
    ]
    text = charts.svg(charts.loss_curves(metrics(), steering), "losses")
    assert {"Total", "Style", "Content", "1", "2", "3"} <= words(text)


def test_the_style_layers_shares():
    rows = drawn(charts.layer_curves(metrics(4)))
    assert list(dict.fromkeys(rows["curve"])) == list(LAYERS)
    np.testing.assert_allclose(rows[rows["curve"] == LAYERS[1]]["loss"], metrics(4)[LAYERS[1]])


@pytest.mark.parametrize("over", ["iteration", "seconds"])
def test_runs_are_compared(over):
    runs = {"two": metrics(10, 2.0), "one": metrics(20)}
    chart = charts.comparison(runs, over)
    rows = drawn(chart)
    for name, given in runs.items():
        np.testing.assert_allclose(rows[rows["curve"] == name][over], given[over])
        np.testing.assert_allclose(rows[rows["curve"] == name]["loss"], given["total"])
    encoding = chart.to_dict()["encoding"]
    assert encoding["y"]["scale"]["type"] == "log"
    assert encoding["color"]["scale"] == {"domain": ["two", "one"], "range": list(COLOURS[:2])}


@pytest.mark.parametrize("over", ["iteration", "seconds"])
def test_a_change_of_size_is_a_point_on_the_curve_of_its_run(over):
    runs = {"two": metrics(10, 2.0), "one": metrics(20)}
    chart = charts.comparison(runs, over, stages={"one": {0: "64 px", 5: "128 px", 15: "256 px"}, "two": {}})
    specification = chart.to_dict()
    lines, points = specification["layer"]
    rows = pd.DataFrame(specification["datasets"][points["data"]["name"]])
    assert list(rows["size"]) == ["128 px", "256 px"] and set(rows["curve"]) == {"one"}
    expected = metrics(20).set_index("iteration").loc[[5, 15]]
    np.testing.assert_allclose(rows["loss"], expected["total"])
    np.testing.assert_allclose(rows["seconds"], expected["seconds"])
    assert points["encoding"]["color"]["scale"] == lines["encoding"]["color"]["scale"]


def test_the_published_run_is_a_further_grey_curve():
    published = pd.DataFrame({"iteration": [0, 100], "total": [5e8, 2e7]})
    chart = charts.comparison({"ours": metrics()}, published=published)
    rows = drawn(chart)
    assert list(rows[rows["curve"] == "Published"]["loss"]) == [5e8, 2e7]
    assert chart.to_dict()["encoding"]["color"]["scale"]["range"] == [COLOURS[0], GREY]


def test_long_curves_are_thinned_and_keep_their_last_point():
    one = drawn(charts.comparison({"run": metrics(19_999)}))
    assert POINTS / 2 < len(one) <= POINTS + 1
    many = drawn(charts.comparison({f"Run {number}": metrics(1_999) for number in range(60)}))
    assert len(many) <= ROWS
    assert set(many.groupby("curve")["iteration"].max()) == {1_998}
    assert len(drawn(charts.layer_curves(metrics(19_999)))) <= ROWS


def test_runs_beyond_the_colours_differ_in_their_dashes():
    encoding = charts.comparison({f"Run {number}": metrics(3) for number in range(28)}).to_dict()["encoding"]
    pairs = zip(encoding["color"]["scale"]["range"], encoding["strokeDash"]["scale"]["range"], strict=True)
    assert len({(colour, str(dash)) for colour, dash in pairs}) == 28


def test_phases_of_one_and_of_several_runs():
    assert {"imports", "first step", "2.50"} <= words(
        charts.svg(charts.phases({"imports": 2.5, "first step": 1}), "one")
    )
    runs = {
        "one": {f"phase {number}": float(number) for number in range(1, 10)},
        "two": {"phase 9": 1.0, "phase 1": 0.5, "another": 20.0},
    }
    chart = charts.phases_of_runs(runs)
    rows = drawn(chart)
    assert dict(rows.groupby("run")["seconds"].sum()) == {name: sum(phases.values()) for name, phases in runs.items()}
    assert chart.to_dict()["encoding"]["color"]["scale"]["domain"] == [
        *(f"phase {number}" for number in range(5, 10)),
        "another",
        "all other phases",
    ]
    few = charts.phases_of_runs({"one": {"imports": 1.0}}).to_dict()["encoding"]["color"]["scale"]
    assert few == {"domain": ["imports"], "range": [COLOURS[0]]}


NAMES = [
    '"><script>alert(1)</script>',
    "a & b \x07",
    "url(https://example.org/x)",
    "{{ 7 * 7 }}",
    "日本 × Grüße",
    "a\u2028b",
]


@pytest.mark.parametrize("name", NAMES)
def test_an_svg_is_self_contained_for_any_name_of_a_run(name):
    shown = re.sub("[\x07\u2028]", "\ufffd", name)
    text = charts.svg(charts.comparison({name: metrics(), "other": metrics()}), f"Losses of {name}")
    root, *inner = elements(text)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img" and root.get("aria-label") == f"Losses of {shown}"
    width = float(root.get("viewBox").split()[2])
    assert width == pytest.approx(SVG_WIDTH, abs=10)
    assert shown in words(text)
    tags = {element.tag.removeprefix(SVG) for element in inner}
    assert tags <= {"g", "path", "line", "text", "rect"}
    names = {key for element in (root, *inner) for key in element.attrib}
    assert not {key for key in names if "href" in key or key.startswith("on")}
    for element in inner:
        assert "url(" not in " ".join(value for key, value in element.attrib.items() if key != "aria-label")


def test_an_svg_uses_the_text_colour_of_its_page_and_a_generic_font():
    text = charts.svg(charts.loss_curves(metrics(), [Steering(iteration=2, changes={"style_weight": 1.0})]), "losses")
    written = [element for element in elements(text) if element.tag == f"{SVG}text" and element.text]
    assert {element.get("fill") for element in written} == {"currentColor"}
    assert {element.get("font-family") for element in written} == {"sans-serif"}
    assert "white" not in re.findall(r'fill="(.*?)"', text)


def test_an_svg_is_the_same_for_the_same_run():
    first, second = (charts.svg(charts.loss_curves(metrics()), "losses") for _ in range(2))
    assert first == second


def test_a_change_of_size_is_marked_at_the_first_iteration_of_the_stage():
    settings = choose("reference", size=512, iterations=70, stages=3)
    marks = charts.stage_marks(settings, 70)
    assert marks == {0: "128 px", 41: "256 px", 61: "512 px"}  # stages end with iterations 40 and 60
    assert charts.stage_marks(settings, 50) == {0: "128 px", 41: "256 px"}  # the run has reached iteration 50
    assert charts.stage_marks(choose("reference"), 1000) == {}
    for draw in (charts.loss_curves, charts.layer_curves):
        assert "layer" not in draw(metrics(71)).to_dict()
        drawing = draw(metrics(71), stages=marks)
        assert [layer["mark"]["type"] for layer in drawing.to_dict()["layer"]] == ["line", "rule", "text"]
        assert set(marks.values()) <= words(charts.svg(drawing, "Losses"))
    both = charts.loss_curves(metrics(71), [Steering(iteration=4, changes={"style_weight": 0.1})], marks).to_dict()
    assert [layer["mark"]["type"] for layer in both["layer"]] == ["line", "rule", "text", "rule", "text"]
