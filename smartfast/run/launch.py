"""From a configuration to a running trainer: every check, the scorer, resume, trackers."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from tqdm import tqdm

from smartfast.config.parse import config_to_dict, config_to_yaml
from smartfast.config.schema import Config, PerfConfig
from smartfast.core.checkpoint import Checkpoint, has_checkpoint, load_newest, set_aside_newer
from smartfast.core.cpu import set_up_cpu
from smartfast.core.distributed import processes_on_this_machine
from smartfast.core.files import write_atomically
from smartfast.core.interruption import Interruption, watch_launcher
from smartfast.core.output import hang_up_when_closed
from smartfast.core.run_lock import RunLock
from smartfast.data import ImageDataset, open_dataset
from smartfast.data.dataset import described_classes
from smartfast.data.holdout import split
from smartfast.data.planned import is_missing, planned_images
from smartfast.engine.compiling import compile_cache_dir
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.base import SCORE_PANEL
from smartfast.kernels import implementation_of, registered_ops, use
from smartfast.metrics import check_metrics
from smartfast.run.checks import check_config, check_data_path, check_settings, images_at_a_time
from smartfast.run.describe import networks_summary
from smartfast.run.failures import one_line_failures
from smartfast.run.launcher import check_launcher
from smartfast.run.main_process import on_main_process
from smartfast.run.memory import check_memory, forecast
from smartfast.run.profiling import IterationProfiler
from smartfast.run.resume import check_changes, check_interval, check_scorer_options, completed_kimg, write_config
from smartfast.run.scoring import as_read, not_described, open_scorer, score_lines
from smartfast.run.start import TABLE_FILE, describe_start, start_elsewhere, with_transfer_values
from smartfast.run.trainer import Trainer
from smartfast.run.training import Training, real_batches
from smartfast.scorers import Scorer, TimestepRange, timestep_range


def launch(config: Config) -> bool:
    """Train as configured, resuming from the newest checkpoint in run.dir, or only describe the run (run.dry_run).

    Returns:
        Whether the run is complete: False after SIGTERM, Ctrl-C, SIGHUP or SIGUSR1.

    Raises:
        UserError: Something in the configuration, the data, the scorer or the run folder cannot work, or the machine
            ran out of memory or room or lost a process.
        Interrupted: One of those signals came before there was anything to save.
    """
    config = with_transfer_values(config)
    check_launcher(config, os.environ)
    watch_launcher()
    with Interruption() as interruption, hang_up_when_closed(), one_line_failures(config):
        return _launch(config, interruption)


def _launch(config: Config, interruption: Interruption) -> bool:
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # without it Accelerate does not see the other processes on a CPU
        log_with=None if config.run.tracker == "none" else config.run.tracker,
        project_dir=config.run.dir,
    )
    if config.run.dry_run:
        dataset, scorer, timesteps = _open(config, accelerator)
        accelerator.print(describe(as_read(config, scorer), dataset, scorer, timesteps))
        return True
    run_dir = Path(config.run.dir)
    for line in on_main_process(accelerator, lambda: check_changes(run_dir, config)):
        accelerator.print(line)
    kimg = on_main_process(accelerator, lambda: completed_kimg(run_dir, config.run.kimg))
    if kimg is not None:
        accelerator.print(f"{config.run.dir} is complete at {kimg:g} kimg; a larger run.kimg goes on from there")
        return True
    lock = RunLock(run_dir)
    try:
        on_main_process(accelerator, lock.acquire)
        return _train(config, accelerator, run_dir, lock, interruption)
    except OSError:
        if accelerator.is_main_process:
            lock.check()  # a folder that is gone explains it
        raise
    finally:
        lock.release()


def _train(config: Config, accelerator: Accelerator, run_dir: Path, lock: RunLock, interruption: Interruption) -> bool:
    """The run, in a folder that is this process's, or that of the main process."""
    dataset, scorer, timesteps = _open(config, accelerator)
    with accelerator.local_main_process_first():
        check_metrics(config.metrics)
    if scorer is not None:
        config = as_read(config, scorer)
        on_main_process(accelerator, lambda: check_scorer_options(run_dir, config))
        interval = functools.partial(timestep_range, scorer)
        on_main_process(accelerator, lambda: check_interval(run_dir, config, interval))
    training = _training(config, accelerator, dataset, scorer, timesteps)
    checkpoint = _resume(training, dataset, run_dir, accelerator.print)
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
    accelerator.print(_opening_lines(config, dataset, scorer, timesteps, training))
    accelerator.print(f"run: {config.run.dir}{_position(training.images / 1000, config.run.kimg)} on {training.device}")
    with _kernels(config):
        return Trainer(training, dataset, accelerator, checkpoint, interruption, lock.check).run()


def profile(config: Config, *, default_iterations: int = 16) -> None:
    """Train from the start, just long enough to trace perf.profile iterations (16 where it is 0); keep only the trace.

    Raises:
        UserError: As `launch`.
    """
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, dry_run=False))
    check_launcher(config, os.environ)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    dataset, scorer, timesteps = _open(config, accelerator)
    training = _training(config, accelerator, dataset, scorer, timesteps)
    accelerator.print(_opening_lines(config, dataset, scorer, timesteps, training))
    profiler = IterationProfiler(
        config.perf.profile or default_iterations,
        first=training.settling_iterations,
        folder=Path(config.run.dir) / "profile" if accelerator.is_main_process else None,
        say=print,
    )
    accelerator.print(f"profile: {profiler.iterations} iterations, after {profiler.first} that settle everything")
    Path(config.run.dir).mkdir(parents=True, exist_ok=True)
    with _kernels(config), closing(real_batches(training)) as reals, profiler:
        while not profiler.is_done:
            with profiler.iteration():
                with training.timer("data"):
                    batch = next(reals)
                training.run_iteration(batch)
    accelerator.end_training()


def _open(config: Config, accelerator: Accelerator) -> tuple[ImageDataset, Scorer | None, TimestepRange | None]:
    """What the configuration names, and every check of it."""
    check_settings(config, num_processes=accelerator.num_processes)
    set_seed(config.run.seed)
    processes = processes_on_this_machine()
    set_up_arithmetic(config, accelerator.device, processes)
    planned = planned_images(config.data) if config.run.dry_run and is_missing(config.data) else None
    if planned is None:
        check_data_path(config)
    dataset = planned or open_dataset(config.data)
    check_config(config, dataset, device=accelerator.device)
    images = images_at_a_time(config, accelerator.num_processes)
    needed = forecast(config, dataset, images)
    accelerator.print(check_memory(config, needed, images, accelerator.device, processes))
    if planned is not None:
        print(f"data: {dataset.name} is taken to be RGB; the scorer is left out")
        return planned, None, None
    return dataset, *open_scorer(config, dataset, accelerator.device, say=accelerator.print)


def _training(
    config: Config,
    accelerator: Accelerator,
    dataset: ImageDataset,
    scorer: Scorer | None,
    timesteps: TimestepRange | None,
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
        say=tqdm.write if accelerator.is_main_process else _say_nothing,
    )


def describe(config: Config, dataset: ImageDataset, scorer: Scorer | None, timesteps: TimestepRange | None) -> str:
    """The resolved configuration, both networks, the scorer, the cost of each phase and what is loaded, as text."""
    family = FAMILIES[config.gan.family](dataclasses.replace(config, perf=PerfConfig()), dataset)
    if scorer is None or timesteps is None:
        interval = not_described(config.smart)
    else:
        interval = timesteps.beside_the_papers(scorer.resolution)
    networks = networks_summary(family, scorer, config.smart.scorer or "")
    parts = [config_to_yaml(config), networks]
    if SCORE_PANEL in family.panels:
        parts.append(f"score term: {interval}")
    if config.run.init_from is not None and not has_checkpoint(Path(config.run.dir)):
        parts.append(describe_start(config.run.init_from, family))
    return "\n".join(parts)


def _say_nothing(line: str) -> None:
    """What the other processes say while they compile."""


def set_up_arithmetic(config: Config, device: torch.device, num_processes: int) -> None:
    """Choose threads, tf32 and cuDNN's search for algorithms for this process, one of `num_processes` on this machine.

    perf.* says how.
    """
    if device.type == "cpu":
        set_up_cpu(config.perf.cpu_threads, num_processes)
    elif config.perf.precision != "fp32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    else:
        torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def _resume(training: Training, dataset: ImageDataset, run_dir: Path, say: Callable[[str], None]) -> Checkpoint | None:
    checkpoint = load_newest(run_dir)
    if checkpoint is None:
        return None
    fingerprint = _fingerprint(checkpoint)
    is_known = dataset.was_recorded_as(fingerprint)
    if not is_known and training.config.run.allow_changes:
        say(f"resume: images of data.path: {fingerprint} -> {dataset.fingerprint}")
    elif not is_known:
        raise UserError(
            f"data.path {training.config.data.path}: found {dataset.fingerprint}, expected {fingerprint}, "
            f"the fingerprint of the run in {run_dir}; choose another run.dir, the old data, or run.allow_changes true"
        )
    try:
        training.restore(checkpoint.state, images=checkpoint.info["images"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{checkpoint.path}: expected a checkpoint of these networks, found another ({error})"
        ) from error
    return checkpoint


def _fingerprint(checkpoint: Checkpoint) -> str:
    """That of the data of the run, once the index has what else a resumed run takes from it."""
    info = checkpoint.info
    for name, is_right in (
        ("dataset", isinstance(info.get("dataset"), dict) and "fingerprint" in info["dataset"]),
        ("time_sec", isinstance(info.get("time_sec"), int | float) and math.isfinite(info["time_sec"])),
    ):
        if not is_right:
            found = str(info.get(name))[:40]
            raise UserError(f"{checkpoint.path}/checkpoint.json: {name} is {found}, expected what a training wrote")
    return info["dataset"]["fingerprint"]


def _prepare_folder(run_dir: Path, config: Config, checkpoint: Checkpoint | None, start: str | None) -> None:
    try:
        for name in set_aside_newer(run_dir, checkpoint):
            print(f"checkpoints: a damaged one is set aside as {name}")
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
    config: Config,
    dataset: ImageDataset,
    scorer: Scorer | None,
    timesteps: TimestepRange | None,
    training: Training,
) -> str:
    return "\n".join(
        [
            f"data: {dataset.name}, {len(dataset)} images {training.family.image_shape}{described_classes(dataset)}",
            *score_lines(config.smart, scorer, timesteps),
            f"ops: {_implementations(config, training.device)}",
            *([f"compile: every phase, kept for later runs in {compile_cache_dir()}"] if config.perf.compile else []),
        ]
    )


def _implementations(config: Config, device: torch.device) -> str:
    """Which implementation the ops take, and why: `reference (auto takes plain PyTorch on cpu)`."""
    with _kernels(config):
        ops: dict[tuple[str, str], list[str]] = {}
        for op in registered_ops():
            ops.setdefault(implementation_of(op, device), []).append(op)
    parts = [f"{name} ({reason})" for name, reason in ops]
    return (
        parts[0]
        if len(ops) == 1
        else "; ".join(f"{', '.join(o)}: {p}" for o, p in zip(ops.values(), parts, strict=True))
    )


def _kernels(config: Config) -> AbstractContextManager[None]:
    """The configured choice of implementation; `auto` leaves it to the environment variable SMARTFAST_KERNELS."""
    return nullcontext() if config.perf.kernels == "auto" else use(config.perf.kernels)
