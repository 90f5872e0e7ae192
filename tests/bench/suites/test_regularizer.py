"""The regularizer suite computes the paper's term in every way that it times, and counts what it costs."""

from dataclasses import asdict
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.base.jobs import job_config
from bench.base.options import Options
from bench.base.results import Run
from bench.base.scorer_architectures import ARCHITECTURES, random_scorer, random_unet
from bench.base.timing import Failure, Timing
from bench.count.counter import count_eager
from bench.suites import regularizer as suite_regularizer
from bench.suites.score_steps import Setting, Step, Term, Way, alternatives, waterfall
from smartfast.scorers import load_scorer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(job_config("digits", []), CPU, batch=3)


@pytest.fixture(scope="module")
def expected(setting: Setting) -> Tensor:
    """Eq. 10 of arXiv 2311.18208, written out."""
    unet, weights = load_scorer("digits").unet, setting.weights
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, dim=0)[setting.t][:, None, None, None]
    images = setting.images()
    noised = (kept.sqrt() * images + (1 - kept).sqrt() * setting.eps).float()
    error = unet(noised, setting.t, class_labels=setting.labels).sample - setting.eps
    gradients = torch.autograd.grad(20 * (error**2).mean(), weights, allow_unused=True)
    return torch.cat(
        [torch.zeros(w.numel()) if g is None else g.flatten() for g, w in zip(gradients, weights, strict=True)]
    )


# What is compiled takes minutes, and runs on a GPU below.
EAGER = [step for step in waterfall("cuda") + [other for _, other in alternatives("cpu")] if not step.way.compiled]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "step", [s for s in EAGER if s.keeps_gradient and s.way.attention != "xformers"], ids=lambda step: step.name
)
def test_every_step_has_the_gradient_of_the_paper(setting: Setting, expected: Tensor, step: Step) -> None:
    gradient = Term(setting, step.way).generator_gradient()
    limit = 1e-4 if step.way.dtype == torch.float32 else 2e-2
    assert (gradient - expected).norm() <= limit * expected.norm()


def test_timed_calls_draw_their_own_noise(setting: Setting) -> None:
    term = Term(setting, Way(shared_fakes=True))
    first, second = term(), term()
    assert first.shape == setting.fakes.shape and not torch.equal(first, second)


def test_flops_are_those_that_run(setting: Setting) -> None:
    for way in (Way(), Way(shared_fakes=True)):
        with FlopCounterMode(display=False) as counter:
            Term(setting, way).compute(setting.fakes, setting.eps)
        assert setting.flops(way) == pytest.approx(counter.get_total_flops(), rel=1e-9)


@pytest.mark.parametrize("resolution", ARCHITECTURES)
def test_random_scorers_cost_what_the_papers_do(resolution: int) -> None:
    architecture = ARCHITECTURES[resolution]
    unet = random_unet(architecture, resolution, torch.device("meta"))
    x, t = torch.empty(1, 3, resolution, resolution, device="meta"), torch.zeros(1, dtype=torch.int64, device="meta")
    labels = t if "num_class_embeds" in architecture.unet else None
    flops = count_eager(lambda x, t: unet(x, t, class_labels=labels), x, t).flops
    assert flops / 1e9 == pytest.approx(architecture.gflop, rel=0.03)


def test_random_scorer_predicts_noise_of_its_images() -> None:
    scorer = random_scorer(ARCHITECTURES[32], 8, CPU)
    prediction = scorer.network(torch.randn(1, 3, 8, 8), torch.tensor([40]), torch.tensor([7]))
    assert prediction.shape == (1, 3, 8, 8) and prediction.isfinite().all()


@pytest.mark.parametrize("device_type", ["cuda", "cpu"])
def test_steps_change_one_thing_at_a_time(device_type: str) -> None:
    steps = waterfall(device_type)
    for before, after in [*pairwise(steps), *alternatives(device_type)]:
        changed = asdict(before.way).items() ^ asdict(after.way).items()
        assert len(changed) == 2, after.name
    assert steps[0].way == Way()


def test_wrong_gradient_gets_no_time(setting: Setting) -> None:
    way = Way(shared_fakes=True, fused=True, through_network=False)
    steps = [Step("claims to be the recipe", way), Step("does not", way, keeps_gradient=False)]
    wrong, other = suite_regularizer.measure_steps(setting, steps, Options(device=CPU, quick=True))
    assert isinstance(wrong.outcome, Failure) and "cosine" in wrong.outcome.error
    assert isinstance(other.outcome, Timing) and other.cosine < 0.99


def test_missing_library_is_an_error_of_its_row_alone(setting: Setting) -> None:
    steps = [Step("sdpa", Way(attention="sdpa")), Step("xformers", Way(attention="xformers"))]
    found = suite_regularizer.measure_steps(setting, steps, Options(device=CPU, quick=True))
    assert isinstance(found[0].outcome, Timing)
    assert isinstance(found[1].outcome, Failure) and "xformers" in found[1].outcome.error


@pytest.mark.slow
def test_rows_of_a_trial(tmp_path) -> None:
    options = Options(device=CPU, quick=True)
    with Run("regularizer", "test", device=CPU, quick=True, folder=tmp_path) as results:
        suite_regularizer.measure_waterfall("digits", job_config("digits", []), options, results)
    falls = [row for row in results.rows if row["kind"] == "waterfall"]
    assert [row["step"] for row in falls] == [step.name for step in waterfall("cpu") if not step.way.compiled]
    for row in results.rows:
        assert row["sec_per_kimg"] == pytest.approx(1000 * row["median_sec"] / (row["batch"] * row["frequency"]))
        assert row["cosine"] > 0.9999 and row["peak_bytes"] > 0
    swept = [(row["step"], row["frequency"]) for row in results.rows if row["kind"] == "sweep"]
    assert swept == [(falls[place]["step"], f) for place in (0, -1) for f in (1, 2, 4, 8, 16)]


def test_spent_budget_is_said(tmp_path) -> None:
    with Run("regularizer", "test", device=CPU, folder=tmp_path) as results:
        suite_regularizer.run(Options(device=CPU, budget_sec=0.0), results)
    assert results.rows == [] and "waterfall of digits" in results.path.read_text()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_whole_waterfall_on_a_gpu() -> None:
    device = torch.device("cuda")
    setting = Setting(job_config("digits", []), device, batch=4)
    found = suite_regularizer.measure_steps(setting, waterfall("cuda"), Options(device=device, quick=True))
    assert [one.step.name for one in found if isinstance(one.outcome, Failure)] == []


def test_a_recipe_that_does_not_fit_is_measured_with_fewer_images(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    honest = Setting.recipe_gradient

    def limited(setting: Setting) -> Tensor:
        if setting.batch > 2:
            raise torch.OutOfMemoryError("out of memory")
        return honest(setting)

    monkeypatch.setattr(Setting, "recipe_gradient", limited)
    config = job_config("digits", ["--optim.batch=8"])
    with Run("regularizer", "test", device=CPU, folder=tmp_path) as results:
        setting = suite_regularizer.fitting_setting("digits", config, Options(device=CPU), results)
    assert setting.batch == 2
    text = results.path.read_text()
    assert "digits with batch 8: the recipe does not fit" in text and "digits with batch 4" in text


@pytest.mark.slow
def test_a_sweep_leaves_out_what_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    honest = Setting.recipe_gradient

    def limited(setting: Setting) -> Tensor:
        if setting.batch > 2 or setting.resolution > 16:
            raise torch.OutOfMemoryError("out of memory")
        return honest(setting)

    monkeypatch.setattr(Setting, "recipe_gradient", limited)
    monkeypatch.setattr(suite_regularizer, "measure", partial(suite_regularizer.measure, min_sec=0, warm_up_sec=0))
    with Run("regularizer", "test", device=CPU, folder=tmp_path) as results:
        config = job_config("digits", ["--optim.batch=2"])
        suite_regularizer.measure_sweep("digits", config, Options(device=CPU), results)
    assert {(row["batch"], row["resolution"]) for row in results.rows} == {(1, 16), (2, 8)}
    assert all("error" not in row and row["cosine"] > 0.9999 for row in results.rows)
    text = results.path.read_text()
    assert "batch 4: the recipe does not fit in memory" in text and "resolution 32: the recipe does not" in text
