"""From a configuration to a running trainer: every check, the scorer, resume, trackers."""

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from tqdm import tqdm

from smartfast.config.parse import config_to_dict, config_to_yaml
from smartfast.config.schema import Config, PerfConfig
from smartfast.core import best
from smartfast.core.checkpoint import Checkpoint, has_checkpoint, set_aside_newer
from smartfast.core.distributed import meeting_place
from smartfast.core.files import set_aside, write_atomically
from smartfast.core.heartbeat import Heartbeat
from smartfast.core.interruption import Interruption, watch_launcher
from smartfast.core.output import hang_up_when_closed
from smartfast.core.run_lock import RunLock
from smartfast.data import ImageDataset
from smartfast.data.dataset import described_classes
from smartfast.data.holdout import split
from smartfast.engine.abandoning import abandon_compilations
from smartfast.engine.compiling import compile_cache_dir
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.kernels import implementation_of, registered_ops, use
from smartfast.metrics import check_metrics
from smartfast.run.asking import drop_requests
from smartfast.run.background import BackgroundCompilation
from smartfast.run.checks import images_at_a_time
from smartfast.run.describe import networks_summary, score_share
from smartfast.run.failures import one_line_failures
from smartfast.run.launcher import check_launcher
from smartfast.run.main_process import on_main_process
from smartfast.run.memory import describe_peaks, peaks
from smartfast.run.opening import open_run
from smartfast.run.performance import performance_line, with_arithmetic, with_preset
from smartfast.run.preparation import prepare_kernels
from smartfast.run.profiling import IterationProfiler
from smartfast.run.restoring import restore_newest
from smartfast.run.resume import (
    check_changes,
    check_interval,
    check_scorer_options,
    completed_kimg,
    with_saved_images_at_a_time,
    write_config,
)
from smartfast.run.scoring import as_read, not_described, score_lines
from smartfast.run.start import TABLE_FILE, describe_start, start_elsewhere, with_transfer_values
from smartfast.run.trainer import Trainer
from smartfast.run.training import Training, real_batches
from smartfast.run.warm_up import warm_up
from smartfast.scorers import Scorer, TimestepRange, timestep_range

_LONGEST_WAIT_SEC = 3600.0
"""Of the other processes, while the main one verifies kernels; run.hang_sec finds one that hangs long before."""


def launch(config: Config, interruption: Interruption | None = None) -> bool:
    """Train as configured, resuming from the newest checkpoint in run.dir, or only describe the run (run.dry_run).

    Args:
        config: The run.
        interruption: What listens to signals already, None = nothing does.

    Returns:
        Whether the run is complete: False after run.max_hours, SIGTERM, Ctrl-C, SIGHUP or SIGUSR1.

    Raises:
        UserError: Something in the configuration, the data, the scorer or the run folder cannot work, or the machine
            ran out of memory or room or lost a process.
        Interrupted: One of those signals came before there was anything to save.
    """
    config = with_transfer_values(config)
    check_launcher(config, os.environ)
    watch_launcher()
    listening = nullcontext(interruption) if interruption else Interruption()
    with listening as interruption, hang_up_when_closed(), one_line_failures(config, interruption):
        if config.run.max_hours is not None:
            interruption.end_after(3600 * config.run.max_hours, "run.max_hours")
        try:
            return _launch(config, interruption)
        finally:
            if interruption.number:
                abandon_compilations()


def _launch(config: Config, interruption: Interruption) -> bool:
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # without it Accelerate does not see the other processes on a CPU
        kwargs_handlers=[_patience()],
        log_with=None if config.run.tracker == "none" else config.run.tracker,
        project_dir=config.run.dir,
    )
    heartbeat = Heartbeat(
        meeting_place() if config.run.hang_sec else None,
        rank=accelerator.process_index,
        size=accelerator.num_processes,
        hang_sec=config.run.hang_sec or math.inf,
        say=lambda line: print(f"smartfast: {line}", file=sys.stderr, flush=True),
    )
    with heartbeat:
        return _run(config, accelerator, interruption, heartbeat)


def _patience() -> InitProcessGroupKwargs:
    return InitProcessGroupKwargs(timeout=timedelta(seconds=_LONGEST_WAIT_SEC))


def _run(config: Config, accelerator: Accelerator, interruption: Interruption, heartbeat: Heartbeat) -> bool:
    config, lines = with_arithmetic(config, accelerator.device)
    for line in lines:
        accelerator.print(line)
    if config.run.dry_run:
        config, dataset, scorer, timesteps = open_run(config, accelerator)
        accelerator.print(describe(as_read(config, scorer), dataset, scorer, timesteps))
        images = images_at_a_time(config, accelerator.num_processes)
        accelerator.print("\n" + describe_peaks(peaks(config, dataset, images, scorer, timesteps), images))
        return True
    run_dir = Path(config.run.dir)
    config = with_saved_images_at_a_time(run_dir, config, accelerator.num_processes)
    for line in on_main_process(accelerator, lambda: check_changes(run_dir, config)):
        accelerator.print(line)
    kimg = on_main_process(
        accelerator, lambda: completed_kimg(run_dir, config.run.kimg, is_measured=config.metrics.every_ticks > 0)
    )
    if kimg is not None:
        accelerator.print(f"{config.run.dir} is complete at {kimg:g} kimg; a larger run.kimg goes on from there")
        return True
    lock = RunLock(run_dir)
    try:
        on_main_process(accelerator, lock.acquire)
        on_main_process(accelerator, lambda: drop_requests(run_dir))
        return _train(config, accelerator, run_dir, lock, interruption, heartbeat)
    except OSError:
        if accelerator.is_main_process:
            lock.check()  # a folder that is gone explains it
        raise
    finally:
        lock.release()


def _train(
    config: Config,
    accelerator: Accelerator,
    run_dir: Path,
    lock: RunLock,
    interruption: Interruption,
    heartbeat: Heartbeat,
) -> bool:
    """The run, in a folder that is this process's, or that of the main process."""
    perf, lines = with_preset(config.perf, accelerator.device)
    opened, dataset, scorer, timesteps = open_run(dataclasses.replace(config, perf=perf), accelerator)
    config = dataclasses.replace(config, optim=opened.optim)
    with accelerator.local_main_process_first():
        check_metrics(config.metrics)
    if scorer is not None:
        config = as_read(config, scorer)
        on_main_process(accelerator, lambda: check_scorer_options(run_dir, config))
    if scorer is not None and timesteps is not None:
        interval = functools.partial(timestep_range, scorer)
        on_main_process(accelerator, lambda: check_interval(run_dir, config, interval))
    is_eager_first = perf.compile == "background"
    training = _training(
        dataclasses.replace(config, perf=perf), accelerator, dataset, scorer, timesteps, is_eager_first=is_eager_first
    )
    heartbeat.where = training.whereabouts
    prepare_kernels(training, accelerator)
    checkpoint = restore_newest(training, dataset, run_dir, accelerator.print)
    start = start_elsewhere(training, accelerator.print) if checkpoint is None else None
    starts = set(gather_object([training.images]))
    if len(starts) > 1:
        raise UserError(
            f"run.dir {run_dir}: processes found checkpoints at {sorted(starts)} images, expected one shared folder"
        )
    on_main_process(accelerator, lock.check)  # the data may have taken long to read
    on_main_process(accelerator, lambda: _prepare_folder(run_dir, config, checkpoint, start))
    project = "tensorboard" if config.run.tracker == "tensorboard" else "smartfast"
    accelerator.init_trackers(project, config=_flat(config))
    accelerator.print(_opening_lines(dataset, scorer, timesteps, training, lines))
    scored = None if timesteps is None else scorer
    share = on_main_process(accelerator, lambda: _announced_share(training, scored, accelerator.print))
    accelerator.print(f"run: {config.run.dir}{_position(training.images / 1000, config.run.kimg)} on {training.device}")
    compiling = BackgroundCompilation(training, accelerator.process_index) if is_eager_first else nullcontext()
    with chosen_kernels(config), compiling as compilation:
        warm_up(training, accelerator)
        trainer = Trainer(
            training,
            dataset,
            accelerator,
            checkpoint,
            interruption,
            lock.check,
            announced_share=share,
            compilation=compilation,
        )
        return trainer.run()


def profile(config: Config, *, default_iterations: int = 16) -> None:
    """Train from the start, just long enough to trace perf.profile iterations (16 where it is 0); keep only the trace.

    Raises:
        UserError: As `launch`.
    """
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dry_run=False))
    check_launcher(config, os.environ)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[_patience()])
    config, lines = with_arithmetic(config, accelerator.device)
    perf, more = with_preset(config.perf, accelerator.device)
    config = dataclasses.replace(config, perf=perf)
    config, dataset, scorer, timesteps = open_run(config, accelerator)
    training = _training(config, accelerator, dataset, scorer, timesteps)
    prepare_kernels(training, accelerator)
    accelerator.print(_opening_lines(dataset, scorer, timesteps, training, lines + more))
    profiler = IterationProfiler(
        config.perf.profile or default_iterations,
        first=training.settling_iterations,
        folder=Path(config.run.dir) / "profile" if accelerator.is_main_process else None,
        say=print,
    )
    accelerator.print(f"profile: {profiler.iterations} iterations, after {profiler.first} that settle everything")
    Path(config.run.dir).mkdir(parents=True, exist_ok=True)
    with chosen_kernels(config), closing(real_batches(training)) as reals, profiler:
        while not profiler.is_done:
            with profiler.iteration():
                with training.timer("data"):
                    batch = next(reals)
                training.run_iteration(batch)
    accelerator.end_training()


def _training(
    config: Config,
    accelerator: Accelerator,
    dataset: ImageDataset,
    scorer: Scorer | None,
    timesteps: TimestepRange | None,
    *,
    is_eager_first: bool = False,
) -> Training:
    part, held_out = split(dataset, config.data.holdout)
    return Training(
        config,
        part,
        scorer=scorer,
        timesteps=timesteps,
        held_out=held_out,
        device=accelerator.device,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        is_eager_first=is_eager_first,
        say=tqdm.write if accelerator.is_main_process else _say_nothing,
    )


def describe(config: Config, dataset: ImageDataset, scorer: Scorer | None, timesteps: TimestepRange | None) -> str:
    """The resolved configuration, both networks, the scorer, the cost of each phase and what is loaded, as text."""
    with torch.device("meta"):  # initial weights would take long and are not described
        family = FAMILIES[config.gan.family](dataclasses.replace(config, perf=PerfConfig()), dataset)
    for module in family.modules.values():
        module.to_empty(device="cpu")
    if scorer is None or timesteps is None:
        interval = not_described(config.smart)
    else:
        interval = timesteps.beside_the_papers(scorer.resolution)
    networks = networks_summary(family, scorer, config.smart.scorer or "")
    parts = [config_to_yaml(config), networks]
    if family.has_score_term():
        parts.append(f"score term: {interval}")
    elif config.smart.frequency:
        parts.append(f"teacher: {interval}")
    if config.run.init_from is not None and not has_checkpoint(Path(config.run.dir)):
        parts.append(describe_start(config.run.init_from, family))
    return "\n".join(parts)


def _announced_share(training: Training, scorer: Scorer | None, say: Callable[[str], None]) -> float | None:
    """The score term's share of the work as estimated and said, None without a term or an estimate."""
    if scorer is None or not training.family.has_score_term():
        return None
    try:
        share = score_share(training.family, scorer)
    except Exception as error:  # an op that cannot be counted, whatever it raises; training needs no estimate
        reason = " ".join(str(error).split())[:160]
        say(f"score term: its share of the work cannot be estimated ({reason}), so its cost is not watched")
        return None
    say(f"score term: {100 * share:.0f} % of the work by the estimate of run.dry_run")
    return share


def _say_nothing(line: str) -> None:
    """What the other processes say while they compile."""


def _prepare_folder(run_dir: Path, config: Config, checkpoint: Checkpoint | None, start: str | None) -> None:
    try:
        for name in set_aside_newer(run_dir, checkpoint):
            print(f"checkpoints: a damaged one is set aside as {name}")
        if checkpoint is None and (run_dir / best.FOLDER).is_dir():  # the run begins anew, its checkpoints are gone
            aside = set_aside(run_dir / best.FOLDER, ".old").name
            print(f"run.keep_best: what an earlier run in this folder kept is set aside as {aside}")
        write_config(run_dir, config, images=checkpoint.info["images"] if checkpoint else 0)
        if start is not None:
            write_atomically(run_dir / TABLE_FILE, start.encode())
    except OSError as error:
        raise UserError(f"run.dir {run_dir}: expected a folder that can be written ({error.strerror})") from error


def _flat(config: Config) -> dict[str, str | float | int | bool]:
    return {
        f"{group}.{key}": value if isinstance(value, (str, float, int, bool)) else str(value)
        for group, fields in config_to_dict(config).items()
        for key, value in fields.items()
    }


def _position(kimg: float, wanted_kimg: float) -> str:
    if kimg > wanted_kimg:
        return f" is at {kimg:.3f} kimg, past run.kimg {wanted_kimg:g}: nothing is trained, a larger one goes on;"
    return f", resumed at {kimg:.3f} of {wanted_kimg:g} kimg" if kimg else f", training for {wanted_kimg:g} kimg"


def _opening_lines(
    dataset: ImageDataset,
    scorer: Scorer | None,
    timesteps: TimestepRange | None,
    training: Training,
    performance: list[str],
) -> str:
    config = training.config
    return "\n".join(
        [
            f"data: {dataset.name}, {len(dataset)} images {training.family.image_shape}{described_classes(dataset)}",
            *score_lines(config.smart, training.family, scorer, timesteps),
            f"ops: {_implementations(config, training.device)}",
            *performance,
            performance_line(config.perf, training.device),
            *([f"compile: every phase, kept for later runs in {compile_cache_dir()}"] if config.perf.compile else []),
        ]
    )


def _implementations(config: Config, device: torch.device) -> str:
    """Which implementation the ops take, and why: `reference (auto takes plain PyTorch on cpu)`."""
    with chosen_kernels(config):
        ops: dict[tuple[str, str], list[str]] = {}
        for op in registered_ops():
            ops.setdefault(implementation_of(op, device), []).append(op)
    parts = [f"{name} ({reason})" for name, reason in ops]
    return (
        parts[0]
        if len(ops) == 1
        else "; ".join(f"{', '.join(o)}: {p}" for o, p in zip(ops.values(), parts, strict=True))
    )


def chosen_kernels(config: Config) -> AbstractContextManager[None]:
    """The configured choice of implementation; `auto` leaves it to the environment variable SMARTFAST_KERNELS."""
    return nullcontext() if config.perf.kernels == "auto" else use(config.perf.kernels)
