"""Aurora in a run: every phase eager and compiled, experts in the statistics, resuming, bad steps, two processes."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smartfast.cli import main
from smartfast.config.parse import parse_config
from smartfast.core.checkpoint import load_newest
from smartfast.core.draws import Purpose
from smartfast.core.run_log import read_rows
from smartfast.data import RealBatch, open_dataset
from smartfast.errors import UserError
from smartfast.run.checks import check_config, check_settings
from smartfast.run.training import Training
from smartfast.scorers import GaussianMixtureScorer, timestep_range
from smartfast.scorers.schedule import schedule_from_betas

TINY = {
    "gan.family": "aurora",
    "gan.z_dim": 8,
    "gan.w_dim": 8,
    "gan.mapping_layers": 2,
    "gan.mapping_width": 8,
    "gan.embedding": 4,
    "gan.kernels": "[1,2]",
    "gan.blocks": "[1,1]",
    "gan.attention": "[0,1]",
    "gan.experts": "[0,3]",
    "gan.channel_base": 256,
    "gan.channel_max": 32,
    "gan.heads": 2,
    "gan.head_dim": 8,
    "gan.deformable": "true",
    "gan.d_channel_base": 64,
    "gan.d_channel_max": 8,
    "gan.d_mapping_layers": 1,
    "loss.r1_gamma": 1,
    "loss.r1_interval": 2,
    "data.labels": "true",
    "data.resolution": 8,
    "smart.scorer": "digits",
    "smart.timesteps": "[25,250]",
    "smart.frequency": 2,
    "smart.self_check": "false",
    "optim.batch": 8,
    "metrics.every_ticks": 0,
    "run.tracker": "none",
    "run.tick_kimg": 0.04,
    "run.snapshot_ticks": 1,
    "perf.cpu_threads": 1,
    "augment.mode": "fixed",
    "augment.pipe": "blit",
    "augment.p": 0.3,
}
AT_16 = {
    "data.resolution": 16,
    "gan.kernels": "[1,1,2]",
    "gan.blocks": "[1,1,1]",
    "gan.attention": "[0,1,0]",
    "gan.experts": "[0,3,0]",
}
"""For whole runs: the resolution of the scorer of the digits."""
PHASES = ("g_main", "g_score", "d_main", "d_r1")


def arguments(**changes: object) -> list[str]:
    settings = TINY | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--{name}={value}" for name, value in settings.items()]


def training(**changes: object) -> Training:
    """A run at its start, with a scorer that compiles in no time."""
    config = parse_config(arguments(**changes))
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(2, 1, 8, 8), torch.tensor([0.2, 0.5]))
    options = dict(scorer=scorer, timesteps=timestep_range(scorer, config.smart), device=torch.device("cpu"))
    return Training(config, open_dataset(config.data), say=lambda line: None, **options)


def reals(seed: int = 1) -> RealBatch:
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).tanh()
    return RealBatch(images, torch.arange(8))


def scattered(run: Training) -> Training:
    """No tensor is at its start, where attention and offsets have no effect."""
    generator = torch.Generator().manual_seed(3)
    for network in run.networks.values():
        flat = network.parameters.flat
        flat.add_(0.1 * torch.randn(flat.shape, generator=generator))
    run.load(reals())
    return run


def copied(run: Training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.state().items()}


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name, value in a.items() if not torch.equal(value, b[name])}


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", ["g_score", *(pytest.param(name, marks=pytest.mark.slow) for name in PHASES if name != "g_score")]
)
def test_a_phase_is_one_graph_with_the_eager_loss_and_gradients(phase: str) -> None:
    run = scattered(training())
    loss, statistics, gradients = run.phases[phase].compute(run.rounds[0])
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(run.phases[phase].compute, fullgraph=True, backend="aot_eager")
        again, others, compiled_gradients = compiled(run.rounds[0])
    flat, compiled_flat = (torch.cat([g.flatten() for g in each]) for each in (gradients, compiled_gradients))
    assert loss != 0 and (again - loss).abs() <= 1e-5 * loss.abs()
    assert flat.norm() > 0 and (compiled_flat - flat).norm() <= 1e-4 * flat.norm()
    assert statistics.keys() == others.keys()


def test_an_iteration_reads_nothing_back_from_the_device(read_backs: Callable) -> None:
    run = training(augment__mode="ada")
    run.run_iteration(reals())
    with read_backs() as read:
        for _ in range(2):
            run.run_iteration(reals())
    assert read.found == []


def test_the_losses_of_the_experts_join_with_their_weights() -> None:
    """The loss is linear in both weights; the image's part is what remains without them."""
    runs = [scattered(training(loss__balance_weight=b, loss__router_weight=r)) for b, r in ((0, 0), (2, 0), (0, 3))]
    (plain, s, _), (balanced, _, _), (routed, _, _) = (run.phases["g_main"].compute(run.rounds[0]) for run in runs)
    torch.testing.assert_close(plain, s["loss/g_main"])
    torch.testing.assert_close(balanced - plain, 2 * s["loss/balance"])
    torch.testing.assert_close(routed - plain, 3 * s["loss/router"])
    assert s["experts/busiest"] >= 1 >= s["experts/idlest"] and 0 < s["experts/entropy"] <= 1


@pytest.mark.parametrize("phase", PHASES)
def test_a_skipped_step_changes_nothing(phase: str) -> None:
    """The mean w stays too. The run has just been resumed."""
    earlier, run = training(), training()
    earlier.run_iteration(reals())
    run.restore(earlier.state(), images=earlier.images)
    run.load(reals())
    with torch.no_grad():
        run.family.modules["d"].b4.out.weight.fill_(math.inf)
    before = copied(run)
    run.steps[phase]()
    assert differing(before, run.state()) == {f"skipped/{phase}", f"skipped_in_a_row/{phase}"}


def test_the_mean_w_follows_the_latents_of_the_generator() -> None:
    run = training(gan__w_avg_beta=0.75)
    sampler = run.family.sampler(run.family.g, data_labels=run.data_labels, seed=run.config.run.seed)
    w, labels = sampler.w(Purpose.G_MAIN, torch.arange(8), None)
    assert labels is not None and labels.min() >= 0 and labels.max() < 10
    run.run_iteration(reals())
    torch.testing.assert_close(run.state()["g/module/w_avg"], 0.25 * w.mean(dim=0))


@pytest.mark.parametrize("classes", [list(range(10)), [0, 3, 4, 9]])
def test_drawn_labels_are_of_all_classes_with_images_alike(classes: list[int]) -> None:
    """However many images each has; of a class without any the discriminator would know every fake by its label."""
    g = training().family.g
    plain = training().family.sampler(g, data_labels=torch.arange(10), seed=2)
    sampler = plain.of_data(torch.tensor([*classes, *[classes[0]] * 50]), seed=1)
    _, labels = sampler.w(Purpose.SAMPLE, torch.arange(20_000), None)
    assert labels is not None
    counts, expected = labels.bincount(minlength=10), 20_000 / len(classes)
    assert counts.nonzero()[:, 0].tolist() == classes
    assert (counts[classes] - expected).abs().max() < 5 * math.sqrt(expected)


def test_attention_learns_at_its_own_rate() -> None:
    moved = {}
    for factor in (1.0, 0.2):
        run = scattered(training(gan__attention_lr=factor))
        weights = {name: parameter.detach() for name, parameter in run.family.g.named_parameters()}
        before = {name: weight.clone() for name, weight in weights.items()}
        run.run_iteration(reals())
        moved[factor] = {name: (weight - before[name]).norm().item() for name, weight in weights.items()}
    for name, factor in (("synthesis.net.2.0.attn_blocks.0.self_attn.to_v.weight", 0.2), ("mapping.dense0.weight", 1)):
        assert moved[0.2][name] / moved[1.0][name] == pytest.approx(factor, rel=0.02)


def test_half_precision_is_near() -> None:
    """Without experts, where a token between two of them may change over."""
    for phase in ("d_main", "g_main"):
        runs = [scattered(training(perf__precision=p, gan__experts="[0,0]")) for p in ("fp32", "bf16")]
        full, half = (torch.cat([g.flatten() for g in r.phases[phase].compute(r.rounds[0])[2]]) for r in runs)
        assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.99, phase


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("aurora")
    assert main(["train", *arguments(run__dir=folder, run__kimg=0.08, **AT_16)]) == 0
    return folder


def test_statistics_are_there_and_finite_and_in_the_report(whole: Path, read_report: Callable) -> None:
    ticks = [row for row in read_rows(whole / "metrics.jsonl") if row["kind"] == "tick"]
    losses = [f"loss/{name}" for name in ("d_main", "g_main", "score", "r1", "balance", "router")]
    for row in ticks:
        signs = ("discriminator/accuracy", "spread/fakes", "gradient/d_main", "image_gradient/score")
        found = [row[name] for name in (*losses, *signs, "experts/busiest", "experts/idlest", "experts/entropy")]
        assert all(map(math.isfinite, found)) and row["skipped_steps"] == 0
    titles = {panel["title"] for panel in read_report(whole / "report.html")["panels"]}
    assert {"Expert load", "Routing entropy (mean)", "R1 penalty", "Score term"} <= titles


def test_a_run_that_stopped_ends_bit_equal(whole: Path, tmp_path: Path) -> None:
    for kimg in (0.04, 0.08):
        assert main(["train", *arguments(run__dir=tmp_path, run__kimg=kimg, **AT_16)]) == 0
    assert differing(load_newest(tmp_path).state, load_newest(whole).state) == set()


def test_images_and_paths_with_truncation(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, extra in (
        ("plain", []),
        ("mean", ["--truncation_psi=0"]),
        ("same", ["--truncation_psi=0", "--classes=7"]),
    ):
        assert main(["generate", f"--checkpoint={whole}", "--seeds=0-3", f"--out={tmp_path / name}.png", *extra]) == 0
    plain, mean, same = ((tmp_path / f"{name}.png").read_bytes() for name in ("plain", "mean", "same"))
    assert plain != mean == same
    path = tmp_path / "path.gif"
    assert main(["interpolate", f"--checkpoint={whole}", "--seeds=1,2", f"--out={path}", "--truncation_psi=0.7"]) == 0
    assert path.is_file()
    assert main(["style-mix", f"--checkpoint={whole}", f"--out={tmp_path / 'mix'}", "--rows=0", "--columns=1"]) == 0
    assert (tmp_path / "mix" / "row0-col1.png").is_file()
    settings = ["--steps=3", "--mean_samples=8", "--video=none", f"--out={tmp_path / 'found'}"]
    image = f"--image={tmp_path / 'mix' / 'row0.png'}"
    assert main(["project", f"--checkpoint={whole}", image, *settings]) == 0
    assert "distance (pixels + discriminator)" in capsys.readouterr().out
    assert main(["generate", f"--checkpoint={whole}", "--noise=random"]) == 2
    assert "Aurora's layers have no noise" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_are_one_that_accumulates(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "smartfast", "train"]
    changes: dict[str, object] = dict(run__kimg=0.016, gan__mbstd_group=2, **AT_16)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, *arguments(run__dir=tmp_path / "two", **changes)]
    subprocess.run(command, check=True, timeout=180, env=environment)
    assert main(["train", *arguments(run__dir=tmp_path / "one", optim__batch_gpu=4, **changes)]) == 0
    one, two = (load_newest(tmp_path / name).state for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (dict(gan__experts="[0]"), "gan.experts has 1 numbers, expected 2, as many as blocks"),
        (dict(gan__channel_base=192), "gan.attention at 8 pixels has 24 feature maps, the smaller of channel_base"),
        (dict(gan__heads=5, gan__head_dim="null"), "gan.heads is 5, expected a divisor of the 32 feature maps"),
        (dict(gan__mbstd_group=3), "gan.mbstd_group is 3, expected a divisor of the 8 images at a time"),
        (dict(gan__d_channel_base=4), "gan.d_channel_base is 4, expected at least the 8 pixels of the images' width"),
        (
            dict(data__resolution=16),
            "data.path digits: images are 16 pixels wide, and the 2 numbers of gan.blocks, .* are for 8, expected "
            "data.resolution 8, or 3 numbers, one for each doubling from 4 pixels on",
        ),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, str], line: str) -> None:
    config = parse_config(arguments(**changes))
    with pytest.raises(UserError, match=line):
        check_settings(config, num_processes=1)
        check_config(config, open_dataset(config.data), device=torch.device("cpu"))
