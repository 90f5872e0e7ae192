"""Shared by the tests of the commands."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _without_plots(without_plots: None) -> None:
    """tests/report draws them."""
