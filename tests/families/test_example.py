"""The example of docs/adding_a_family.md, run for real: a phase that repeats, buffers that move, a foreign loss.

Its networks are made tiny, its images are the bundled digits.
"""

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._dynamo.utils import counters

from smartfast.cli import main
from smartfast.config.families import FAMILY_SETTINGS
from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest
from smartfast.core.draws import Purpose
from smartfast.core.run_log import read_rows
from smartfast.data import RealBatch, open_dataset
from smartfast.families import FAMILIES
from smartfast.kernels import philox_normal
from smartfast.run.trainer import Trainer
from smartfast.run.training import Training
from smartfast.scorers import timestep_range
from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.schedule import schedule_from_betas

EXAMPLE = Path(__file__).parents[2] / "docs" / "dcgan.py"
TINY = """--gan.z_dim=8 --gan.width=4 --optim.batch=8 --smart.frequency=2 --metrics.every_ticks=0 --run.tracker=none
--run.tick_kimg=0.08 --run.snapshot_ticks=1 --perf.cpu_threads=1"""
BATCH, PER_ITERATION = 8, 16
NORMS = (1, 4)
"""Places of the batch norms in the generator."""


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dcgan", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["dcgan"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def example() -> Iterator[ModuleType]:
    yield load_example()
    del sys.modules["dcgan"], FAMILIES["dcgan"], FAMILY_SETTINGS["dcgan"]


def options(example: ModuleType, *changes: str) -> list[str]:
    return [*example.SETTINGS.split(), *TINY.split(), *changes]


def train(example: ModuleType, run_dir: Path, kimg: float) -> dict[str, Tensor]:
    """The state at the end of a run in this process."""
    assert main(["train", *options(example, f"--run.dir={run_dir}", f"--run.kimg={kimg}")]) == 0
    return load_newest(run_dir).state


def make_training(example: ModuleType, *changes: str) -> Training:
    """A run at its start, with a scorer that compiles in no time."""
    config = parse_config(options(example, *changes))
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(2, 1, 16, 16), torch.tensor([0.2, 0.5]))
    interval = timestep_range(scorer, config.smart)
    device, dataset = torch.device("cpu"), open_dataset(config.data)
    return Training(config, dataset, scorer=scorer, timesteps=interval, device=device, say=lambda line: None)


def reals(seed: int = 1) -> RealBatch:
    images = torch.randn(PER_ITERATION, 1, 16, 16, generator=torch.Generator().manual_seed(seed)).tanh()
    return RealBatch(images, torch.arange(PER_ITERATION) % 10)


def copied(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.state().items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name, value in a.items() if not torch.equal(value, b[name])]


@pytest.fixture(scope="module")
def run(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("dcgan")
    train(example, folder, 0.24)
    return folder


def test_it_is_short_and_the_guide_says_how_short() -> None:
    lines = len(EXAMPLE.read_text().splitlines())
    assert lines < 150 and (EXAMPLE.parent / "adding_a_family.md").read_text().count(f"{lines} lines") == 2


@pytest.mark.slow
def test_as_a_script_it_trains_and_knows_the_other_commands(run: Path, tmp_path: Path) -> None:
    def call(*arguments: str) -> str:
        command = [sys.executable, str(EXAMPLE), *arguments]
        return subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout

    plan = call("--run.dry_run=true", "--gan.width=8")
    assert all(words in plan for words in ("family: dcgan", "width: 8", "scorer: digits", "d_main ", "score "))
    assert "1 images" in call("generate", f"--checkpoint={run}", "--seeds=5", f"--out={tmp_path / 'five.png'}")
    assert (tmp_path / "five.png").is_file()


def test_it_trains_with_the_score_term(run: Path) -> None:
    ticks = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "tick"]
    assert [row["tick"] for row in ticks] == [1, 2, 3]
    for row in ticks:
        assert all(math.isfinite(row[f"loss/{name}"]) for name in ("d_main", "g_main", "score"))
        assert row["skipped_steps"] == 0 and {"ms/d_main", "ms/g_main", "ms/g_score"} <= row.keys()
    assert ticks[-1]["loss/d_main"] < ticks[0]["loss/d_main"]


def test_a_run_that_stopped_ends_bit_equal_running_statistics_included(
    example: ModuleType, run: Path, tmp_path: Path
) -> None:
    middle, end = train(example, tmp_path, 0.16), load_newest(run).state
    assert differing(train(example, tmp_path, 0.24), end) == []
    statistics = [name for name in end if "running" in name]
    assert {f"{of}{n}.running_{s}" for of in ("g/module/", "ema/") for n in NORMS for s in ("mean", "var")} == {
        *statistics
    }
    assert set(statistics) <= set(differing(middle, end))


def test_generate_evaluate_and_the_report_know_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], read_report: Callable
) -> None:
    for name, seeds in (("some", "0-5"), ("one", "3")):
        assert main(["generate", f"--checkpoint={run}", f"--out={tmp_path / name}", f"--seeds={seeds}"]) == 0
    pixels = [
        torch.frombuffer(bytearray(Image.open(f).tobytes()), dtype=torch.uint8).int()
        for f in tmp_path.glob("*/seed0003*")
    ]
    assert len(pixels) == 2 and (pixels[0] - pixels[1]).abs().max() <= 1  # running statistics, not those of a batch
    assert main(["evaluate", f"--checkpoint={run}", "--metrics.samples=64"]) == 0
    assert "fd_digits" in capsys.readouterr().out
    report = read_report(run / "report.html")
    assert {"Hinge loss", "Score term"} <= {panel["title"] for panel in report["panels"]} and report["strip"]
    assert main(["style-mix", f"--checkpoint={run}", f"--out={tmp_path / 'mix.png'}"]) == 2
    assert "checkpoint: found a network without style layers" in capsys.readouterr().err
    assert main(["generate", f"--checkpoint={run}", "--truncation_psi=0.5"]) == 2
    assert "a DCGAN has neither truncation nor noise" in capsys.readouterr().err


def test_two_discriminator_steps_per_iteration_on_images_and_numbers_of_their_own(example: ModuleType) -> None:
    training, seen, latents = make_training(example), [], []
    phase, batch = training.phases["d_main"], reals()
    compute = phase.compute
    phase.compute = lambda r: (
        seen.append((r.stream.clone(), r.images.detach().clone(), r.labels.clone())),
        compute(r),
    )[1]
    hook = training.family.modules["g"].register_forward_pre_hook(lambda module, inputs: latents.append(inputs[0]))
    for _ in range(2):
        training.run_iteration(batch)
    hook.remove()
    assert [stream.tolist() for stream, _, _ in seen] == [list(range(n, n + BATCH)) for n in (0, 8, 16, 24)]
    for turn, (_, images, labels) in enumerate(seen[:2]):
        places = slice(turn * BATCH, (turn + 1) * BATCH)
        assert torch.equal(images, batch.images[places]) and torch.equal(labels, batch.labels[places])
    draws = [(Purpose.D_MAIN, 0), (Purpose.D_MAIN, 8), (Purpose.G_MAIN, 0), (Purpose.D_MAIN, 16), (Purpose.D_MAIN, 24)]
    for z, (purpose, first) in zip(latents, [*draws, (Purpose.G_MAIN, 16)], strict=True):
        assert torch.equal(z, philox_normal(training.config.run.seed, torch.arange(first, first + BATCH), 8, purpose))
    state = training.state()
    assert (state["d/step"], state["g/step"], training.images) == (4, 2, 2 * PER_ITERATION)


class Passes:
    """The batch statistics of every forward pass of the generator's batch norms, by their place."""

    def __init__(self, module: nn.Sequential) -> None:
        self.of: dict[int, list[tuple[Tensor, Tensor]]] = {n: [] for n in NORMS}
        for n in NORMS:
            module[n].register_forward_pre_hook(lambda norm, inputs, n=n: self.of[n].append(batch_statistics(*inputs)))


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.detach().mean(dim=(0, 2, 3)), x.detach().var(dim=(0, 2, 3))


def assert_moved(state: dict[str, Tensor], passes: Passes, processes: int = 1) -> None:
    """Statistics that moved by a tenth in each pass, from 0 and 1; in each of several processes, whose mean counts."""
    for n in NORMS:
        for name, index, value in (("running_mean", 0, 0.0), ("running_var", 1, 1.0)):
            rows = [each[index] for each in passes.of[n]]
            for first in range(0, len(rows), processes):
                value = 0.9 * value + 0.1 * torch.stack(rows[first : first + processes]).mean(dim=0)
            assert torch.allclose(state[f"g/module/{n}.{name}"], value, rtol=1e-4, atol=1e-5), (n, name)
        assert state[f"g/module/{n}.num_batches_tracked"] == len(passes.of[n]) // processes


def test_running_statistics_move_once_per_forward_pass(example: ModuleType) -> None:
    training = make_training(example)
    passes = Passes(training.family.modules["g"])
    for _ in range(3):
        training.run_iteration(reals())
    assert len(passes.of[1]) == 9  # two of d_main and one of g_main or g_score in each iteration
    assert_moved(training.state(), passes)


@pytest.mark.parametrize("phase", ["d_main", "g_main", "g_score"])
def test_a_skipped_step_changes_nothing(example: ModuleType, phase: str) -> None:
    """The generator's passes are good, the discriminator's logits are not; the run has just been resumed."""
    earlier, training = make_training(example), make_training(example)
    earlier.run_iteration(reals())
    training.restore(earlier.state(), images=earlier.images)
    training.load(reals())
    with torch.no_grad():
        training.family.modules["d"][-1].bias.fill_(torch.nan)
        training.networks["d"].parameters.flat.nan_to_num_(nan=math.inf)  # equal to itself, unlike nan
    before, passes = copied(training), Passes(training.family.modules["g"])
    training.steps[phase]()
    assert len(passes.of[1]) == (2 if phase == "d_main" else 1)
    assert set(differing(before, training.state())) == {f"skipped/{phase}", f"skipped_in_a_row/{phase}"}


@pytest.fixture(scope="module")
def pair(example: ModuleType) -> Iterator[tuple[Training, Training]]:
    """The same run, eager and compiled, after two iterations, which run every phase but g_main."""
    counters.clear()
    runs = [make_training(example, "--smart.frequency=1", f"--perf.compile={c}") for c in ("false", "true")]
    for training in runs:
        for seed in (1, 2):
            training.run_iteration(reals(seed))
    yield tuple(runs)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["d_main", "g_score"])
def test_a_compiled_phase_is_one_graph_with_the_eager_loss_gradient_and_buffers(
    pair: tuple[Training, Training], phase: str
) -> None:
    eager, compiled = pair
    compiled.restore(eager.state(), images=eager.images)
    (loss, _, gradients), (compiled_loss, _, compiled_gradients) = (t.phases[phase].compute(t.rounds[0]) for t in pair)
    flat, compiled_flat = (torch.cat([g.flatten() for g in each]) for each in (gradients, compiled_gradients))
    assert loss != 0 and (compiled_loss - loss).abs() < 1e-5 * loss.abs()
    assert flat.norm() > 0 and (compiled_flat - flat).norm() < 1e-5 * flat.norm()
    moved, live = eager.moving.pending, eager.moving.live
    assert not torch.equal(moved, live) and torch.allclose(compiled.moving.pending, moved, rtol=1e-5, atol=1e-6)
    for training in pair:
        training.moving.pending.copy_(training.moving.live)
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]


@pytest.mark.slow
def test_compiled_iterations_move_the_buffers_as_eager_ones_do(pair: tuple[Training, Training]) -> None:
    eager, compiled = pair
    compiled.restore(eager.state(), images=eager.images)
    before = copied(eager)
    for training in pair:
        training.run_iteration(reals(3))
    assert eager.state()["g/module/1.num_batches_tracked"] == before["g/module/1.num_batches_tracked"] + 3
    for name, value in eager.state().items():
        if "running" in name or "num_batches" in name:
            assert not torch.equal(value, before[name]), name
            assert torch.allclose(compiled.state()[name], value, rtol=1e-4, atol=1e-5), name


def run_and_keep(trainer: Trainer, train=Trainer.run) -> bool:
    """Train, and leave this process's state in the run folder."""
    is_complete = train(trainer)
    torch.save(copied(trainer.training), trainer.run_dir / f"rank{trainer.accelerator.process_index}.pt")
    return is_complete


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates_but_for_the_mean_of_their_statistics(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch norm normalises the images of one process: two of them compute what one does in two rounds."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", __file__]
    arguments = options(example, "--run.kimg=0.08")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, *arguments, f"--run.dir={tmp_path / 'two'}"], check=True, timeout=180, env=environment)
    two, other = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert differing(two, other) == [] and differing(two, load_newest(tmp_path / "two").state) == []

    passes: list[Passes] = []

    def run_and_watch(trainer: Trainer, train=Trainer.run) -> bool:
        passes.append(Passes(trainer.training.family.modules["g"]))
        return train(trainer)

    monkeypatch.setattr(Trainer, "run", run_and_watch)
    rounds = [f"--run.dir={tmp_path / 'one'}", f"--optim.batch_gpu={BATCH // 2}"]
    assert main(["train", *arguments, *rounds]) == 0
    one = load_newest(tmp_path / "one").state
    assert {name for name in differing(two, one) if "running" not in name and "num_batches" not in name} == set()
    assert_moved(two, passes[0], processes=2)
    assert not torch.allclose(one["g/module/1.running_mean"], two["g/module/1.running_mean"], rtol=1e-3)


if __name__ == "__main__":
    load_example()
    Trainer.run = run_and_keep
    sys.exit(main(["train", *sys.argv[1:]]))
