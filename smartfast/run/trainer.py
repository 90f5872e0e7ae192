"""The training loop: iterations, ticks, snapshots, evaluations."""

import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from smartfast.config.schema import Config
from smartfast.core.agreement import Agreement
from smartfast.core.checkpoint import Checkpoint, save_checkpoint
from smartfast.core.consistency import check_consistency
from smartfast.core.draws import are_vectors
from smartfast.core.grids import grid_shape
from smartfast.core.interruption import Interrupted, Interruption
from smartfast.core.run_log import RunLog, read_rows
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.report.build import write_report
from smartfast.run.asking import Requests, wanted_kinds
from smartfast.run.background import BackgroundCompilation
from smartfast.run.evaluations import Evaluations
from smartfast.run.main_process import on_main_process
from smartfast.run.profiling import IterationProfiler
from smartfast.run.sheets import Sheets, sheet_name
from smartfast.run.snapshots import SnapshotWriter, checkpoint_options, copy_to_host
from smartfast.run.status import FirstTickWatch, Remarks, SlownessWatch, memory_gib, progress_bar, status_line
from smartfast.run.ticks import Ticks
from smartfast.run.training import Training, real_batches
from smartfast.run.watch import ANNOUNCED, Watch, warning_line

_WAIT_SEC = 0.1


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
        announced_share: The score term's share of the work as estimated before, None where nothing was.
        compilation: Compiles beside a training that is eager until then, None = nothing does.
    """

    def __init__(
        self,
        training: Training,
        dataset: ImageDataset,
        accelerator: Accelerator,
        checkpoint: Checkpoint | None,
        interruption: Interruption | None = None,
        check_owner: Callable[[], None] = lambda: None,
        announced_share: float | None = None,
        compilation: BackgroundCompilation | None = None,
    ) -> None:
        self.training, self.dataset, self.accelerator = training, dataset, accelerator
        self.config: Config = training.config
        self.run_dir = Path(self.config.run.dir)
        self.is_main, self.check_owner = accelerator.is_main_process, check_owner
        self.is_resumed, self.compilation = checkpoint is not None, compilation
        self.saved_images = training.images if checkpoint else -1
        self.interruption = interruption or Interruption()
        self.interruption.may_stop = lambda: training.images in (0, self.saved_images)
        self.agreement = Agreement(training.device)
        shape = grid_shape(dataset.resolution, 0 if are_vectors(dataset.labels) else dataset.num_classes)
        self.grid = shape._replace(rows=min(shape.rows, training.family.sheet_rows or shape.rows))
        self.sheets, self.shown_images = Sheets(self.run_dir, self.grid.columns, accelerator.trackers), -1
        self.ticks = Ticks(training, self.config.run)
        self.earlier_sec = checkpoint.info["time_sec"] if checkpoint else 0.0
        self.start_sec = time.perf_counter()
        self.loop_start_sec, self.loop_start_images = self.start_sec, training.images
        self.tick_start_images = training.images
        self.remarks = Remarks(SlownessWatch(training.device).remark, training.family.remark)
        self.first_tick = FirstTickWatch(training.images, self.ticks.tick_images, self.ticks.total_images)
        self.writer, self.requests = SnapshotWriter(check_owner), Requests(self.run_dir, is_taken=self.is_main)
        self.profiler = IterationProfiler(
            self.config.perf.profile,
            first=training.settling_iterations,
            folder=self.run_dir / "profile" if self.is_main else None,
            say=tqdm.write,
        )
        if self.is_main:
            self.log = RunLog(self.run_dir, kimg=training.images / 1000 if checkpoint else -1.0)
            self.watch = Watch(read_rows(self.log.path))
        self.announced = {} if announced_share is None else {ANNOUNCED: announced_share}
        last_kimg = on_main_process(accelerator, lambda: self.log.last_kimg("metrics"))
        self.evaluations = Evaluations(training, dataset, accelerator, self.ticks, log=self._log, last_kimg=last_kimg)

    def run(self) -> bool:
        """Train until run.kimg, or until a signal, and leave a checkpoint and, at the end, a report.

        Returns:
            Whether the run is complete.

        Raises:
            UserError: Losses or gradients were not finite for run.max_bad_steps steps in a row, or a snapshot could not
                be written.
        """
        try:
            with self.requests, self.evaluations, self.writer:
                self._train()
                self._finish()
        except Interrupted as signal_name:
            is_saved = self.saved_images > 0
            saved = f"saved at {self.saved_images / 1000:.3f} kimg" if is_saved else "nothing was trained yet"
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
        with (
            closing(reals),
            self.profiler,
            progress_bar(training.images, self.ticks.total_images, is_shown=self.is_main) as progress,
        ):
            while not self.ticks.is_last:
                self._attend()
                with self.profiler.iteration():
                    with training.timer("data"):
                        batch = next(reals)
                    training.run_iteration(batch)
                progress.update(training.images_per_iteration)
                self._say_pace(progress)
                if self.ticks.has_ended or self.ticks.is_last:
                    self._end_tick(progress)

    def _say_pace(self, progress: tqdm) -> None:
        sec = time.perf_counter() - self.loop_start_sec - self.training.compile_sec
        if self.is_main and (line := self.first_tick.line(self.training.images, sec)):
            progress.write(line)

    def _attend(self, *, now: bool = False) -> None:
        """Do what a signal or a request asks, every process in the same iteration; raises Interrupted to stop."""
        self.evaluations.look()
        number, requests = self.agreement.on(self.interruption.number, self.requests.look(), now=now)
        if number:
            self._stop(self.interruption.name_of(number))
        for kind in wanted_kinds(requests):
            since_sec = time.perf_counter()
            line = self._answer(kind)
            self.requests.answer([kind], line)
            if self.is_main:
                tqdm.write(f"asked to {kind}: {line}")
            self.tick_start_sec += (sec := time.perf_counter() - since_sec)  # what was asked is no training
            self.maintenance_sec += sec

    def _answer(self, kind: str) -> str:
        """Do what was asked, and say what was done."""
        at = f"at {self.kimg:.3f} kimg"
        if kind == "sample":
            name = sheet_name(self.kimg, self.config.run, is_asked=True)
            if self.is_main:
                self._sheet_to_write(name)()
            return f"{name} {at}"
        if kind == "evaluate" and not self.evaluations.are_wanted:
            return "refused: metrics.every_ticks is 0, so this run has nothing to evaluate with"
        self._save_now(with_samples=False)
        if kind == "evaluate":
            return f"{at}: {self.evaluations.evaluate()}"
        if kind == "stop":
            self.requests.answer([kind], f"saved {at}, and the training ends")
            self._stop("smartfast ask stop")
        return f"saved {at}"

    def _stop(self, name: str | None) -> None:
        if self.is_main and self.training.images > self.tick_start_images:
            sec = time.perf_counter() - self.tick_start_sec - self.training.take_compile_sec()
            self._log({"kind": "stopped", "kimg": self.kimg, "since_tick_sec": sec})
        self._save_now(with_samples=False)  # who asked to stop waits for nothing but the state
        raise Interrupted(name)

    @property
    def kimg(self) -> float:
        """Thousands of real images seen."""
        return self.training.images / 1000

    @property
    def elapsed_sec(self) -> float:
        """Time spent on the run, earlier processes included."""
        return self.earlier_sec + time.perf_counter() - self.start_sec

    def _begin(self) -> None:
        if self.is_main:
            reals = self.training.family.real_sheet(self.dataset, self.grid)
            self.sheets.show("reals", reals, step=0)
            self.sheets.writing("reals.png", reals)()
            self._sheet_to_write("fakes_init.png")()
        self.evaluations.evaluate()

    def _make_up(self) -> None:
        """Do what the process before this one may have died in, after its last checkpoint."""
        training = self.training
        if self.is_main:
            training.family.export(self.run_dir, training.averaged_weights(training.state()))
            is_sampled = self.ticks.is_due(self.config.run.snapshot_ticks) or self.ticks.is_last
            if is_sampled and self.log.last_kimg("measured") != self.kimg:
                self._measure()
        if self.evaluations.is_due:
            self.evaluations.evaluate()

    def _start_tick(self, *, maintenance_since_sec: float) -> None:
        self.tick_start_sec, self.tick_start_images = time.perf_counter(), self.training.images
        self.maintenance_sec = self.tick_start_sec - maintenance_since_sec

    def _end_tick(self, progress: tqdm) -> None:
        row, self.tick_start_images = self._tick_row(), self.training.images
        if self.is_main:
            warnings = self.watch.look(row)
            row["warnings"] = len(self.watch.told)
            for each in (row, *warnings):
                self._log(each)
            progress.write(status_line(row, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
            for line in (*self.remarks.lines(row), *map(warning_line, warnings)):
                progress.write(line)
        self.accelerator.log({k: v for k, v in row.items() if isinstance(v, int | float)}, step=self.training.images)
        self._stop_if_not_finite(row)
        self.writer.check()
        maintenance_since_sec = time.perf_counter()
        is_sampled, is_evaluated = self.ticks.is_due(self.config.run.snapshot_ticks), self.evaluations.is_due
        if is_evaluated and self.evaluations.are_beside:
            self._snapshot(with_samples=is_sampled, then=self.evaluations.to_begin())
        elif is_sampled:
            self._snapshot()
        if is_evaluated and not self.evaluations.are_beside:
            self._save_now(with_samples=False)  # an evaluation may take an hour
            self._attend(now=True)
            self.evaluations.evaluate()
        self._take_compiled()
        self._start_tick(maintenance_since_sec=maintenance_since_sec)

    def _take_compiled(self) -> None:
        """Go on with compiled phases once every process finds them compiled."""
        compilation = self.compilation
        if compilation is None or self.ticks.is_last or not compilation.has_ended(self.agreement):
            return
        self._save_now(with_samples=False)  # who asks to stop then need not wait for the phases
        self._attend(now=True)
        row = compilation.take(self.training, self.accelerator)
        if row and self.is_main:
            self._log({"kind": "compiled", "kimg": self.kimg, **row})
        self.compilation = None

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
            "tick": self.ticks.number,
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
            **self.announced,
        }

    def _left_sec(self) -> float:
        """Time to run.kimg at this process's pace, maintenance included."""
        done = self.training.images - self.loop_start_images
        sec = time.perf_counter() - self.loop_start_sec
        return max(self.ticks.total_images - self.training.images, 0) * sec / done

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

    def _snapshot(self, *, with_samples: bool = True, then: Callable[[], None] = lambda: None) -> None:
        """Copy what there is now and leave the writing to the writer.

        Args:
            with_samples: Also a sheet of samples, and what the family measures, which take their time.
            then: Called by the writer when the state is on the disk.
        """
        if self.saved_images != self.training.images:
            check_consistency(self.training.state(), f"at {self.kimg:.3f} kimg")
        if self.is_main:
            self.check_owner()
            self.writer.wait()  # before the copy: there is room for one
            what = f"run.dir {self.run_dir}: the snapshot at {self.kimg:.3f} kimg"
            self.writer.submit(what, self._snapshot_to_write(with_samples, then))
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
            self.accelerator.log(values, step=self.training.images)
            tqdm.write("measured " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def _snapshot_to_write(self, with_samples: bool, then: Callable[[], None]) -> Callable[[], None]:
        """A function that writes a checkpoint of this moment, where there is none yet, and a sheet of samples."""
        writes = ExitStack()  # calls what is added last first, and the others even if that one fails
        if with_samples and not self.ticks.is_last:  # `_finish` writes that of the end
            writes.callback(self._write_page)
        if self.saved_images != self.training.images:
            options, copied = self._checkpoint_options(), copy_to_host(self.training.state())
            writes.callback(lambda: self._save(copied(), options, then))
        else:
            writes.callback(then)
        if with_samples and self.shown_images != self.training.images:
            writes.callback(self._sheet_to_write(sheet_name(self.kimg, self.config.run)))
        return writes.close

    def _write_page(self) -> None:
        write_report(self.run_dir, strip=False, before_writing=self.check_owner)

    def _sheet_to_write(self, file: str) -> Callable[[], None]:
        """A function that writes a sheet of samples of this moment, which the trackers have by then."""
        images, self.shown_images = self.training.sampler().grid(self.grid), self.training.images
        self.sheets.show("fakes", images, step=self.training.images)
        return self.sheets.writing(file, images)

    def _save(self, state: dict[str, Tensor], options: dict[str, Any], then: Callable[[], None] = lambda: None) -> None:
        weights = self.training.averaged_weights(state)
        save_checkpoint(self.run_dir, state=state, generator=weights, **options)
        self.training.family.export(self.run_dir, weights)
        then()

    def _checkpoint_options(self) -> dict[str, Any]:
        options = checkpoint_options(self.training, self.dataset)
        options["info"]["time_sec"] = self.elapsed_sec
        return options | {"keep": self.config.run.keep_checkpoints}

    def _evaluations_go_on(self) -> bool:
        """Whether the main process waits for one beside training; signals and requests are taken meanwhile."""
        self._attend(now=True)
        return on_main_process(self.accelerator, lambda: self.evaluations.look(now=True))

    def _finish(self) -> None:
        self._save_now(with_samples=True)
        self._attend(now=True)
        self.evaluations.evaluate()
        while self.evaluations.are_beside and self._evaluations_go_on():
            time.sleep(_WAIT_SEC)
        self.accelerator.end_training()
        if self.is_main:
            self.check_owner()
            print(f"report: {write_report(self.run_dir)}")
