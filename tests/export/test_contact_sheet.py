"""Contact sheets: their rows and columns, and when there is no table."""

import itertools
from datetime import UTC, datetime

import pytest

from core.presets import choose
from core.runs.record import RunRecord
from export import contact_sheet


def record(content="chelsea", style="waves", preset="draft", **changes):
    return RunRecord(
        id="20260101-000000-run",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        status="done",
        preset=preset,
        settings=choose(preset, **changes),
        content=content,
        styles=[{"name": style}],
        shape=(48, 64),
    )


def product(contents=("a",), styles=("x",), presets=("draft",), **values):
    settings = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    return [
        record(content, style, preset, size=64, **changes)
        for content in contents
        for style in styles
        for preset in presets
        for changes in settings
    ]


def test_photos_are_rows_and_paintings_columns_and_each_preset_has_a_table():
    records = product("abc", "xyz", ("draft", "fast"))
    first, second = contact_sheet.sheets(records)
    assert (first.title, second.title) == ("Preset draft", "Preset fast")
    assert (first.row, first.rows, first.column, first.columns) == ("Photo", ("a", "b", "c"), "Painting", tuple("xyz"))
    for table, preset in ((first, "draft"), (second, "fast")):
        for row, column in itertools.product("abc", "xyz"):
            (number,) = table.at(row, column)
            found = records[number]
            assert (found.content, found.style, found.preset) == (row, column, preset)
        assert records[table.first_of_row("b")].content == "b"
        assert records[table.first_of_column("z")].style == "z"


def test_swept_settings_are_named_with_their_units():
    records = product(style_weight=(1.0, 10.0), stages=(1,), frame_every=(5, 7))
    (table,) = contact_sheet.sheets(records)
    assert (table.row, table.rows) == ("Keep a picture every", ("5 iterations", "7 iterations"))
    assert (table.column, table.columns) == ("Style weight", ("1", "10"))
    assert table.at("7 iterations", "1") == [1] and table.title == ""
    assert contact_sheet.captions(records)[1] == "Keep a picture every 7 iterations, Style weight 1"


def test_the_value_of_the_preset_is_also_a_row_of_a_sweep():
    usual = choose("draft").style_weight
    records = product(style_weight=(usual, 7.0), seed=(0, 1))
    (table,) = contact_sheet.sheets(records)
    assert {table.row: table.rows, table.column: table.columns} == {
        "Seed": ("0", "1"), "Style weight": (f"{usual:g}", "7")
    }  # fmt: skip


def test_a_setting_that_depends_only_on_the_preset_makes_no_separate_table():
    records = [
        record(content, preset=preset, size=size) for content in "ab" for preset, size in (("draft", 64), ("fast", 96))
    ]
    (table,) = contact_sheet.sheets(records)
    assert (table.row, table.column) == ("Photo", "Preset")
    assert contact_sheet.captions(records)[0] == "a, Preset draft, Size 64 px"


def test_a_wide_table_is_transposed():
    (table,) = contact_sheet.sheets(product("ab", "qrstuvw"))
    assert (table.row, table.column) == ("Painting", "Photo")
    (table,) = contact_sheet.sheets(product("abcdefg", "qrstuvw"))
    assert (table.row, table.column) == ("Photo", "Painting")


@pytest.mark.parametrize(
    "records",
    [
        product("a", "xyz"),
        product("a"),
        [record("a"), record("a")],
        [record(content, style) for content, style in ("ax", "by", "cz", "ay")],
        [],
    ],
)
def test_runs_with_too_little_in_common_have_no_table(records):
    assert contact_sheet.sheets(records) == []
    assert len(contact_sheet.captions(records)) == len(records)


def test_equal_runs_share_a_cell():
    records = product("ab", "xy")
    (table,) = contact_sheet.sheets([*records, records[0]])
    assert table.at("a", "x") == [0, 4]


def test_captions_fall_back_to_the_title_and_are_legible():
    assert contact_sheet.captions([record("a\u202eb")]) == ["a\ufffdb × waves"]
    assert contact_sheet.captions(product("a", ("x\u202e", "y"))) == ["x\ufffd", "y"]


def test_unknown_presets_are_shown_by_name():
    records = [record().model_copy(update={"preset": preset}) for preset in ("oil", "chalk")]
    assert contact_sheet.captions(records) == ["Preset oil", "Preset chalk"]
