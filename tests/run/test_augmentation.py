"""Augmentation in a run: p moves and is saved, nothing depends on how a batch is cut, bad settings are one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest
from smartfast.core.run_log import read_rows
from smartfast.data import RealBatch
from smartfast.errors import UserError
from smartfast.families.augmented import bound_remark
from smartfast.run.checks import check_settings
from smartfast.run.launch import launch
from smartfast.run.training import Training

Options = Callable[..., list[str]]
ADA = dict(augment__mode="ada", augment__kimg=0.1, augment__interval=2, augment__target=-1, run__tick_kimg=0.04)
"""p rises in every window: no mean of signs is below -1."""


def train(options: Options, run_dir: Path, kimg: float, **changes: object) -> dict[str, torch.Tensor]:
    """Train in this process; returns the last checkpoint's state."""
    assert launch(parse_config(options(run_dir, run__kimg=kimg, **ADA | changes)))
    return load_newest(run_dir).state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_options: Options) -> tuple[Path, dict[str, torch.Tensor]]:
    run_dir = tmp_path_factory.mktemp("whole")
    return run_dir, train(tiny_options, run_dir, 0.12)


def test_resumed_run_is_bit_equal(
    tmp_path: Path, tiny_options: Options, whole: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    """The first part ends within a window of the controller."""
    train(tiny_options, tmp_path, 0.04)
    resumed = train(tiny_options, tmp_path, 0.12)
    assert [name for name, value in whole[1].items() if not torch.equal(value, resumed[name])] == []


def test_p_is_logged_and_moves_as_its_settings_say(whole: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """15 steps of 8 images, 7 windows of 2, each 16 / 100."""
    run_dir, state = whole
    assert state["augment_p"].item() == pytest.approx(0.8) and state["augment_window"].tolist()[1] == 1
    rows = [row["augment/p"] for row in read_rows(run_dir / "metrics.jsonl") if row["kind"] == "tick"]
    assert rows[0] == pytest.approx(sum([0, 0, 0.16, 0.16, 0.32]) / 5) and rows[-1] == pytest.approx(0.8)


@pytest.mark.parametrize("pipe", ["bgc", "diff"])
def test_a_batch_in_parts_equals_the_whole(tmp_path: Path, tiny_options: Options, pipe: str) -> None:
    changes = dict(augment__pipe=pipe, loss__path_length_weight=0)  # the path mean sees one round at a time
    one = train(tiny_options, tmp_path / "one", 0.024, **changes)
    parts = train(tiny_options, tmp_path / "parts", 0.024, optim__batch_gpu=4, **changes)
    for name in ("ema/", "g/module/", "d/module/", "augment_p"):
        a, b = (torch.cat([v.flatten() for k, v in state.items() if k.startswith(name)]) for state in (parts, one))
        assert (a - b).norm() <= 1e-5 * b.norm(), name


def test_every_phase_sees_augmented_images(
    tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]
) -> None:
    """At p = 1 every loss of a phase with the discriminator differs from that at p = 0."""
    losses = []
    for p in (0.0, 1.0):
        training = tiny_training(augment__mode="fixed", augment__p=p)
        training.load(tiny_reals())
        losses.append({name: training.phases[name].compute(training.rounds[0])[0].item() for name in training.phases})
    never, always = losses
    for name in ("g_main", "g_score", "d_main", "d_r1"):
        assert abs(always[name] - never[name]) > 1e-4 * abs(never[name]), name
    assert always["g_path"] == never["g_path"]


@pytest.mark.parametrize(
    "phase", ["d_main", *(pytest.param(name, marks=pytest.mark.slow) for name in ("d_r1", "g_main", "g_score"))]
)
def test_a_phase_stays_one_graph_while_p_moves(
    phase: str, tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]
) -> None:
    """Compiled without code generation; the statistics have the p of each moment."""
    training = tiny_training(augment__mode="ada")
    training.load(tiny_reals())
    compute, p = training.phases[phase].compute, training.family.variables["augment_p"]
    torch._dynamo.reset()
    compiled = torch.compile(compute, fullgraph=True, backend="aot_eager")
    losses = []
    with torch._dynamo.config.patch(trace_autograd_ops=True, error_on_recompile=True):
        for value in (0.0, 0.5, 1.0):
            p.fill_(value)
            (loss, statistics, _), (expected, _, _) = compiled(training.rounds[0]), compute(training.rounds[0])
            torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
            assert phase != "d_main" or (statistics["augment/p"] == value and "augment/sign" in statistics)
            losses.append(loss.item())
    assert len(set(losses)) == 3


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["--augment.p=0.5"], "augment.p is set but augment.mode is off, expected fixed or ada"),
        (["--augment.pipe=blit"], "augment.pipe is set but augment.mode is off"),
        (
            ["--config=r3gan_cifar10", "--augment.mode=off"],
            r"augment.pipe is set but augment.mode is off, expected .* or with it --augment.pipe bgc --augment.p null",
        ),
        (
            ["--augment.mode=fixed", "--augment.p=1", "--augment.max_p=0.5"],
            "augment.max_p is set but augment.mode is f",
        ),
        (["--augment.mode=fixed"], "augment.p is unset, expected a probability with augment.mode fixed"),
        (
            ["--gan.family=denoiser", "--smart.frequency=0", "--augment.mode=ada"],
            "augment.mode is ada, expected off: denoiser has no discriminator that sees images",
        ),
    ],
)
def test_settings_that_do_not_fit(settings: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        check_settings(parse_config(settings), num_processes=1)


def test_a_bound_that_holds_p_is_remarked() -> None:
    augment = parse_config(["--augment.mode=ada"]).augment
    assert bound_remark(augment, {"augment/p": 0.5}) is None
    assert "augment.max_p 0.8 holds" in bound_remark(augment, {"augment/p": 0.8})
