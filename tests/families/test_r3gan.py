"""R3GAN in a run: phases alike eager and compiled, with and without half precision; penalties; settings."""

import math
from pathlib import Path

import pytest
import torch

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.core.run_log import read_rows
from smartfast.data import RealBatch, open_dataset
from smartfast.errors import UserError
from smartfast.families.adversarial import squared_difference, squared_gradient
from smartfast.run.checks import check_config, check_settings
from smartfast.run.launch import launch
from smartfast.run.training import Training
from smartfast.scorers import load_scorer, timestep_range

TINY = {
    "gan.family": "r3gan",
    "gan.z_dim": 8,
    "gan.widths": "[8,8,4]",
    "gan.cardinalities": "[4,4,2]",
    "gan.blocks": "[1,1,1]",
    "data.labels": "true",
    "data.resolution": 16,
    "smart.scorer": "digits",
    "smart.timesteps": "[25,250]",
    "optim.batch": 8,
    "smart.frequency": 2,
    "metrics.every_ticks": 0,
    "run.tracker": "none",
    "run.tick_kimg": 0.04,
    "run.snapshot_ticks": 1,
    "perf.cpu_threads": 1,
    "augment.mode": "fixed",
    "augment.pipe": "r3gan",
    "augment.p": 0.3,
}


def arguments(**changes: object) -> list[str]:
    settings = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--{name}={value}" for name, value in settings.items()]


def training(**changes: object) -> Training:
    config = parse_config(arguments(**changes))
    scorer = load_scorer("digits")
    options = dict(scorer=scorer, timesteps=timestep_range(scorer, config.smart), device=torch.device("cpu"))
    return Training(config, open_dataset(config.data), say=lambda line: None, **options)


@pytest.fixture
def reals() -> RealBatch:
    images = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(1)).tanh()
    return RealBatch(images, torch.arange(8))


def computed(run: Training, name: str, reals: RealBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and flat gradient of a phase, of networks whose last convolutions are no longer 0."""
    generator = torch.Generator().manual_seed(3)
    for network in run.networks.values():
        flat = network.parameters.flat
        flat.add_(0.1 * torch.randn(flat.shape, generator=generator))
    run.load(reals)
    loss, _, gradients = run.phases[name].compute(run.rounds[0])
    return loss, torch.cat([g.flatten() for g in gradients])


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("phase", "penalty"), [("d_main", "exact"), ("d_main", "finite_difference"), ("g_score", "exact")]
)
def test_a_phase_is_one_graph_with_the_eager_loss_and_gradients(phase: str, penalty: str, reals: RealBatch) -> None:
    run = training(loss__penalty=penalty)
    loss, gradient = computed(run, phase, reals)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(run.phases[phase].compute, fullgraph=True, backend="aot_eager")
        again, _, gradients = compiled(run.rounds[0])
    assert loss != 0 and (again - loss).abs() <= 1e-5 * loss.abs()
    assert (torch.cat([g.flatten() for g in gradients]) - gradient).norm() <= 1e-4 * gradient.norm()


def test_half_precision_is_near(reals: RealBatch) -> None:
    for phase in ("d_main", "g_main"):
        full, half = (computed(training(perf__precision=p), phase, reals)[1] for p in ("fp32", "bf16"))
        assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.99, phase


def test_a_finite_difference_has_the_mean_of_the_exact_penalty() -> None:
    """Of a network whose gradient is known, over many directions."""
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64).expand(20_000, -1, -1, -1).requires_grad_()
    weight = torch.randn(48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def d(x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ weight)[:, None]

    exact = squared_gradient(d(x), x).detach()
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = squared_difference(d(x + 0.01 * direction), d(x), 0.01).detach()
    assert exact[0].item() == pytest.approx(weight.square().sum().item())
    assert found.mean().item() == pytest.approx(exact[0].item(), rel=4.5 * math.sqrt(2 / len(x)))


def test_run_resumes_exactly_and_samples(tmp_path: Path) -> None:
    def run(folder: str, kimg: float) -> bytes:
        assert launch(parse_config(arguments(run__dir=tmp_path / folder, run__kimg=kimg)))
        newest = max((tmp_path / folder / "checkpoints").iterdir())
        return (newest / "state.safetensors").read_bytes()

    whole = run("whole", 0.08)
    run("parts", 0.04)
    assert run("parts", 0.08) == whole
    row = read_rows(tmp_path / "parts" / "metrics.jsonl")[-1]
    signs = ("discriminator/accuracy", "spread/fakes", "spread/reals", "gradient/d_main", "image_gradient/score")
    assert all(math.isfinite(row[name]) for name in signs)
    out = tmp_path / "x.png"
    main(["generate", "--checkpoint", str(tmp_path / "whole"), "--seeds", "0-3", "--classes", "7", "--out", str(out)])
    assert out.is_file()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (dict(gan__blocks="[1,1]"), "gan.blocks has 2 stages, expected 3, as gan.widths has"),
        (dict(gan__cardinalities="[4,3,2]"), "gan.cardinalities has 3, expected a divisor of the 16 feature maps"),
        (
            dict(gan__widths="[8,8]", gan__cardinalities="[4,4]", gan__blocks="[1,1]"),
            "gan.widths has 2 stages, for images of 8 pixels, expected one for each doubling from 4 to the 16 pixels",
        ),
        (
            {"augment__mode": "ada", "augment__p": "{kind: cosine, kimg: [0, 1], values: [0, 0.5]}"},
            "augment.p is a schedule, expected a number with augment.mode ada",
        ),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, str], line: str) -> None:
    config = parse_config(arguments(**changes))
    with pytest.raises(UserError, match=line):
        check_settings(config, num_processes=1)
        check_config(config, open_dataset(config.data), device=torch.device("cpu"))


def test_augmentation_follows_its_schedule(reals: RealBatch) -> None:
    run = training(augment__p="{kind: linear, kimg: [0, 0.016], values: [0, 0.5]}")
    found: list[float] = []
    for _ in range(3):
        run.run_iteration(reals)
        found.append(run.statistics.read()["augment/p"])
    assert found == pytest.approx([0, 0.25, 0.5])
