"""The memory that a run needs is known before anything is allocated."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from smartfast.cli import main
from smartfast.config.families import StyleGan2Gan
from smartfast.config.parse import parse_config
from smartfast.config.schema import Config, RunConfig
from smartfast.data import open_dataset
from smartfast.engine.phase import with_gradients
from smartfast.errors import UserError
from smartfast.run import fitting, memory, opening
from smartfast.run.fitting import fitting_images
from smartfast.run.memory import Forecast, check_memory, forecast, peaks
from smartfast.run.resume import with_saved_images_at_a_time
from smartfast.run.scoring import open_scorer
from smartfast.scorers import timestep_range
from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.schedule import schedule_from_betas

DATA = SimpleNamespace(resolution=16, channels=1, num_classes=10)
CPU = torch.device("cpu")


@pytest.mark.parametrize("changes", [{}, {"gan.architecture_d": "orig"}, {"loss.path_length_interval": 0}])
def test_the_forecast_is_what_the_phases_keep(changes: dict, tiny_training) -> None:
    """Held against real networks on real tensors."""
    training = tiny_training(smart__frequency=0, **{name.replace(".", "__"): value for name, value in changes.items()})
    family = training.family
    run = memory._Run(family, training.specs, training.rounds[0])
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in family.modules.items()}
    found = forecast(training.config, training.dataset, 8)
    assert found.weights_bytes == 4 * (4 * sum(count.values()) + count["g"])
    kept = max(memory._kept_bytes(spec, run) for spec in training.specs)
    assert found.activations_bytes == pytest.approx(kept, rel=0.05)
    assert 1.8 < forecast(training.config, training.dataset, 16).activations_bytes / kept < 2.01


def test_imagenet64_in_fp32_does_not_fit_16_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """It grew to 22.9 GB on a CPU."""
    config = parse_config(["--config=imagenet64", "--perf.precision=fp32"])
    needed = forecast(config, SimpleNamespace(resolution=64, channels=3, num_classes=1000), 64)
    assert 12.9e9 < needed.total_bytes < 13.1e9
    monkeypatch.setattr(memory, "memory_bytes", lambda device: (12 * 2**30, 8 * 2**30))
    with pytest.raises(UserError, match=r"^memory: at least 12.1 GiB .*has 12.0 GiB: lower optim.batch_gpu \(now 64\)"):
        check_memory(config, needed, 64, CPU, processes=1)
    dry = dataclasses.replace(config, run=RunConfig(dry_run=True))
    assert "only 8.0 GiB of it free: TOO LITTLE, as the peak is about 2 times" in check_memory(dry, needed, 64, CPU, 1)


@pytest.mark.parametrize(
    ("weights", "activations", "processes", "expected"),
    [(1, 1, 1, None), (1, 8, 1, "lower optim.batch_gpu"), (9, 0, 1, "gan.channel_base"), (1, 1, 4, "optim.batch_gpu")],
)
def test_processes_share_a_machine(weights, activations, processes, expected, monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda device: (7 * 2**30, 7 * 2**30))
    needed = Forecast(weights * 2**30, activations * 2**30)
    if expected is None:
        line = check_memory(Config(gan=StyleGan2Gan()), needed, 4, CPU, processes)
        assert line.endswith("this machine has 7.0 GiB, 7.0 GiB of it free")
        return
    with pytest.raises(UserError, match=expected):
        check_memory(Config(gan=StyleGan2Gan()), needed, 4, CPU, processes)


def allocated_at_once(compute: Callable[[], object]) -> int:
    """The most bytes at a time by the records of PyTorch's allocator, which knows nothing of operations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute()
    records = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(record.nbytes() for record in sorted(records, key=lambda one: one.start_ns())))


@pytest.mark.parametrize("changes", [{}, {"gan__architecture_d": "orig", "optim__batch": 12}])
def test_the_peak_of_each_phase_is_what_the_allocator_gives_it(changes: dict, tiny_training) -> None:
    """A second derivative copies in another memory order within an operation, where nobody counts."""
    training = tiny_training(**changes)
    (batch,) = training.rounds
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(2, 1, 8, 8), torch.tensor([0.2, 0.5]))
    timesteps = timestep_range(scorer, training.config.smart)
    found = peaks(training.config, training.dataset, len(batch.images), scorer, timesteps)
    assert found.scorer_bytes >= 4 * (2 * 64 + 2 * 1000)  # its means, and what the schedule has of each timestep
    assert found.phases.keys() == training.phases.keys() and "g_score" in found.phases
    for spec in training.specs:
        compute = with_gradients(spec, training.networks[spec.network].parameters.parameters)
        compute(batch)
        assert 0.75 < found.phases[spec.name] / allocated_at_once(functools.partial(compute, batch)) < 1.05, spec.name
    largest = max(found.phases.values())
    assert found.total_bytes == found.weights_bytes + found.scorer_bytes + largest


@pytest.mark.parametrize("expected", [8, 4, 2, 1, None])
def test_as_many_images_at_a_time_as_fit(expected: int | None, tiny_training) -> None:
    """The forecast may have four fifths of what is free."""
    training = tiny_training()
    config = dataclasses.replace(training.config, optim=dataclasses.replace(training.config.optim, batch_gpu="auto"))
    needed = {n: peaks(config, training.dataset, n, None, None).total_bytes for n in (8, 4, 2, 1)}
    assert list(needed.values()) == sorted(needed.values(), reverse=True) and len(set(needed.values())) == 4
    free_bytes = needed[1] - 1 if expected is None else needed[expected]
    find = functools.partial(fitting_images, config, training.dataset, None, None, local=8, free_bytes=free_bytes / 0.8)
    if expected is not None:
        assert find() == expected
        return
    with pytest.raises(UserError, match=r"optim.batch_gpu is auto, but .* for 1 images at a time are more than 80% of"):
        find()


def test_groups_stay_whole_where_they_must(tiny_training) -> None:
    """Of 12 images 6 do not hold whole groups of 4."""
    training = tiny_training(optim__batch=12)
    sizes = [n for n in (12, 6, 4, 3, 2, 1) if fitting._is_taken(training.config, n)]
    assert sizes == [12, 4, 3, 2, 1]


def test_a_run_keeps_the_images_at_a_time_that_it_began_with(
    tiny_options: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = parse_config(tiny_options(tmp_path / "plain"))
    dataset = open_dataset(config.data)
    half = [peaks(config, dataset, images, None, None).total_bytes for images in (8, 4)]
    free = round((half[0] + half[1]) / 2 / 0.8)  # the score term takes more than the rest: too little for 8, or for 4
    monkeypatch.setattr(opening, "memory_bytes", lambda device: (2**40, free))
    changes = dict(optim__batch_gpu="auto", run__snapshot_ticks=1, smart__frequency=0)
    assert main(["train", *tiny_options(tmp_path / "run", **changes, run__kimg=0.016)]) == 0
    assert "optim.batch_gpu auto: 4 of 8 images at a time" in capsys.readouterr().out
    assert parse_config(["--config", str(tmp_path / "run" / "config.yaml")]).optim.batch_gpu == 4
    asked = parse_config(tiny_options(tmp_path / "run", **changes))
    kept = [with_saved_images_at_a_time(tmp_path / "run", asked, processes).optim.batch_gpu for processes in (1, 2, 4)]
    assert kept == [4, 4, "auto"], "of four processes each has two images"
    monkeypatch.setattr(opening, "memory_bytes", lambda device: (2**40, 2**40))
    assert main(["train", *tiny_options(tmp_path / "run", **changes, run__kimg=0.032)]) == 0
    said = capsys.readouterr().out
    assert "batch_gpu" not in said
    assert main(["train", *tiny_options(tmp_path / "new", **changes, run__kimg=0.016)]) == 0
    assert "optim.batch_gpu auto: 8 of 8 images at a time" in capsys.readouterr().out


@pytest.mark.parametrize("preset", ["consistency_digits", "toy_ring"])
def test_families_that_read_the_schedule_of_the_scorer(preset: str) -> None:
    """A number of it, which a tensor without data does not have."""
    config = parse_config([f"--config={preset}"])
    dataset = open_dataset(config.data)
    found = peaks(config, dataset, 4, *open_scorer(config, dataset, CPU))
    assert found.scorer_bytes > 0 and min(found.phases.values()) > 0


def test_a_dry_run_shows_the_peaks(tiny_options: Callable[..., list[str]], tmp_path: Path, capsys) -> None:
    assert main(["train", *tiny_options(tmp_path / "run", run__dry_run="true")]) == 0
    said = capsys.readouterr().out
    assert "Memory, 8 images at a time, as plain PyTorch" in said and "phase d_r1" in said
    assert not (tmp_path / "run").exists()
