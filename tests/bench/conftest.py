"""Makes `bench`, which is not installed, importable without the repository root on sys.path."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parents[2]

if "bench" not in sys.modules:
    folder = ROOT / "bench"
    spec = spec_from_file_location("bench", folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules["bench"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["bench"])
