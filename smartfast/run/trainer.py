"""The training loop: iterations, ticks, snapshots, evaluations."""

import importlib.metadata
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather
from torch import Tensor
from tqdm import tqdm

from smartfast.config.schema import Config
from smartfast.core.checkpoint import Checkpoint, save_checkpoint
from smartfast.core.grids import grid_shape
from smartfast.core.interruption import Interrupted, Interruption
from smartfast.core.run_log import RunLog
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.families.sampling import real_grid
from smartfast.metrics import MetricUnavailable, evaluate
from smartfast.report.build import write_report
from smartfast.run.main_process import on_main_process
from smartfast.run.profiling import IterationProfiler
from smartfast.run.sheets import Sheets, sheet_name
from smartfast.run.snapshots import SnapshotWriter, copy_to_host
from smartfast.run.status import FirstTickWatch, Remarks, SlownessWatch, memory_gib, status_line
from smartfast.run.training import Training, real_batches

_VERSIONS = ("smartfast", "torch", "diffusers", "accelerate", "torch-fidelity")


class Trainer:
    """Fills a run folder.

    Args:
        training: A run at its start, or restored from `checkpoint`.
        dataset: Its training images.
        accelerator: Device, processes and trackers.
        checkpoint: Where the run continues, None = at its start.
        interruption: Knows when a signal asks the run to end.
        check_owner: Called in the main process before anything is written; raises UserError where the run folder has
            become another's, or is gone.
    """

    def __init__(
        self,
        training: Training,
        dataset: ImageDataset,
        accelerator: Accelerator,
        checkpoint: Checkpoint | None,
        interruption: Interruption | None = None,
        check_owner: Callable[[], None] = lambda: None,
    ) -> None:
        self.training, self.dataset, self.accelerator = training, dataset, accelerator
        self.config: Config = training.config
        self.run_dir = Path(self.config.run.dir)
        self.is_main, self.check_owner = accelerator.is_main_process, check_owner
        self.is_resumed = checkpoint is not None
        self.interruption = interruption or Interruption()
        self.interruption.may_stop = lambda: training.images in (0, self.saved_images)
        self.sampler = training.sampler()
        shape = grid_shape(dataset.resolution, dataset.num_classes)
        self.grid = shape._replace(rows=min(shape.rows, training.family.sheet_rows or shape.rows))
        self.sheets, self.shown_images = Sheets(self.run_dir, self.grid.columns, accelerator.trackers), -1
        self.total_images = round(self.config.run.kimg * 1000)
        self.tick_images = max(round(self.config.run.tick_kimg * 1000), 1)
        self.earlier_sec = checkpoint.info["time_sec"] if checkpoint else 0.0
        self.start_sec = time.perf_counter()
        self.loop_start_sec, self.loop_start_images = self.start_sec, training.images
        self.remarks = Remarks(SlownessWatch(training.device).remark, training.family.remark)
        self.first_tick = FirstTickWatch(training.images, self.tick_images, self.total_images)
        self.saved_images = training.images if checkpoint else -1
        self.writer = SnapshotWriter(check_owner)
        self.profiler = IterationProfiler(
            self.config.perf.profile,
            first=training.settling_iterations,
            folder=self.run_dir / "profile" if self.is_main else None,
            say=tqdm.write,
        )
        if self.is_main:
            self.log = RunLog(self.run_dir, kimg=training.images / 1000 if checkpoint else -1.0)
        self.evaluated_images = on_main_process(accelerator, self._last_evaluation)

    def run(self) -> bool:
        """Train until run.kimg, or until a signal, and leave a checkpoint and, at the end, a report.

        Returns:
            Whether the run is complete.

        Raises:
            UserError: Losses or gradients were not finite for run.max_bad_steps steps in a row, or a snapshot could not
                be written.
        """
        try:
            with self.writer:
                self._train()
                self._finish()
        except Interrupted as signal_name:
            saved = f"saved at {self.kimg:.3f} kimg" if self.training.images else "nothing was trained yet"
            self.accelerator.print(f"{signal_name}: {saved}; the same command goes on from there")
            self.accelerator.end_training()
            return False
        return True

    def _train(self) -> None:
        training = self.training
        if self.is_resumed:
            self._make_up()
        else:
            self._begin()
        reals = real_batches(training)
        self._start_tick(maintenance_since_sec=self.start_sec)
        self.loop_start_sec = self.tick_start_sec
        with closing(reals), self.profiler, self._progress_bar() as progress:
            while training.images < self.total_images:
                self._stop_if_asked()
                with self.profiler.iteration():
                    with training.timer("data"):
                        batch = next(reals)
                    training.run_iteration(batch)
                progress.update(training.images_per_iteration)
                self._say_pace(progress)
                before = training.images - training.images_per_iteration
                if training.images // self.tick_images > before // self.tick_images:
                    self._end_tick(progress)

    def _say_pace(self, progress: tqdm) -> None:
        sec = time.perf_counter() - self.loop_start_sec - self.training.compile_sec
        if self.is_main and (line := self.first_tick.line(self.training.images, sec)):
            progress.write(line)

    def _stop_if_asked(self, *, now: bool = False) -> None:
        signal_name = self.interruption.asked(self.training.device, now=now)
        if signal_name:
            self._save_now(with_samples=False)  # who asked to stop waits for nothing but the state
            raise Interrupted(signal_name)

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
            reals = real_grid(self.dataset, self.grid)
            self.sheets.show("reals", reals, step=0)
            self.sheets.writing("reals.png", reals)()
            self._sheet_to_write("fakes_init.png")()
        self._evaluate()

    def _make_up(self) -> None:
        """Do what the process before this one may have died in, after its last checkpoint."""
        training = self.training
        if self.is_main:
            training.family.export(self.run_dir, training.averaged_weights(training.state()))
            is_sampled = self._is_due(self.config.run.snapshot_ticks) or training.images >= self.total_images
            if is_sampled and self.log.last_kimg("measured") != self.kimg:
                self._measure()
        if training.images < self.total_images and self._evaluation_is_due():
            self._evaluate()

    def _start_tick(self, *, maintenance_since_sec: float) -> None:
        self.tick_start_sec, self.tick_start_images = time.perf_counter(), self.training.images
        self.maintenance_sec = self.tick_start_sec - maintenance_since_sec

    def _end_tick(self, progress: tqdm) -> None:
        row = self._tick_row()
        if self.is_main:
            self._log(row)
            progress.write(status_line(row, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
            for remark in self.remarks.lines(row):
                progress.write(remark)
        self.accelerator.log({k: v for k, v in row.items() if isinstance(v, int | float)}, step=self.training.images)
        self._stop_if_not_finite(row)
        self.writer.check()
        maintenance_since_sec = time.perf_counter()
        if self._is_due(self.config.run.snapshot_ticks):
            self._snapshot()
        if self.training.images < self.total_images and self._evaluation_is_due():  # at the end `_finish` evaluates
            self._save_now(with_samples=False)  # an evaluation may take an hour
            self._stop_if_asked(now=True)
            self._evaluate()
        self._start_tick(maintenance_since_sec=maintenance_since_sec)

    def _log(self, row: dict[str, Any]) -> None:
        self.check_owner()
        self.log.write(row)

    def _tick_row(self) -> dict[str, Any]:
        training = self.training
        # The counters are the same in every process, so their mean is themselves: one transfer reads everything.
        training.statistics.add(training.skipped())
        means = training.statistics.read()
        counts = {name: round(means.pop(name)) for name in training.skipped()}
        skipped = sum(count for name, count in counts.items() if name.startswith("skipped/"))
        means |= training.timer.read()
        compile_sec = training.take_compile_sec()
        # After the reads above, which wait for the device.
        sec = time.perf_counter() - self.tick_start_sec - compile_sec
        images = training.images - self.tick_start_images
        cpu_mem_gib, gpu_mem_gib = memory_gib(training.device)
        return {
            "kind": "tick",
            "kimg": self.kimg,
            "tick": training.images // self.tick_images,
            "time_sec": self.elapsed_sec,
            "left_sec": self._left_sec(),
            "sec_per_tick": sec,
            "sec_per_kimg": sec / images * 1000,
            "maintenance_sec": self.maintenance_sec + compile_sec,
            "compile_sec": compile_sec,
            "cpu_mem_gib": cpu_mem_gib,
            "gpu_mem_gib": gpu_mem_gib,
            "images_per_sec": images / sec,
            "skipped_steps": skipped,
            **counts,
            **means,
        }

    def _left_sec(self) -> float:
        """Time to run.kimg at this process's pace, maintenance included."""
        done = self.training.images - self.loop_start_images
        sec = time.perf_counter() - self.loop_start_sec
        return max(self.total_images - self.training.images, 0) * sec / done

    def _stop_if_not_finite(self, row: dict[str, Any]) -> None:
        for phase in self.training.phases:
            bad = row.get(f"skipped_in_a_row/{phase}", 0)
            if bad >= self.config.run.max_bad_steps:
                raise UserError(
                    f"the last {bad} steps of {phase} up to {self.kimg:.1f} kimg were skipped, limit "
                    f"run.max_bad_steps {self.config.run.max_bad_steps}: the loss or a gradient was not finite; "
                    f"{self.run_dir} has the checkpoints from before; try lower learning rates (with "
                    "run.allow_changes true), or perf.precision fp32"
                )

    def _save_now(self, *, with_samples: bool) -> None:
        """A snapshot that is on the disk when any process goes on: a launcher ends the others once one has ended."""
        self._snapshot(with_samples=with_samples)
        on_main_process(self.accelerator, self.writer.wait)

    def _snapshot(self, *, with_samples: bool = True) -> None:
        """Copy what there is now and leave the writing to the writer.

        with_samples: Also a sheet of samples, and what the family measures, which take their time.
        """
        if self.is_main:
            self.check_owner()
            self.writer.wait()  # before the copy: there is room for one
            what = f"run.dir {self.run_dir}: the snapshot at {self.kimg:.3f} kimg"
            self.writer.submit(what, self._snapshot_to_write(with_samples))
        if with_samples and self.saved_images != self.training.images:
            self._measure()
        self.saved_images = self.training.images

    def _measure(self) -> None:
        """A row of what else the family measures of its averaged network."""
        if not self.is_main:
            return
        values = self.training.family.measure(self.training.ema.module, self.training.device)
        if values:
            self._log({"kind": "measured", "kimg": self.kimg, **values})
            tqdm.write("measured " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def _snapshot_to_write(self, with_samples: bool) -> Callable[[], None]:
        """A function that writes a checkpoint of this moment, where there is none yet, and a sheet of samples."""
        writes = ExitStack()  # calls what is added last first, and the other even if that one fails
        if self.saved_images != self.training.images:
            options, copied = self._checkpoint_options(), copy_to_host(self.training.state())
            writes.callback(lambda: self._save(copied(), options))
        if with_samples and self.shown_images != self.training.images:
            writes.callback(self._sheet_to_write(sheet_name(self.kimg, self.config.run)))
        return writes.close

    def _sheet_to_write(self, file: str) -> Callable[[], None]:
        """A function that writes a sheet of samples of this moment, which the trackers have by then."""
        images, self.shown_images = self.sampler.grid(self.grid), self.training.images
        self.sheets.show("fakes", images, step=self.training.images)
        return self.sheets.writing(file, images)

    def _save(self, state: dict[str, Tensor], options: dict[str, Any]) -> None:
        weights = self.training.averaged_weights(state)
        save_checkpoint(self.run_dir, state=state, generator=weights, **options)
        self.training.family.export(self.run_dir, weights)

    def _checkpoint_options(self) -> dict[str, Any]:
        """What a checkpoint of this moment says beside its tensors."""
        training, dataset = self.training, self.dataset
        device = training.device
        return dict(
            images=training.images,
            generator_options={"family": training.family.name, **training.family.options()},
            info={
                "time_sec": self.elapsed_sec,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
                "phases": [{"name": spec.name, "replaces": spec.replaces} for spec in training.specs],
                "dataset": {
                    "name": dataset.name,
                    "images": len(dataset),
                    "fingerprint": dataset.fingerprint,
                    "class_names": dataset.class_names,
                },
            },
            keep=self.config.run.keep_checkpoints,
        )

    def _last_evaluation(self) -> int:
        """Images at the last evaluation of an earlier process, -1 without one."""
        kimg = self.log.last_kimg("metrics")
        return -1 if kimg is None else round(kimg * 1000)

    def _evaluation_is_due(self) -> bool:
        """Whether this is the end of a tick with an evaluation, which is not done yet."""
        return self._is_due(self.config.metrics.every_ticks) and self.evaluated_images != self.training.images

    def _is_due(self, every_ticks: int) -> bool:
        """Whether this is the end of a tick whose number is a multiple of `every_ticks`, 0 = never."""
        images = self.training.images
        tick = images // self.tick_images
        ends_tick = tick > (images - self.training.images_per_iteration) // self.tick_images
        return every_ticks > 0 and ends_tick and tick % every_ticks == 0

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
        row = {"kind": "metrics", "kimg": self.kimg, "features": self.config.metrics.features}
        row |= {f"metric/{name}": value for name, value in values.items()}
        if self.is_main:
            self._log(row)
        self.accelerator.log({k: v for k, v in row.items() if k.startswith("metric/")}, step=self.training.images)
        self.accelerator.print("metrics " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def _finish(self) -> None:
        self._save_now(with_samples=True)
        self._stop_if_asked(now=True)
        if self.evaluated_images != self.training.images:
            self._evaluate()
        self.accelerator.end_training()
        if self.is_main:
            self.check_owner()
            print(f"report: {write_report(self.run_dir)}")
