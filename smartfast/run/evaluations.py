"""The evaluations of a run's averaged network: which are due, where they are computed, what is written of each."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather
from tqdm import tqdm

from smartfast.core.best import best_of, keep_best, link_files
from smartfast.core.checkpoint import checkpoint_folder, write_weights
from smartfast.core.distributed import processes_on_this_machine
from smartfast.data import ImageDataset
from smartfast.kernels import switched_off
from smartfast.metrics import MetricUnavailable, evaluate
from smartfast.metrics.names import computed_metrics, provenance
from smartfast.run.beside import EvaluationQueue, drop_evaluations
from smartfast.run.main_process import on_main_process
from smartfast.run.ticks import Ticks
from smartfast.run.training import Training

_LOOK_SEC = 1.0


class Evaluations:
    """Every process of a run has one, and calls the same of it. Leaving the context ends what is computed beside.

    Args:
        training: What is evaluated.
        dataset: Its images.
        accelerator: Processes and trackers.
        ticks: Say when one is due.
        log: Writes a row of metrics.jsonl, in the main process.
        last_kimg: Of the last evaluation of an earlier process, None without one.
    """

    def __init__(
        self,
        training: Training,
        dataset: ImageDataset,
        accelerator: Accelerator,
        ticks: Ticks,
        *,
        log: Callable[[dict[str, Any]], None],
        last_kimg: float | None,
    ) -> None:
        self._training, self._dataset, self._accelerator = training, dataset, accelerator
        self._ticks, self._log = ticks, log
        self._config, self._run_dir = training.config.metrics, Path(training.config.run.dir)
        self._queue: EvaluationQueue | None = None
        self._next_look_sec, self._processes = 0.0, processes_on_this_machine()
        if accelerator.is_main_process and self.are_beside:
            request = self._request()
            self._queue = EvaluationQueue(self._run_dir, images=training.images, request=request, say=tqdm.write)
        elif accelerator.is_main_process:
            drop_evaluations(self._run_dir, tqdm.write)
        last = -1 if last_kimg is None else round(last_kimg * 1000)
        self._done_images = on_main_process(accelerator, lambda: max(last, self._queue.newest if self._queue else -1))

    def __enter__(self) -> "Evaluations":
        return self

    def __exit__(self, *of_an_error: object) -> None:
        if self._queue is not None:
            self._queue.close()

    @property
    def are_wanted(self) -> bool:
        """Whether the run evaluates at all."""
        return self._config.every_ticks > 0

    @property
    def are_beside(self) -> bool:
        """Whether a process of its own computes them, while training goes on."""
        return self.are_wanted and self._config.where == "beside"

    @property
    def is_done(self) -> bool:
        """Whether this moment of the run is evaluated, or asked for."""
        return self._training.images == self._done_images

    @property
    def is_due(self) -> bool:
        """Whether this is the end of a tick with an evaluation, which is not done yet; the run's end is not asked."""
        return self._ticks.is_due(self._config.every_ticks) and not self.is_done and not self._ticks.is_last

    def evaluate(self) -> str:
        """Evaluate this moment, whose checkpoint is on the disk, where the run evaluates at all and has not done so.

        Returns:
            What there is to say of it.
        """
        if not self.are_wanted or self.is_done:
            return "this moment is evaluated already"
        if self.are_beside:
            self.to_begin()()
            return "a process of its own evaluates this moment"
        images = self._done_images = self._training.images
        try:
            values = evaluate(
                self._training.sampler(),
                self._dataset,
                self._config,
                device=self._training.device,
                process_index=self._accelerator.process_index,
                num_processes=self._accelerator.num_processes,
                gather=gather,
                progress=self._accelerator.is_main_process and sys.stderr.isatty(),
            )
        except MetricUnavailable as error:
            self._accelerator.print(f"metrics: {error}; training goes on without them")
            return f"not evaluated: {error}"
        if self._accelerator.is_main_process:
            self._write(images, values, checkpoint_folder(self._run_dir, images))
        self._accelerator.print(f"metrics {_in_words(values)}")
        return _in_words(values)

    def to_begin(self) -> Callable[[], None]:
        """What begins an evaluation of this moment beside training; any thread may call it, once it is saved."""
        images = self._done_images = self._training.images
        queue = self._queue
        if queue is None:
            return lambda: None
        checkpoint = checkpoint_folder(self._run_dir, images)
        request = self._request()
        if images:
            return lambda: queue.add(images, lambda folder: link_files(checkpoint, folder), request)
        training = self._training  # of networks that saw no image there is no checkpoint
        weights = {name: value.cpu() for name, value in training.averaged_weights(training.state()).items()}
        options = {"family": training.family.name, **training.family.options()}
        return lambda: queue.add(images, lambda folder: write_weights(folder, weights, options), request)

    def _request(self) -> dict[str, Any]:
        return {"device": self._device(), "processes": self._processes, "switched_off": switched_off()}

    def _device(self) -> str:
        """A GPU that no process of the run uses, where this machine has one, else the run's device."""
        device = self._training.device
        if device.type != "cuda":
            return device.type
        return f"cuda:{self._processes}" if torch.cuda.device_count() > self._processes else str(device)

    def look(self, *, now: bool = False) -> bool:
        """Write what was evaluated beside training since the last look, at most once a second unless `now`.

        Returns:
            Whether something is still being evaluated; False in other processes than the main one.
        """
        if self._queue is None:
            return False
        if now or time.monotonic() >= self._next_look_sec:
            self._next_look_sec = time.monotonic() + _LOOK_SEC
            done = self._queue.look()
            if done is not None and done.values is None:
                at = f"the evaluation at {done.images / 1000:.3f} kimg failed"
                tqdm.write(f"metrics: {at} ({done.reason}); training goes on without it")
            elif done is not None and done.values is not None:
                self._write(done.images, done.values, done.checkpoint)
                tqdm.write(f"metrics at {done.images / 1000:.3f} kimg {_in_words(done.values)}")
            if done is not None:
                self._queue.forget(done)
        return self._queue.is_busy

    def _write(self, images: int, values: Mapping[str, float], checkpoint: Path) -> None:
        """The row, the trackers' numbers and the best checkpoint, in the main process."""
        row = {"kind": "metrics", "kimg": images / 1000, **provenance(self._config, self._dataset.name)}
        numbers = {f"metric/{name}": value for name, value in values.items()}
        self._log(row | numbers)
        self._keep_best(images, values, checkpoint)
        if self._training.config.run.tracker == "wandb" and images < self._training.images:
            numbers["metric/kimg"] = images / 1000
            images = self._training.images  # it takes no earlier step
        self._accelerator.log(numbers, step=images)

    def _keep_best(self, images: int, values: Mapping[str, float], checkpoint: Path) -> None:
        """Keep a checkpoint where it is better than the best so far; nan never is."""
        asked = self._training.config.run.keep_best
        if asked is None or images == 0:  # nothing is saved of networks that saw no image
            return
        metric = computed_metrics(self._config.names, self._config.features)[asked]
        name, value, before = str(metric), values[str(metric)], best_of(self._run_dir)
        is_first = before is None or before.metric != name
        if math.isnan(value) or (before and not is_first and not metric.is_better(value, before.value)):
            return
        folder = keep_best(self._run_dir, checkpoint, metric=name, value=value, kimg=images / 1000)
        tqdm.write(f"best {name} so far: {value:.4g}, kept as {folder.relative_to(self._run_dir)}")


def _in_words(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
