"""What people and files call things, made safe to show and to keep: on a page, on a terminal, in a report."""

import re
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 200  # characters
SEPARATOR = " + "  # between the names of a run's styles

# control characters, those that turn the direction of what follows, and what XML and JSON cannot hold
_ILLEGIBLE = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u061b\u061d-\u200d\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd"
    "\U00010000-\U0010ffff]"
)


def legible(text: str) -> str:
    """The text with a replacement character for each that cannot be shown, or shows something else than it is."""
    return _ILLEGIBLE.sub("\ufffd", text)


def as_name(text: str) -> str:
    """The text as a name: legible, on one line and no longer than LONGEST."""
    name = re.sub(r"[\t\n\r]", " ", legible(text))
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


Name = Annotated[str, AfterValidator(as_name)]
