"""Consistency distillation: its function, its loss and its target against formulas in float64 and closed forms."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler
from torch import Tensor

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.config.small_families import ConsistencyLoss
from smartfast.core.checkpoint import load_newest
from smartfast.core.draws import Purpose
from smartfast.core.run_log import read_rows
from smartfast.data import open_dataset
from smartfast.errors import UserError
from smartfast.families.consistency.distillation import Teacher, noise_levels, pseudo_huber
from smartfast.families.consistency.family import Consistency
from smartfast.families.consistency.network import build_consistency
from smartfast.families.saved import open_sampler
from smartfast.kernels import philox_normal, philox_uniform
from smartfast.run.training import Training, real_batches
from smartfast.scorers import GaussianMixtureScorer, Scorer, load_scorer, timestep_range
from smartfast.scorers.diffusers import load_unet
from smartfast.scorers.loading import BUNDLED
from smartfast.scorers.schedule import edm_schedule, schedule_from_config

CPU = torch.device("cpu")
TINY = """--config=consistency_digits --gan.block_out_channels=[8,16] --gan.layers_per_block=1 --gan.norm_groups=4
--gan.attention_head_dim=8 --loss.intervals=10 --loss.target_decay=0.95 --optim.batch=16 --run.tracker=none
--run.tick_kimg=0.016 --run.snapshot_ticks=8 --metrics.samples=32 --metrics.every_ticks=8
--perf.cpu_threads=1""".split()


def train(run_dir: Path, kimg: float, *changes: str) -> dict[str, Tensor]:
    """The state at the end of a run in this process."""
    assert main(["train", *TINY, f"--run.dir={run_dir}", f"--run.kimg={kimg}", *changes]) == 0
    return load_newest(run_dir).state


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of 8 iterations, every fourth with the score term."""
    folder = tmp_path_factory.mktemp("consistency")
    train(folder, 0.128, "--smart.frequency=4")
    return folder


@pytest.fixture(params=[("heun", "step"), ("euler", "none")], ids="-".join)
def training(request: pytest.FixtureRequest) -> Training:
    solver, weighting = request.param
    options = [f"--loss.solver={solver}", f"--loss.weighting={weighting}", "--smart.frequency=4"]
    config = parse_config([*TINY, "--run.seed=3", *options])
    scorer = load_scorer("digits", precision="fp32")
    interval = timestep_range(scorer, config.smart)
    data = open_dataset(config.data)
    training = Training(config, data, scorer=scorer, timesteps=interval, device=CPU, say=lambda _: None)
    batches = real_batches(training)
    training.load(next(batches))
    batches.close()
    return training


def tiny_model(channels: int = 1, classes: int = 0, **noise: float):
    unet = dict(sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=[8, 16])
    blocks = dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, layers_per_block=1)
    more = dict(norm_num_groups=4, attention_head_dim=8, num_class_embeds=classes or None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build_consistency(unet | blocks | more, noise)


@pytest.mark.parametrize(("sigma_min", "sigma_data"), [(0.002, 0.5), (0.1, 1.3)])
def test_the_least_noise_is_given_back_and_the_rest_is_as_diffusers_has_it(sigma_min: float, sigma_data: float) -> None:
    model = tiny_model(sigma_min=sigma_min, sigma_data=sigma_data).requires_grad_(False)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x, torch.full((3,), sigma_min), None), x)
    scheduler = CMStochasticIterativeScheduler(sigma_min=sigma_min, sigma_data=sigma_data)
    scheduler.set_timesteps(num_inference_steps=7)
    for place in (0, 3, 6):
        scheduler._step_index, sigma = place, scheduler.sigmas[place]
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition(sigma)
        time = torch.tensor(scheduler.sigma_to_t(float(sigma))).float().expand(3)
        output = model.unet(scheduler.scale_model_input(x, time), time, return_dict=False)[0]
        torch.testing.assert_close(model(x, sigma.expand(3), None), c_skip * x + c_out * output, rtol=1e-4, atol=1e-4)


def gaussian(parameterization: str = "eps", mean: float = 0.3, std: float = 0.5) -> GaussianMixtureScorer:
    """The exact scorer of images that are N(mean, std^2) in every pixel."""
    schedule = (
        schedule_from_config({"beta_schedule": "linear"}, "test") if parameterization == "eps" else edm_schedule()
    )
    means, stds = torch.full((1, 1, 2, 2), mean, dtype=torch.float64), torch.tensor([std], dtype=torch.float64)
    return GaussianMixtureScorer(schedule, means, stds, parameterization=parameterization, dtype=torch.float64)


def closed_form(x: Tensor, sigma: float, to: float, *, mean: float = 0.3, std: float = 0.5) -> Tensor:
    """Where the probability flow of those images takes x from one noise to another."""
    return mean + (x - mean) * math.sqrt((std**2 + to**2) / (std**2 + sigma**2))


@pytest.mark.parametrize("parameterization", ["eps", "x0"])
@pytest.mark.parametrize("solver", ["heun", "euler"])
def test_the_scorers_steps_follow_the_flow_in_closed_form(parameterization: str, solver: str) -> None:
    """All pieces after one another, of coarser and of finer cuts: the error falls with the order of the solver."""
    scorer, errors = gaussian(parameterization), []
    for intervals in (20, 80):
        levels = noise_levels(ConsistencyLoss(intervals=intervals, sigma_min=0.02, sigma_max=50), scorer, CPU)
        teacher = Teacher(scorer, levels, heun=solver == "heun")
        count = len(levels.sigma) - 1
        start = levels.sigma[-1].item() * torch.linspace(-1, 1, 4, dtype=torch.float64).view(1, 1, 2, 2)
        x = start
        for piece in reversed(range(count)):
            x = teacher.step(x, torch.tensor([piece]), None)
        exact = closed_form(start, levels.sigma[-1].item(), levels.sigma[0].item())
        errors.append((x - exact).abs().max().item())
    assert errors[1] < errors[0] / (6 if solver == "heun" else 2) and errors[1] < (0.02 if solver == "heun" else 0.1)


def test_levels_lie_at_the_scorers_timesteps_and_none_twice() -> None:
    scorer = load_scorer("digits")
    levels = noise_levels(ConsistencyLoss(intervals=40), scorer, CPU)
    known = scorer.sigmas / scorer.alphas
    torch.testing.assert_close(levels.sigma[1:], known[levels.t[1:]], rtol=1e-5, atol=0)
    assert levels.sigma[0] == pytest.approx(0.002) and levels.sigma[-1] == pytest.approx(80, rel=0.02)
    assert bool((levels.sigma.diff() > 0).all()) and 30 < len(levels.sigma) <= 41
    chance = torch.distributions.Normal(-1.1, 2.0).cdf(levels.sigma.double().log()).diff()
    drawn = levels.drawn(philox_uniform(0, torch.arange(40_000), 1, 1)[:, 0]).bincount(minlength=len(chance))
    torch.testing.assert_close(drawn / drawn.sum(), (chance / chance.sum()).float(), rtol=0, atol=0.01)
    assert levels.drawn(torch.tensor([0.0, 1 - 2**-24])).tolist() == [0, len(chance) - 1]
    with pytest.raises(UserError, match=r"loss.sigma_max is 200, expected at most the 157"):
        noise_levels(ConsistencyLoss(sigma_max=200), scorer, CPU)


def test_a_scorer_of_an_interval_alone_is_no_teacher_of_all_noise() -> None:
    config, scorer = parse_config(["--config=consistency_digits"]), load_scorer("digits")
    Consistency.check_scorer(config, scorer)
    scorer.learnt_interval = (0.095, 0.96)
    with pytest.raises(UserError, match="has learnt sigma/alpha 0.095..0.96 alone, expected one of all noise"):
        Consistency.check_scorer(config, scorer)


def test_loss_and_target_are_those_of_the_formula(training: Training) -> None:
    family, (round_,) = training.family, training.rounds
    assert isinstance(family, Consistency)
    g, heun = family.modules["g"], family.loss.solver == "heun"
    scorer = load_scorer("digits", precision="fp32")
    for name in family.variables:
        family.variables[name].mul_(1.01)  # another network than the trained one
    spec = training.phases["g_main"].spec
    loss, statistics = spec.loss(round_)
    levels = noise_levels(family.loss, scorer, CPU)
    piece = levels.drawn(philox_uniform(3, round_.stream, 1, Purpose.G_MAIN + Purpose.CHOICES)[:, 0])
    noise = philox_normal(3, round_.stream, 256, int(Purpose.G_MAIN)).view_as(round_.images).double()
    sigma, target = levels.sigma.double(), build_consistency(**family.options()).double()
    trained = build_consistency(**family.options()).double()
    trained.load_state_dict(g.state_dict())
    target.load_state_dict({name: family.variables[f"target/{name}"] for name, _ in g.named_parameters()})
    expected, distances = 0.0, 0.0
    for n, image, z, label in zip(piece.tolist(), round_.images.detach().double(), noise, round_.labels, strict=True):
        high, low = sigma[n + 1], sigma[n]
        x = (image + high * z)[None]

        def slope(x: Tensor, level: int, label: Tensor = label[None]) -> Tensor:
            t = levels.t[level][None]
            return scorer.predict_eps((scorer.alphas[t].double().view(1, 1, 1, 1) * x).float(), t, label).double()

        first = slope(x, n + 1)
        below = x + (low - high) * first
        if heun and n > 0:
            below = x + (low - high) * (first + slope(below, n)) / 2
        a, b = trained(x, high[None], label[None]), target(below, low[None], label[None])
        c = 0.00054 * math.sqrt(256)
        distance = math.sqrt((a - b).square().sum().item() + c**2) - c
        weight = 1 / (high - low).item() if family.loss.weighting == "step" else 1.0
        expected += weight * distance / len(piece)
        distances += distance / len(piece)
    assert loss.item() == pytest.approx(expected, rel=2e-3)
    assert statistics["consistency/distance"].item() == pytest.approx(distances, rel=2e-3)
    scored, statistics = training.phases["g_score"].spec.loss(round_)
    assert scored.item() == pytest.approx(loss.item() + statistics["loss/score"].item(), rel=1e-5)


def test_the_target_follows_the_trained_weights_and_no_bad_step(training: Training) -> None:
    family = training.family
    (part,) = training.phases["g_main"].spec.carried
    name, parameter = next(iter(family.modules["g"].named_parameters()))
    value = family.variables[f"target/{name}"]
    assert torch.equal(value, parameter)
    first = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1.0)
    training.scalars.set(16)
    part.commit(torch.zeros(1), torch.tensor(1.0))
    assert torch.equal(value, first)
    part.commit(torch.zeros(1), torch.tensor(0.0))
    torch.testing.assert_close(value, first + 0.05)
    training.scalars.set(0)
    part.commit(torch.zeros(1), torch.tensor(0.0))
    assert torch.equal(value, parameter)


class OneMap(torch.nn.Module):
    """F(x, time) = a(time) x + b(time), a table of the levels: enough for the flow of Gaussian images."""

    def __init__(self, times: Tensor) -> None:
        super().__init__()
        self.times = times
        self.a, self.b = torch.nn.Parameter(torch.zeros(len(times))), torch.nn.Parameter(torch.zeros(len(times)))
        self.config = SimpleNamespace(in_channels=1, sample_size=2, num_class_embeds=None)

    def forward(self, x: Tensor, time: Tensor, class_labels: None, return_dict: bool) -> tuple[Tensor]:
        place = (self.times - time[:, None]).abs().argmin(dim=1)
        return (self.a[place, None, None, None] * x + self.b[place, None, None, None],)


def test_what_is_distilled_of_gaussian_images_is_their_flow_in_closed_form() -> None:
    """The fixed point of the loss, found level by level from the least noise up, against the solution of the ODE."""
    scorer: Scorer = gaussian()
    settings = ConsistencyLoss(intervals=60, sigma_min=0.02, sigma_max=20)
    levels = noise_levels(settings, scorer, CPU)
    levels = levels._replace(sigma=levels.sigma.double())
    teacher = Teacher(scorer, levels, heun=True)
    noise = dict(sigma_min=levels.sigma[0].item(), sigma_max=20.0, sigma_data=0.5)
    model = tiny_model(**noise)
    model.unet = OneMap(250 * levels.sigma.log()).double()
    x = torch.linspace(-2, 2, 8, dtype=torch.float64).view(2, 1, 2, 2)
    for piece in range(len(levels.sigma) - 1):
        high, low = levels.sigma[piece + 1].expand(2), levels.sigma[piece].expand(2)
        pair = 0.3 + x * high[0]
        with torch.no_grad():
            target = model(teacher.step(pair, torch.full((2,), piece), None), low, None)
        (a, b), place = (model.unet.a, model.unet.b), piece + 1
        for _ in range(2):  # the model is linear in its two numbers of this level, so a least-squares step is exact
            residual = (target - model(pair, high, None)).flatten()
            columns = []
            for parameter in (a, b):
                grown = parameter.detach().clone()
                with torch.no_grad():
                    before = model(pair, high, None).flatten()
                    parameter[place] += 1
                    columns.append(model(pair, high, None).flatten() - before)
                    parameter.copy_(grown)
            step = torch.linalg.lstsq(torch.stack(columns, dim=1), residual[:, None]).solution[:, 0].detach()
            with torch.no_grad():
                a[place] += step[0]
                b[place] += step[1]
        assert pseudo_huber(model(pair, high, None), target).max() < 1e-8
    top = levels.sigma[-1].item()
    start = 0.3 + top * x
    with torch.no_grad():
        found = model(start, torch.full((2,), top, dtype=torch.float64), None)
    exact = closed_form(start, top, levels.sigma[0].item())
    torch.testing.assert_close(found, exact, rtol=0, atol=0.01)


def test_it_trains_is_measured_drawn_and_reported(run: Path, tmp_path: Path) -> None:
    rows = read_rows(run / "metrics.jsonl")
    ticks = [row for row in rows if row["kind"] == "tick"]
    assert len(ticks) == 8 and all(row["skipped_steps"] == 0 for row in ticks)
    assert {row["tick"] for row in ticks if "loss/score" in row} == {1, 5}
    assert all(math.isfinite(row["metric/fd_digits"]) for row in rows if row["kind"] == "metrics")
    assert main(["generate", f"--checkpoint={run}", "--seeds=0-3", f"--out={tmp_path / 'one'}"]) == 0
    assert len(list((tmp_path / "one").glob("seed*.png"))) == 4
    assert main(["interpolate", f"--checkpoint={run}", "--seeds=0,1", "--steps=3", f"--out={tmp_path / 'p.png'}"]) == 0


@pytest.mark.slow
def test_a_run_that_stopped_ends_bit_equal(run: Path, tmp_path: Path) -> None:
    options = ["--smart.frequency=4", "--metrics.every_ticks=0"]
    train(tmp_path, 0.048, *options)
    state, end = train(tmp_path, 0.128, *options), load_newest(run).state
    assert any(name.startswith("target/") for name in end)
    assert state.keys() == end.keys() and [name for name in end if not torch.equal(state[name], end[name])] == []


def test_the_pipeline_beside_a_run_is_its_averaged_network(run: Path) -> None:
    ours, theirs = open_sampler(run), open_sampler(run / "pipeline")
    for steps in (1, 2):
        numbers = torch.arange(4)
        first, labels = ours.in_steps(steps).draw(Purpose.SAMPLE, numbers, numbers)
        assert torch.equal(first, theirs.in_steps(steps).draw(Purpose.SAMPLE, numbers, numbers)[0])
    with pytest.raises(UserError, match="steps is 12, expected at most the 11 of the model's schedule"):
        ours.in_steps(12)


def test_a_start_from_the_scorer_takes_what_fits(tmp_path: Path) -> None:
    scorer = BUNDLED["digits"]
    widths = ["--gan.block_out_channels=[16,32,64]", "--gan.norm_groups=8", "--gan.attention_head_dim=16"]
    train(tmp_path / "run", 0.016, *widths, f"--run.init_from={scorer}", "--optim.lr_g=1e-9", "--metrics.every_ticks=0")
    unet, here = load_unet(scorer).state_dict(), open_sampler(tmp_path / "run").module.unet.state_dict()
    assert unet.keys() == here.keys()
    for name, value in unet.items():
        torch.testing.assert_close(here[name], value, rtol=0, atol=1e-6)
    state = load_newest(tmp_path / "run").state
    torch.testing.assert_close(state["target/unet.conv_in.weight"], unet["conv_in.weight"], rtol=0, atol=1e-6)


LINES = {
    "no scorer": (["--smart.scorer=null"], "smart.scorer is not set, expected a diffusion model\n"),
    "half precision": (["--perf.precision=bf16"], "perf.precision is bf16, expected fp32 or tf32 with gan.family"),
    "noise": (["--loss.sigma_min=90"], "loss.sigma_min is 90, expected less than loss.sigma_max 80"),
    "scorer's noise": (["--loss.sigma_max=200"], "loss.sigma_max is 200, expected at most the 157 up to which"),
    "crop": (["--smart.crop=8"], "smart.crop is set, expected its default with gan.family consistency"),
    "halves": (["--gan.block_out_channels=[8,8,8,8,8,8]"], "expected the feature maps of the 16 pixels and, if more"),
    "groups": (["--gan.norm_groups=3"], "gan.block_out_channels is [8, 16]: num_channels (8) must be divisible by"),
}


@pytest.mark.parametrize("name", LINES)
def test_what_cannot_be_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options, line = LINES[name]
    assert main(["train", *TINY, f"--run.dir={tmp_path / 'run'}", *options]) == 2
    said = capsys.readouterr().err
    assert line in said and len(said.strip().splitlines()) == 1 and not (tmp_path / "run" / "checkpoints").exists()
