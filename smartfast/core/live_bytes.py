"""The memory that tensors take while a computation runs, counted operation by operation, on any device and on none."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts what operations make while it is on, of fake tensors too where it is entered within their mode.

    What an operation takes for itself and frees before it returns is not seen, nor what existed before.

    Attributes:
        peak_bytes: The most that lived at a time, just after an operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}  # a weak reference keeps the address from another's use

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            old = {storage._cdata for storage in _storages((args, kwargs))}
            for storage in _storages(made):
                if storage._cdata not in old:
                    self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
            self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._live.values()))
        return made


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor))
