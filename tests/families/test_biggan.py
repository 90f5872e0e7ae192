"""BigGAN in a run: what repeats, what moves and when, samples; each against a formula or another run."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest
from smartfast.core.draws import Purpose, one_hot
from smartfast.core.run_log import read_rows
from smartfast.data import RealBatch, open_dataset
from smartfast.engine.phase import Phase
from smartfast.errors import UserError
from smartfast.families.saved import open_sampler
from smartfast.kernels import philox_normal, philox_uniform
from smartfast.networks.biggan import Generator
from smartfast.run.checks import check_config, check_settings
from smartfast.run.launch import launch
from smartfast.run.training import Training
from smartfast.scorers import timestep_range
from smartfast.scorers.analytic import GaussianMixtureScorer
from smartfast.scorers.schedule import schedule_from_betas

BATCH, D_STEPS = 4, 2
PER_ITERATION = BATCH * D_STEPS
TINY: dict[str, object] = {
    "gan.family": "biggan",
    "gan.z_dim": 8,
    "gan.shared_dim": 4,
    "gan.width_g": 2,
    "gan.width_d": 2,
    "gan.attention_g": "[16]",
    "gan.attention_d": "[]",
    "gan.standing_passes": 2,
    "gan.standing_batch": 8,
    "loss.d_steps": D_STEPS,
    "loss.ortho_g": 0.01,
    "loss.ema_decay": 0.5,
    "loss.ema_start": 2,
    "data.labels": "true",
    "data.resolution": 32,
    "smart.timesteps": "[25,250]",
    "smart.noise_to_signal": "null",
    "smart.weight": 0.1,
    "smart.frequency": 2,
    "optim.batch": BATCH,
    "optim.lr_g": 0.001,
    "optim.lr_d": 0.001,
    "metrics.every_ticks": 0,
    "run.tracker": "none",
    "run.tick_kimg": PER_ITERATION / 1000,
    "run.snapshot_ticks": 50,
    "perf.cpu_threads": 1,
}
SMOOTH = {"optim.eps": 0.1, "optim.lr_g": 0.01, "optim.lr_d": 0.01}
"""With a small epsilon, Adam steps by the rounding of gradients that are 0, such as those of biases before norms."""
HERE = Path(__file__)
SLOW = pytest.mark.skipif("SMARTFAST_TEST_SLOW" not in os.environ, reason="ten seconds: SMARTFAST_TEST_SLOW=1 runs it")


def arguments(**changes: object) -> list[str]:
    settings = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--{name}={value}" for name, value in settings.items()]


def training(process: int = 0, processes: int = 1, **changes: object) -> Training:
    """A run at its start, with a scorer that costs nothing."""
    config = parse_config(arguments(**changes))
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(2, 1, 32, 32), torch.tensor([0.2, 0.5]))
    options: dict[str, Any] = dict(scorer=scorer, timesteps=timestep_range(scorer, config.smart))
    options |= dict(process_index=process, num_processes=processes, say=lambda line: None)
    return Training(config, open_dataset(config.data), device=torch.device("cpu"), **options)


def reals(seed: int = 1, places: Tensor | None = None) -> RealBatch:
    places = torch.arange(PER_ITERATION) if places is None else places
    images = torch.randn(PER_ITERATION, 1, 32, 32, generator=torch.Generator().manual_seed(seed)).tanh()
    return RealBatch(images[places], places % 10)


def copied(run: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.state().items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name, value in a.items() if not torch.equal(value, b[name])]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run with ADA and the score term."""
    folder = tmp_path_factory.mktemp("biggan")
    assert launch(parse_config(run_arguments(folder, 4)))
    return folder


def run_arguments(folder: Path, iterations: int) -> list[str]:
    ada = {
        "smart.scorer": "digits",
        "smart.downscale": 2,
        "smart.self_check": "false",
        "augment.mode": "ada",
        "augment.kimg": 0.1,
    }
    length = PER_ITERATION * iterations / 1000
    return [*arguments(run__dir=folder, run__kimg=length), *(f"--{name}={value}" for name, value in ada.items())]


def test_it_trains_with_ada_and_the_score_term(run: Path) -> None:
    ticks = [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "tick"]
    assert [row["tick"] for row in ticks] == [1, 2, 3, 4]
    named = {"loss/d_main", "loss/g_main", "loss/ortho_g", "logits/real", "augment/p"}
    named |= {"discriminator/accuracy", "gradient/d_main"}
    for row in ticks:
        assert all(math.isfinite(row[name]) for name in named) and row["skipped_steps"] == 0
        assert row.keys() >= {"spread/fakes", "spread/reals"}  # null where no two of four images are of one class
    assert [math.isfinite(row.get("loss/score", math.nan)) for row in ticks] == [True, False, True, False]


def test_a_run_that_stopped_ends_bit_equal_buffers_and_averages_included(run: Path, tmp_path: Path) -> None:
    assert launch(parse_config(run_arguments(tmp_path, 3)))
    middle = load_newest(tmp_path).state
    assert launch(parse_config(run_arguments(tmp_path, 4)))
    end = load_newest(run).state
    assert differing(load_newest(tmp_path).state, end) == []
    moved = [name for name in end if name.rpartition(".")[2] in ("u0", "sv0", "stored_mean", "stored_var")]
    assert {name.partition("/")[0] for name in moved} == {"g", "d", "ema"}
    still = [name for name in set(moved) - set(differing(middle, end)) if end[name].numel() > 1]
    assert still == []


def test_a_dry_run_draws_no_initial_weights(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Orthogonal ones of the preset for ImageNet took most of its time."""
    drawn, orthogonal = [], nn.init.orthogonal_
    monkeypatch.setattr(nn.init, "orthogonal_", lambda w: (drawn.append(w.device.type), orthogonal(w))[1])
    assert main(["train", *arguments(run__dry_run="true", smart__frequency=0)]) == 0
    assert set(drawn) == {"meta"}
    parameters = sum(p.numel() for p in training().family.modules["g"].parameters())
    assert f"{parameters:,}" in capsys.readouterr().out
    assert "cpu" in drawn


def test_generate_and_evaluate_use_standing_statistics(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", f"--checkpoint={run}", f"--out={tmp_path / 'some.png'}", "--seeds=0-3"]) == 0
    for path, more in (("cut.png", ["--truncation_threshold=0.5"]), ("path.png", ["--truncation_threshold=0.5"])):
        command = "interpolate" if path == "path.png" else "generate"
        assert main([command, f"--checkpoint={run}", f"--out={tmp_path / path}", "--seeds=0-3", *more]) == 0
    pictures = [(tmp_path / name).read_bytes() for name in ("some.png", "cut.png")]
    assert pictures[0] != pictures[1] and (tmp_path / "path.png").is_file()
    assert main(["evaluate", f"--checkpoint={run}", "--metrics.samples=16", "--metrics.features=digits"]) == 0
    assert "fd_digits" in capsys.readouterr().out
    sampler = open_sampler(run)
    g = sampler.module
    assert isinstance(g, Generator) and list(g.standing or ()) == [2, 8]
    numbers = torch.arange(6)
    images, _ = sampler.draw(Purpose.SAMPLE, numbers, numbers)
    for one in range(6):
        alone, _ = open_sampler(run).draw(Purpose.SAMPLE, numbers[one : one + 1], numbers[one : one + 1])
        assert torch.allclose(alone[0], images[one], atol=1e-5)
    z = philox_normal(0, numbers, 8, Purpose.SAMPLE)
    assert not torch.allclose(g(z, one_hot(numbers, 10)), images, atol=1e-2)  # as running statistics would have it
    assert main(["generate", f"--checkpoint={run}", "--truncation_psi=0.5", f"--out={tmp_path / 'x.png'}"]) == 2
    assert "BigGAN truncates by truncation_threshold" in capsys.readouterr().err


def test_each_discriminator_step_sees_images_numbers_and_latents_of_its_own() -> None:
    made, seen, latents = training(), [], []
    phase, batch = made.phases["d_main"], reals()
    compute = phase.compute
    phase.compute = lambda r: (seen.append((r.stream.tolist(), r.images.detach().clone(), r.labels)), compute(r))[1]
    hook = made.family.modules["g"].register_forward_pre_hook(lambda module, inputs: latents.append(inputs))
    for _ in range(2):
        made.run_iteration(batch)
    hook.remove()
    assert [stream for stream, _, _ in seen] == [list(range(n, n + BATCH)) for n in (0, 4, 8, 12)]
    for turn, (_, images, labels) in enumerate(seen[:2]):
        places = slice(turn * BATCH, (turn + 1) * BATCH)
        assert torch.equal(images, batch.images[places]) and torch.equal(labels, batch.labels[places])
    draws = [(Purpose.D_MAIN, 0), (Purpose.D_MAIN, 4), (Purpose.G_MAIN, 0)]
    draws += [(purpose, first + PER_ITERATION) for purpose, first in draws]
    seed = made.config.run.seed
    for (z, c), (purpose, first) in zip(latents, draws, strict=True):
        numbers = torch.arange(first, first + BATCH)
        assert torch.equal(z, philox_normal(seed, numbers, 8, purpose))
        which = philox_uniform(seed, numbers, 1, purpose + Purpose.CHOICES)[:, 0]
        labels = made.data_labels[(which * len(made.data_labels)).to(torch.int64)]
        assert torch.equal(c, one_hot(labels, 10))
    state = made.state()
    assert (state["d/step"], state["g/step"], made.images) == (4, 2, 2 * PER_ITERATION)


@pytest.mark.parametrize(("batch_gpu", "split_d", "of_d"), [(4, False, 2 + 1), (2, False, 4 + 2), (2, True, 8 + 2)])
def test_buffers_move_once_per_forward_pass_of_each_round(batch_gpu: int, split_d: bool, of_d: int) -> None:
    """Against their recurrences, from the inputs and weights of each pass."""
    made = training(optim__batch_gpu=batch_gpu, loss__split_d=split_d)
    g, d = made.family.modules["g"], made.family.modules["d"]
    norm, linear = g.blocks[1][0].bn1, d.linear
    state = {"mean": torch.zeros(8), "var": torch.ones(8), "u": linear.u0.clone(), "g": 0, "d": 0}

    def of_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().transpose(0, 1).flatten(1)
        state["mean"], state["var"] = 0.9 * state["mean"] + 0.1 * x.mean(1), 0.9 * state["var"] + 0.1 * x.var(1)
        state["g"] += 1

    def of_linear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        matrix, state["d"] = module.weight.detach(), state["d"] + 1
        v = state["u"] @ matrix
        u = v / v.norm() @ matrix.t()
        state["u"] = u / u.norm()

    norm.register_forward_pre_hook(of_norm)
    linear.register_forward_pre_hook(of_linear)
    rounds = BATCH // batch_gpu
    for iteration in range(1, 3):
        made.run_iteration(reals())
        assert (state["g"], state["d"]) == (iteration * rounds * (D_STEPS + 1), iteration * of_d)
    found = made.state()
    assert torch.allclose(found["g/module/blocks.1.0.bn1.stored_mean"], state["mean"], rtol=1e-4, atol=1e-5)
    assert torch.allclose(found["g/module/blocks.1.0.bn1.stored_var"], state["var"], rtol=1e-4, atol=1e-5)
    assert torch.allclose(found["d/module/linear.u0"], state["u"], atol=1e-5)


@pytest.mark.parametrize("phase", ["d_main", "g_main", "g_score"])
def test_a_skipped_step_changes_nothing(phase: str) -> None:
    """The generator's passes are good, the discriminator's logits are not; the run has just been resumed."""
    earlier, made = training(), training()
    earlier.run_iteration(reals())
    made.restore(earlier.state(), images=earlier.images)
    made.load(reals())
    with torch.no_grad():
        made.family.modules["d"].linear.bias.fill_(math.inf)
    before, moved = copied(made), []
    u0 = made.family.modules["g"].linear.u0
    made.family.modules["g"].register_forward_hook(lambda *_: moved.append(not torch.equal(u0, before_u0)))
    before_u0 = u0.clone()
    made.steps[phase]()
    assert moved and all(moved)
    assert set(differing(before, made.state())) == {f"skipped/{phase}", f"skipped_in_a_row/{phase}"}


@SLOW
@pytest.mark.parametrize("phase", ["d_main", "g_score"])
def test_a_phase_is_one_graph_with_the_eager_loss_gradient_and_buffers(phase: str) -> None:
    made = training(optim__batch_gpu=2)
    made.load(reals())
    loss, _, gradients = made.phases[phase].compute(made.rounds[0])
    moved = made.moving.pending.clone()
    assert not torch.equal(moved, made.moving.live)
    made.moving.pending.copy_(made.moving.live)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(made.phases[phase].compute, fullgraph=True, backend="aot_eager", dynamic=False)
        again, _, compiled_gradients = compiled(made.rounds[0])
        with torch.compiler.set_stance("fail_on_recompile"):
            compiled(made.rounds[1])
    assert loss != 0 and (again - loss).abs() <= 1e-5 * loss.abs()
    for gradient, other in zip(gradients, compiled_gradients, strict=True):
        assert (gradient - other).norm() <= 1e-4 * gradient.norm() + 1e-6
    made.moving.pending.copy_(made.moving.live)
    compiled(made.rounds[0])
    assert torch.allclose(made.moving.pending, moved, rtol=1e-4, atol=1e-5)


def test_an_iteration_reads_nothing_back_from_the_device(read_backs: Callable) -> None:
    run = training(augment__mode="ada")
    run.run_iteration(reals())
    with read_backs() as read:
        for _ in range(2):
            run.run_iteration(reals())
    assert read.found == []


def as_processes(made: Training, phase: Phase) -> None:
    """Each round is a process's: all start from the same buffers, whose mean counts."""
    compute, pending = phase.compute, []

    def of_round(batch: Any) -> Any:
        made.moving.pending.copy_(made.moving.live)
        result = compute(batch)
        pending.append(made.moving.pending.clone())
        if len(pending) == 2:
            made.moving.pending.copy_((pending[0] + pending[1]) / 2)
            pending.clear()
        return result

    phase.compute = of_round


@pytest.mark.slow
def test_two_processes_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    """Without synchronised statistics two rounds from one state; with them the whole batch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(HERE), str(tmp_path)]
    subprocess.run(command, check=True, timeout=600)
    for sync in (False, True):
        first, second = (torch.load(tmp_path / f"{sync}{rank}.pt", weights_only=True) for rank in range(2))
        assert differing(first, second) == []
        one = training(optim__batch_gpu=BATCH if sync else BATCH // 2, gan__sync_batch_norm=sync, **SMOOTH)
        if not sync:
            for phase in one.phases.values():
                as_processes(one, phase)
        for seed in (1, 2):
            one.run_iteration(reals(seed))
        if not sync:
            assert differing(first, one.state()) == []
        for name, value in one.state().items():
            assert torch.allclose(first[name], value, rtol=1e-3, atol=1e-5), (sync, name)


def run_one_of_two(folder: Path) -> None:
    """In each of two processes: two iterations with and without synchronised statistics."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for sync in (False, True):
        made = training(rank, 2, gan__sync_batch_norm=sync, **SMOOTH)
        for seed in (1, 2):
            made.run_iteration(reals(seed, made.offsets))
        torch.save(copied(made), folder / f"{sync}{rank}.pt")
    dist.destroy_process_group()


def test_the_average_is_a_copy_until_it_begins() -> None:
    made = training()
    made.run_iteration(reals(1))
    first = copied(made)
    for name in ("linear.weight", "linear.u0", "output_layer.0.stored_mean", "blocks.1.1.gamma"):
        assert torch.equal(first[f"ema/{name}"], first[f"g/module/{name}"]), name
    made.run_iteration(reals(2))
    second = made.state()
    for name in (name.removeprefix("ema/") for name in second if name.startswith("ema/")):
        expected = (first[f"ema/{name}"] + second[f"g/module/{name}"]) / 2
        assert torch.allclose(second[f"ema/{name}"], expected, atol=1e-6), name


def test_standing_batches_need_images_of_every_class(tmp_path: Path) -> None:
    """They have all classes alike, and what the network makes of an untrained one shifts the statistics of all."""
    labels = np.array([0, 1, 3, 3])
    np.savez(tmp_path / "set.npz", images=np.zeros((4, 16, 16), np.uint8), labels=labels)
    options = dict(data__path=tmp_path / "set.npz", data__resolution="null", data__classes="null")
    for sampling in ("running", "standing"):
        config = parse_config(arguments(**options, gan__sampling=sampling))
        dataset = open_dataset(config.data)
        if sampling == "running":
            check_config(config, dataset, device=torch.device("cpu"))
            continue
        with pytest.raises(UserError, match="expected running: 1 of 4 classes have no image .class 2 is the first"):
            check_config(config, dataset, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (dict(gan__shared_dim=0), "gan.shared_dim is 0, expected at least 1 with gan.hierarchical true"),
        (dict(data__resolution=8), "images are 8 pixels wide, expected 16, 32, 64, 128, 256 for gan.family biggan"),
        (dict(data__labels="false"), "data.labels is false, expected true with gan.family biggan"),
        (dict(gan__z_dim=3), "gan.z_dim is 3, expected at least 4, a number for each piece of z"),
        (dict(gan__attention_g="[64]"), "gan.attention_g has 64, expected resolutions out of 8, 16, 32"),
        (dict(gan__attention_d="[8]"), "gan.attention_d has 8, expected resolutions out of 16"),
        (
            dict(gan__width_d=1, gan__attention_d="[16]"),
            "gan.width_d is 1: attention has 4 channels, expected at least 8",
        ),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, object], line: str) -> None:
    config = parse_config(arguments(**changes))
    with pytest.raises(UserError, match=line):
        check_settings(config, num_processes=1)
        check_config(config, open_dataset(config.data), device=torch.device("cpu"))


if __name__ == "__main__":
    run_one_of_two(Path(sys.argv[1]))
