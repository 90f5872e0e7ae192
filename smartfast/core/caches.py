"""Where SmartFast keeps what later runs can use again."""

import os
import sys
from pathlib import Path

from smartfast.core.files import user_path

CACHE_VARIABLE = "SMARTFAST_CACHE"


def default_cache_dir() -> Path:
    """$SMARTFAST_CACHE, or the folder "smartfast" where this platform keeps a user's caches."""
    if os.environ.get(CACHE_VARIABLE):
        return user_path(os.environ[CACHE_VARIABLE], CACHE_VARIABLE)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "smartfast"
