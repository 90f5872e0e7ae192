"""Two processes with ADA are one that accumulates: p follows the signs of all images. Both sides train for a while."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smartfast.cli import main
from smartfast.core.checkpoint import load_newest
from smartfast.families.augmented import SIGN, AugmentedView
from smartfast.run.trainer import Trainer

Options = Callable[..., list[str]]
BATCH, INTERVAL, KIMG, MAX_P, RUN_KIMG = 8, 2, 0.1, 0.8, 0.192
ADA = dict(augment__mode="ada", augment__interval=INTERVAL, augment__kimg=KIMG, augment__p=0.3)
TARGETS = {"stylegan2": 0.8, "r3gan": 0.6}
"""Near the mean signs of these runs, so that p goes up and down, and elsewhere by the signs of one process."""
R3GAN = {
    "gan.family": "r3gan",
    "gan.z_dim": 8,
    "gan.widths": "[8,8]",
    "gan.cardinalities": "[4,4]",
    "gan.blocks": "[1,1]",
    "data.resolution": 8,
    "optim.batch": BATCH,
    "smart.frequency": 0,
    "metrics.every_ticks": 0,
    "run.tracker": "none",
    "run.snapshot_ticks": 1,
    "perf.cpu_threads": 1,
}

pytestmark = pytest.mark.slow


def arguments(family: str, options: Options, run_dir: Path, **changes: object) -> list[str]:
    changes |= dict(augment__target=TARGETS[family], run__kimg=RUN_KIMG, run__tick_kimg=RUN_KIMG, run__dir=run_dir)
    if family == "stylegan2":
        return options(run_dir, loss__path_length_weight=0, **ADA | changes)
    settings = R3GAN | {name.replace("__", "."): value for name, value in (ADA | changes).items()}
    return [f"--{name}={value}" for name, value in settings.items()]


def run_and_keep(trainer: Trainer, train: Callable = Trainer.run, of_step: Callable = AugmentedView.statistics) -> bool:
    """Train, and leave in the run folder this process's state, and the sign of each of its rounds in order."""
    signs: list[Tensor] = []

    def watched(view: AugmentedView, real_logits: Tensor) -> dict[str, Tensor]:
        statistics = of_step(view, real_logits)
        signs.append(statistics[SIGN].clone())
        return statistics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AugmentedView, "statistics", watched)
        is_complete = train(trainer)
    kept = {name: value.clone() for name, value in trainer.training.state().items()}
    torch.save((kept, torch.stack(signs)), trainer.run_dir / f"rank{trainer.accelerator.process_index}.pt")
    return is_complete


def way_of_p(signs: Tensor, target: float) -> list[float]:
    """p at the start and after each window, from the mean signs of the steps; float32 as on the device."""
    p, way, step = torch.tensor(0.3), [0.3], BATCH * INTERVAL / (KIMG * 1000)
    for window in signs[: len(signs) // INTERVAL * INTERVAL].view(-1, INTERVAL):
        p = (p + torch.sign(window.mean() - target) * step).clamp(0, MAX_P)
        way.append(p.item())
    return way


@pytest.mark.parametrize("family", TARGETS)
def test_two_processes_equal_one(
    family: str, tiny_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, *arguments(family, tiny_options, tmp_path / "two")]
    subprocess.run(command, check=True, timeout=900, env=environment)
    monkeypatch.setattr(Trainer, "run", run_and_keep)
    assert main(["train", *arguments(family, tiny_options, tmp_path / "one", optim__batch_gpu=BATCH // 2)]) == 0
    (first, signs), (second, other_signs) = (torch.load(tmp_path / "two" / f"rank{rank}.pt") for rank in range(2))
    one, signs_of_one = torch.load(tmp_path / "one" / "rank0.pt")

    assert torch.equal(torch.stack([signs, other_signs], dim=1).flatten(), signs_of_one)
    ways = [way_of_p(of, TARGETS[family]) for of in ((signs + other_signs) / 2, signs, other_signs)]
    assert any(way != ways[0] for way in ways[1:]), "the signs of one process alone would have led elsewhere"
    assert len(set(ways[0])) > 2 and any(b < a for a, b in zip(ways[0], ways[0][1:], strict=False))
    for state in (first, second, one, load_newest(tmp_path / "two").state):
        assert state["augment_p"].item() == ways[0][-1]
        assert [name for name, value in one.items() if not torch.equal(value, state[name])] == []


if __name__ == "__main__":
    Trainer.run = run_and_keep  # type: ignore[method-assign]
    sys.exit(main(["train", *sys.argv[1:]]))
