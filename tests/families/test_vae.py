"""The autoencoder family on the common trainer: its bound against torch.distributions, and what cannot be."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest
from smartfast.core.draws import Purpose
from smartfast.core.run_log import read_rows
from smartfast.data import open_dataset
from smartfast.errors import UserError
from smartfast.families.vae.family import Vae
from smartfast.kernels import philox_normal
from smartfast.networks.vae import Autoencoder
from smartfast.run.training import Training, real_batches
from smartfast.scorers import load_scorer, timestep_range

TINY = """--config=vae_digits --gan.width=8 --gan.z_dim=5 --optim.batch=16 --run.tracker=none --run.tick_kimg=0.016
--run.snapshot_ticks=1 --metrics.samples=32 --metrics.every_ticks=4 --perf.cpu_threads=1""".split()


def train(run_dir: Path, kimg: float, *changes: str) -> dict[str, Tensor]:
    """The state at the end of a run in this process."""
    assert main(["train", *TINY, f"--run.dir={run_dir}", f"--run.kimg={kimg}", *changes]) == 0
    return load_newest(run_dir).state


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of 8 iterations, every fourth with the score term."""
    folder = tmp_path_factory.mktemp("vae")
    train(folder, 0.128)
    return folder


@pytest.fixture
def training() -> Training:
    config = parse_config([*TINY, "--run.seed=3"])
    scorer = load_scorer("digits", precision="fp32")
    interval = timestep_range(scorer, config.smart)
    data = open_dataset(config.data)
    training = Training(config, data, scorer=scorer, timesteps=interval, device=torch.device("cpu"), say=lambda _: None)
    batches = real_batches(training)
    training.load(next(batches))
    batches.close()
    return training


def test_the_loss_is_the_evidence_lower_bound(training: Training) -> None:
    g, (round_,) = training.family.modules["g"].double(), training.rounds
    images, c = round_.images.detach().double(), F.one_hot(round_.labels, 10).double()
    mean, log_variance = g.encode(images, c)
    posterior = Normal(mean, (log_variance / 2).exp())
    z = mean + posterior.stddev * philox_normal(3, round_.stream, 5, int(Purpose.G_MAIN)).double()
    likelihood = Normal(g.decode(z, c), 0.3).log_prob(images).sum(dim=(1, 2, 3))
    constant = 256 * math.log(0.3 * math.sqrt(2 * math.pi))
    rate = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    bound = (-(likelihood + constant) + rate).mean() / 256
    g.float()
    loss, statistics = training.phases["g_main"].spec.loss(round_)
    assert loss.detach().item() == pytest.approx(float(bound), rel=1e-5)
    assert statistics["vae/rate"].item() == pytest.approx(float(rate.mean()), rel=1e-4)
    scored, statistics = training.phases["g_score"].spec.loss(round_)
    assert statistics["loss/score"] > 0
    assert scored.detach().item() == pytest.approx(float(bound) + statistics["loss/score"].item(), rel=1e-5)


def test_the_term_trains_the_decoder_alone(training: Training) -> None:
    (round_,), g = training.rounds, training.family.modules["g"]
    losses = [training.phases[name].spec.loss(round_)[0] for name in ("g_main", "g_score")]
    named = dict(g.named_parameters())
    main_, whole = (torch.autograd.grad(loss, list(named.values()), retain_graph=True) for loss in losses)
    moved = {name.split(".")[0] for name, a, b in zip(named, main_, whole, strict=True) if not torch.allclose(a, b)}
    assert moved == {"start", "up", "last"}


@pytest.mark.parametrize(("resolution", "channels", "classes"), [(8, 1, 0), (16, 3, 4), (64, 2, 0)])
def test_shapes_and_a_latent_that_is_as_far_from_the_image_as_it_may_be(
    resolution: int, channels: int, classes: int
) -> None:
    network = Autoencoder(resolution, channels, classes, z_dim=3, width=8)
    c = torch.eye(classes)[:2] if classes else None
    mean, log_variance = network.encode(1e6 * torch.ones(2, channels, resolution, resolution), c)
    assert mean.shape == log_variance.shape == (2, 3)
    assert network.decode(mean, c).shape == (2, channels, resolution, resolution)
    with torch.no_grad():
        network.latent.bias.fill_(1e6)
    assert network.encode(torch.zeros(2, channels, resolution, resolution), c)[1].exp().isfinite().all()


def test_it_trains_is_measured_drawn_and_reported(run: Path, tmp_path: Path) -> None:
    rows = read_rows(run / "metrics.jsonl")
    ticks = [row for row in rows if row["kind"] == "tick"]
    assert len(ticks) == 8 and all(row["skipped_steps"] == 0 for row in ticks)
    assert {row["tick"] for row in ticks if "loss/score" in row} == {1, 5}
    assert ticks[-1]["vae/error"] < ticks[0]["vae/error"]
    assert all(math.isfinite(row["metric/fd_digits"]) for row in rows if row["kind"] == "metrics")
    assert main(["generate", f"--checkpoint={run}", "--seeds=0-3", f"--out={tmp_path}"]) == 0
    assert len(list(tmp_path.glob("seed*.png"))) == 4


@pytest.mark.slow
def test_a_run_that_stopped_ends_bit_equal(run: Path, tmp_path: Path) -> None:
    train(tmp_path, 0.048)
    state, end = train(tmp_path, 0.128), load_newest(run).state
    assert state.keys() == end.keys() and [name for name in end if not torch.equal(state[name], end[name])] == []


LINES = {
    "width": (["--gan.width=12"], "gan.width is 12, expected a multiple of 8 with gan.family vae"),
    "half precision": (["--perf.precision=bf16"], "perf.precision is bf16, expected fp32 or tf32 with gan.family vae"),
    "balance": (["--smart.balance=0.1"], "smart.balance is set, expected null with gan.family vae"),
    "augmentation": (["--augment.mode=ada"], "augment.mode is ada, expected off: vae has no discriminator"),
}


@pytest.mark.parametrize("name", LINES)
def test_what_cannot_be_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, line = LINES[name]
    assert main(["train", *TINY, f"--run.dir={tmp_path / 'run'}", *options]) == 2
    said = capsys.readouterr().err
    assert line in said and len(said.strip().splitlines()) == 1 and not (tmp_path / "run").exists()


def test_images_too_small_are_refused(training: Training) -> None:
    with pytest.raises(UserError, match="found 4 pixels, expected at least 8 with gan.family vae"):
        Vae.check_data(training.config, SimpleNamespace(resolution=4))
