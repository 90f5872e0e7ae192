"""Files that one process of a machine makes for the others, and for later starts."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from smartfast.core.caches import CACHE_VARIABLE, default_cache_dir


def kept_file(place: str, suffix: str) -> Path:
    """Where what is known of the data set at `place`, an absolute path or an address, is kept."""
    stem = "".join(letter if letter.isalnum() else "-" for letter in place.rpartition("/")[2])[:40]
    return default_cache_dir() / "index" / f"{stem}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:16]}{suffix}"


@contextmanager
def made_by_one_process(path: Path, otherwise: str) -> Iterator[bool]:
    """Waits while another process makes the file `path`; no other one does while the body runs.

    Args:
        path: The file. The lock, a file beside it, ends with the process that holds it.
        otherwise: What every process does where there can be no lock; for the warning, which is all that it costs.

    Yields:
        Whether the file can be written.
    """
    lock, problem = FileLock(path.with_name(f"{path.name}.lock")), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        problem = error
        remedy = f"every process {otherwise} at every start, unless {CACHE_VARIABLE} names another folder"
        warnings.warn(f"{path.parent} cannot be used ({error}): {remedy}", stacklevel=4)
    try:
        yield not isinstance(problem, OSError)
    finally:
        lock.release()  # nothing happens if it is not held
