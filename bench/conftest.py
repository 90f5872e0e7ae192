"""`pytest bench`: the suites under pytest-benchmark, as trials unless --full is given."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

if "bench" not in sys.modules:  # not installed, and the repository root is not on sys.path
    _folder = Path(__file__).parent
    _spec = spec_from_file_location("bench", _folder / "__init__.py", submodule_search_locations=[str(_folder)])
    assert _spec is not None and _spec.loader is not None
    sys.modules["bench"] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["bench"])


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--bench-device", help="where to measure; default: a GPU where there is one")
    group.addoption("--bench-config", nargs="+", default=[], help="presets; default: the suites'")
    group.addoption("--full", action="store_true", help="full sizes, into bench/results, instead of trials")
