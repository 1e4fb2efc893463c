"""What the tests of the page share."""

import pytest

from core import preview
from core.errors import StudioError


@pytest.fixture(scope="session")
def network(home):
    """The preview's network, fetched at the first run of the tests."""
    try:
        return preview.obtain()
    except StudioError as error:
        pytest.skip(str(error))
