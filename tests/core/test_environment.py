"""The environment variables: current values, clear errors, and documentation."""

import pytest

from core import paths
from core.environment import environment, table
from core.errors import InputError


@pytest.mark.parametrize(
    ("name", "must_be", "refused"),
    [
        ("workers", "a whole number from 1 to 64", ["0", "-1", "1.5", "two", " ", "²", "65", "9" * 5000]),
        ("ray_cpus", "a whole number from 1 to 9999", ["0", "-1", "1.5", "two", "²", "12345"]),
        ("metrics_port", "a whole number from 1 to 65535", ["0", "65536", "-1", "94.64", "http", "9" * 200]),
        ("worker_idle", "a number of seconds, 0 or more", ["abc", "-1", "nan", "inf"]),
        ("checkpoint_seconds", "a number of seconds, 0 or more", ["abc", "-1", "nan", "inf"]),
    ],
)
def test_an_invalid_value_raises_an_error_when_it_is_read(monkeypatch, own_home, name, must_be, refused):
    variable = f"NST_{name.upper()}"
    for value in refused:
        monkeypatch.setenv(variable, value)
        with pytest.raises(InputError) as caught:
            getattr(environment(), name)
        assert str(caught.value) == f"{variable} is {value[:80]!r}: it must be {must_be}, or not be set."
    assert paths.home() == own_home


def test_a_changed_variable_is_read_again(monkeypatch):
    monkeypatch.delenv("NST_CHECKPOINT_SECONDS", raising=False)
    read = [environment().checkpoint_seconds]
    for value in ("1", "0.5", ""):
        monkeypatch.setenv("NST_CHECKPOINT_SECONDS", value)
        read.append(environment().checkpoint_seconds)
    assert read == [None, 1, 0.5, None]


def test_the_docs_list_every_variable():
    assert f"\n{table()}\n" in (paths.CHECKOUT / "docs" / "operations.md").read_text(encoding="utf-8")
