"""Texts for the pages."""

import pytest

from dashboard.common.text import duration, plain


def test_plain_escapes_markdown():
    assert plain("my *b* $x^2$ :red[r]") == r"my \*b\* \$x\^2\$ \:red\[r\]"
    assert plain("Grüße vom Meer") == "Grüße vom Meer"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (150, "2 min"), (5399, "90 min"), (7200, "2.0 h")]
)
def test_duration(seconds, said):
    assert duration(seconds) == said
