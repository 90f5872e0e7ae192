"""What all tests of the data share."""

import pytest


@pytest.fixture(autouse=True)
def _own_cache(own_cache: None) -> None:
    """Indexes and decoded images of one test are not found by another."""
