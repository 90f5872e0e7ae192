"""Snapshots that are written while training goes on: a copy of tensors, and the thread that writes it."""

import concurrent.futures
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.families.saved import some_vectors
from smartfast.kernels import switched_off
from smartfast.run.training import Training

_VERSIONS = ("smartfast", "torch", "diffusers", "accelerate", "torch-fidelity")


def copy_to_host(tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Copy tensors as they are at this point of the device's work, without waiting for the device.

    Args:
        tensors: On the CPU, or on it and one GPU.

    Returns:
        A function that any thread may call, once, for the contiguous copies in main memory. From a GPU it fetches them
        on a stream of its own into pinned memory and gives the GPU's memory back; it waits for that, the loop need not.
    """
    try:
        copies = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    except torch.OutOfMemoryError:
        warnings.warn(
            "snapshot: the GPU has no room for a copy of the state; training waits for the copy", stacklevel=2
        )
        copies = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    device = next((value.device for value in copies.values() if value.is_cuda), None)
    if device is None:
        return lambda: copies
    copied = torch.cuda.current_stream(device).record_event()

    def fetch() -> dict[str, Tensor]:
        fetched = torch.cuda.Event(blocking=True)  # the waiting thread sleeps
        with torch.cuda.stream(torch.cuda.Stream(device)):
            copied.wait()
            host = {name: _to_pinned(value) for name, value in copies.items()}
            fetched.record()
        fetched.synchronize()
        copies.clear()
        return host

    return fetch


def _use_one_thread() -> None:
    """OpenMP keeps a team of threads for every thread that computes; a second team slows training's down for good."""
    torch.set_num_threads(1)


def _to_pinned(value: Tensor) -> Tensor:
    try:
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    except RuntimeError:  # not enough memory that can be pinned: slower from any other
        host = torch.empty(value.shape, dtype=value.dtype)
    return host.copy_(value, non_blocking=host.is_pinned())


def checkpoint_options(training: Training, dataset: ImageDataset) -> dict[str, Any]:
    """What a checkpoint of this moment says beside its tensors: arguments of `save_checkpoint`."""
    device = training.device
    return dict(
        images=training.images,
        generator_options={"family": training.family.name, **training.family.options()},
        info={
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
            "switched_off": switched_off(),
            "phases": [{"name": spec.name, "replaces": spec.replaces} for spec in training.specs],
            "dataset": {
                "name": dataset.name,
                "images": len(dataset),
                "fingerprint": dataset.fingerprint,
                "class_names": dataset.class_names,
                "label_vectors": some_vectors(dataset.labels),
            },
            "scorer": None if training.scorer is None else training.scorer.fingerprint,
        },
    )


class SnapshotWriter:
    """Writes snapshots one after another in a thread of its own, at most one at a time.

    It is a context manager: leaving it waits for the snapshot in flight, whatever the reason for leaving is.

    Args:
        check_owner: Called before a write, and where one has failed; raises UserError where the folder has become
            another's or is gone, which then is what the snapshot failed of.
    """

    def __init__(self, check_owner: Callable[[], None] = lambda: None) -> None:
        self._check_owner = check_owner
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot", initializer=_use_one_thread)
        self._writing: Future[None] | None = None
        self._what = ""

    def __enter__(self) -> "SnapshotWriter":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except UserError as failure:
            # Who asked to stop must not believe that all is saved; what else could not be written has the same cause.
            if error is None or isinstance(error, KeyboardInterrupt | OSError):
                raise
            if str(failure) != str(error):  # what ends the run already is the error to raise
                warnings.warn(str(failure), stacklevel=2)
        finally:
            self._thread.shutdown()

    def submit(self, what: str, write: Callable[[], None]) -> None:
        """Have `write` called after the snapshot in flight, for which this waits; raises as `wait`.

        Args:
            what: Names the snapshot in an error.
            write: Must not touch what training changes.
        """
        self.wait()
        self._what, self._writing = what, self._thread.submit(self._write, write)

    def _write(self, write: Callable[[], None]) -> None:
        self._check_owner()
        try:
            write()
        except (OSError, SafetensorError):
            self._check_owner()
            raise

    def check(self) -> None:
        """Raise as `wait` if the last snapshot has failed by now; waits for nothing."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the snapshot in flight, if there is one.

        Raises:
            UserError: It could not be written; said once.
        """
        if self._writing is None:
            return
        concurrent.futures.wait([self._writing])
        written, self._writing = self._writing, None
        try:
            written.result()
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._what} could not be written ({reason}), expected a folder with room that can be written; "
                "earlier checkpoints are intact"
            ) from error
