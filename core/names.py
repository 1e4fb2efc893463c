"""Names from users and files, made safe to show and to store: on a page, on a terminal, in a report."""

import re
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 200  # characters
SEPARATOR = " + "  # between the names of a run's styles

# Control characters, characters that change the text direction, and characters that XML or JSON cannot contain
_ILLEGIBLE = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u061b\u061d-\u200d\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd"
    "\U00010000-\U0010ffff]"
)


def legible(text: str) -> str:
    """Return the text with U+FFFD in place of each character that is invisible, misleading or not allowed."""
    return _ILLEGIBLE.sub("\ufffd", text)


def as_name(text: str) -> str:
    """Make the text a name: legible, on one line, at most `LONGEST` characters long."""
    name = re.sub(r"[\t\n\r]", " ", legible(text))
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


Name = Annotated[str, AfterValidator(as_name)]
