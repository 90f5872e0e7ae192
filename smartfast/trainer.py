"""The training loop: iterations, ticks, snapshots, evaluations."""

import importlib.metadata
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather
from tqdm import tqdm

from smartfast.checkpoint import Checkpoint, save_checkpoint
from smartfast.config import Config
from smartfast.data import ImageDataset, iterate_batches
from smartfast.errors import UserError
from smartfast.grids import grid_shape, save_grid
from smartfast.interruption import Interruption
from smartfast.metrics import MetricUnavailable, evaluate
from smartfast.models.build import generator_options
from smartfast.report import write_report
from smartfast.run_log import RunLog
from smartfast.sampling import Sampler, real_grid
from smartfast.status import memory_gib, status_line
from smartfast.training import Training

_VERSIONS = ("smartfast", "torch", "diffusers", "accelerate", "torch-fidelity")


class Trainer:
    """Fills a run folder.

    Args:
        training: A run at its start, or restored from `checkpoint`.
        dataset: Its training images.
        accelerator: Device, processes and trackers.
        checkpoint: Where the run continues, None = at its start.
    """

    def __init__(
        self, training: Training, dataset: ImageDataset, accelerator: Accelerator, checkpoint: Checkpoint | None
    ) -> None:
        self.training, self.dataset, self.accelerator = training, dataset, accelerator
        self.config: Config = training.config
        self.run_dir = Path(self.config.run.dir)
        self.is_main = accelerator.is_main_process
        self.is_resumed = checkpoint is not None
        self.sampler = Sampler.of(training)
        self.grid = grid_shape(dataset.resolution, dataset.num_classes)
        self.total_images = round(self.config.run.kimg * 1000)
        self.tick_images = max(round(self.config.run.tick_kimg * 1000), 1)
        self.earlier_sec = checkpoint.info["time_sec"] if checkpoint else 0.0
        self.start_sec = self.tick_start_sec = time.perf_counter()
        self.tick_start_images = training.images
        self.maintenance_sec = 0.0
        self.saved_images = training.images if checkpoint else -1
        self.evaluated_images = -1
        if self.is_main:
            self.log = RunLog(self.run_dir, kimg=training.images / 1000 if checkpoint else -1.0)

    def run(self) -> bool:
        """Train until run.kimg, or until SIGTERM or Ctrl-C, and leave a checkpoint and a report.

        Returns:
            Whether the run is complete.

        Raises:
            UserError: Losses or gradients were not finite for run.max_bad_steps steps in a row.
        """
        training, config = self.training, self.config
        if training.images >= self.total_images and (self.run_dir / "report.html").is_file():
            self.accelerator.print(
                f"{self.run_dir} is complete at {self.kimg:g} kimg; a larger run.kimg goes on from there"
            )
            return True
        if not self.is_resumed:
            self._begin()
        reals = iterate_batches(
            self.dataset,
            seed=config.run.seed,
            batch=config.optim.batch,
            offsets=training.offsets,
            start_images=training.images,
            device=training.device,
            mirror=config.data.mirror,
            cache=config.data.cache,
            workers=config.data.workers,
            class_group=training.mbstd_group if config.gan.mbstd_by_class else 1,
        )
        with Interruption(training.device) as interruption, self._progress_bar() as progress:
            while training.images < self.total_images:
                if interruption.requested(training.images // config.optim.batch):
                    break
                with training.timer("data"):
                    batch = next(reals)
                training.run_iteration(batch)
                progress.update(config.optim.batch)
                if training.images // self.tick_images > (training.images - config.optim.batch) // self.tick_images:
                    self._end_tick(progress)
        return self._finish(interruption.signal_name)

    @property
    def kimg(self) -> float:
        """Thousands of real images seen."""
        return self.training.images / 1000

    @property
    def elapsed_sec(self) -> float:
        """Time spent on the run, earlier processes included."""
        return self.earlier_sec + time.perf_counter() - self.start_sec

    def _progress_bar(self) -> tqdm:
        return tqdm(
            total=self.total_images,
            initial=self.training.images,
            unit="img",
            unit_scale=True,
            leave=False,
            disable=not (self.is_main and sys.stderr.isatty()),
        )

    def _begin(self) -> None:
        if self.is_main:
            save_grid(real_grid(self.dataset, self.grid), self.run_dir / "reals.png", self.grid.columns)
        self._save_fakes("fakes_init.png")
        self._evaluate()

    def _end_tick(self, progress: tqdm) -> None:
        row = self._tick_row()
        if self.is_main:
            self.log.write(row)
            progress.write(status_line(row))
        self.accelerator.log({k: v for k, v in row.items() if isinstance(v, float)}, step=self.training.images)
        self._stop_if_not_finite()
        maintenance_start_sec = time.perf_counter()
        if self.config.metrics.every_ticks and row["tick"] % self.config.metrics.every_ticks == 0:
            self._evaluate()
        if row["tick"] % self.config.run.snapshot_ticks == 0:  # last: what a checkpoint claims is on disk before it
            self._snapshot()
        self.maintenance_sec = time.perf_counter() - maintenance_start_sec
        self.tick_start_sec, self.tick_start_images = time.perf_counter(), self.training.images

    def _tick_row(self) -> dict[str, float | int | str]:
        training = self.training
        skipped = sum(int(network.guard.total.item()) for network in (training.g, training.d))
        means = {**training.statistics.read(), **training.timer.read()}
        sec = time.perf_counter() - self.tick_start_sec  # after the reads above, which wait for the device
        images = training.images - self.tick_start_images
        cpu_mem_gib, gpu_mem_gib = memory_gib(training.device)
        return {
            "kind": "tick",
            "kimg": self.kimg,
            "tick": training.images // self.tick_images,
            "time_sec": self.elapsed_sec,
            "sec_per_tick": sec,
            "sec_per_kimg": sec / images * 1000,
            "maintenance_sec": self.maintenance_sec,
            "cpu_mem_gib": cpu_mem_gib,
            "gpu_mem_gib": gpu_mem_gib,
            "images_per_sec": images / sec,
            "skipped_steps": skipped,
            **means,
        }

    def _stop_if_not_finite(self) -> None:
        bad = max(int(network.guard.consecutive.item()) for network in (self.training.g, self.training.d))
        if bad >= self.config.run.max_bad_steps:
            raise UserError(
                f"the last {bad} optimizer steps up to {self.kimg:.1f} kimg were skipped, limit run.max_bad_steps: the "
                f"loss or a gradient was not finite; {self.run_dir} has the checkpoints from before; "
                "try a lower optim.lr_g and optim.lr_d, or perf.precision fp32"
            )

    def _snapshot(self) -> None:
        self._save_fakes(f"fakes{round(self.kimg):06d}.png")
        if self.is_main and self.saved_images != self.training.images:
            self._save_checkpoint()
        self.saved_images = self.training.images

    def _save_checkpoint(self) -> None:
        training, dataset = self.training, self.dataset
        device = training.device
        shape = dict(resolution=dataset.resolution, channels=dataset.channels, num_classes=dataset.num_classes)
        save_checkpoint(
            self.run_dir,
            images=training.images,
            state=training.state(),
            generator=training.ema.module,
            generator_options=generator_options(self.config.gan, **shape),
            info={
                "time_sec": self.elapsed_sec,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
                "dataset": {"name": dataset.name, "images": len(dataset), "fingerprint": dataset.fingerprint},
            },
            keep=self.config.run.keep_checkpoints,
        )

    def _save_fakes(self, name: str) -> None:
        if self.is_main:
            save_grid(self.sampler.grid(self.grid), self.run_dir / name, self.grid.columns)

    def _evaluate(self) -> None:
        if not self.config.metrics.every_ticks:
            return
        self.evaluated_images = self.training.images
        try:
            values = evaluate(
                self.sampler,
                self.dataset,
                self.config.metrics,
                device=self.training.device,
                process_index=self.accelerator.process_index,
                num_processes=self.accelerator.num_processes,
                gather=gather,
                progress=self.is_main and sys.stderr.isatty(),
            )
        except MetricUnavailable as error:
            self.accelerator.print(f"metrics: {error}; training goes on without them")
            return
        row = {"kind": "metrics", "kimg": self.kimg, **{f"metric/{name}": value for name, value in values.items()}}
        if self.is_main:
            self.log.write(row)
        self.accelerator.log({k: v for k, v in row.items() if k.startswith("metric/")}, step=self.training.images)
        self.accelerator.print("metrics " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def _finish(self, signal_name: str | None) -> bool:
        complete = self.training.images >= self.total_images
        if complete and self.evaluated_images != self.training.images:
            self._evaluate()
        self._snapshot()
        self.accelerator.end_training()
        if self.is_main:
            if complete:
                print(f"report: {write_report(self.run_dir)}")
            else:
                print(f"{signal_name}: saved at {self.kimg:.3f} kimg; the same command goes on from there")
        return complete
