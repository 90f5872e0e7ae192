"""Training a scorer: targets, schedule of the learning rate, resume, and what is saved."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file

from smartfast.config.schema import DataConfig
from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.data import open_dataset
from smartfast.data.holdout import split
from smartfast.errors import UserError
from smartfast.kernels import philox_normal
from smartfast.scorers import load_scorer
from smartfast.scorers.train import learning_rate, train_scorer, training_loss
from smartfast.scorers.train_options import TrainScorerOptions, UNetOptions

TINY = UNetOptions(
    block_out_channels=(4, 8), layers_per_block=1, attention=(4,), attention_head_dim=4, norm_groups=2, dropout=0.0
)


def options(folder, **changes) -> TrainScorerOptions:
    base = TrainScorerOptions(
        dir=str(folder),
        data=DataConfig(resolution=8, labels=True, mirror=True),
        unet=TINY,
        holdout=17,
        kimg=0.024,
        batch=6,
        lr_warmup_kimg=0.012,
        lr_decay="cosine",
        snapshot_kimg=1.0,
        sample_rows=1,
        sample_steps=2,
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_scorer(options(folder))
    return folder


def test_resumed_run_equals_uninterrupted(finished, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    from smartfast.scorers import train

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train._Run, "save_scorer", _after(train._Run.save_scorer, calls=1, then=die))
        with pytest.raises(Killed):
            train_scorer(options(tmp_path, snapshot_kimg=0.012))
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["kimg"] == 0.012
    train_scorer(options(tmp_path, snapshot_kimg=0.012))
    expected, found = (load_file(folder / "state.safetensors") for folder in (finished, tmp_path))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_two_processes_equal_one(finished, tmp_path):
    """Same data, noise and timesteps, the batch split over two processes; equal to rounding."""
    script = tmp_path / "two.py"
    script.write_text(
        "from smartfast.config.schema import DataConfig\n"
        "from smartfast.scorers.train import train_scorer\n"
        "from smartfast.scorers.train_options import TrainScorerOptions, UNetOptions\n"
        f"train_scorer({options(tmp_path / 'run')!r})\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stdout.count(b"sec/kimg") == 1, "each process trained alone"
    one, two = (load_file(folder / "state.safetensors") for folder in (finished, tmp_path / "run"))
    assert one.keys() == two.keys()
    # Adam divides a gradient by its size, so rounding may turn the step of an almost dead weight: compare to the step.
    steps = 4 * options(tmp_path).lr
    assert all((one[key] - two[key]).abs().max() < 0.05 * steps for key in one if key.startswith("model."))
    rows = [json.loads((folder / "metrics.jsonl").read_text()) for folder in (finished, tmp_path / "run")]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)


def _after(function, *, calls, then):
    left = [calls]

    def wrapped(*args):
        if not left[0]:
            then()
        left[0] -= 1
        return function(*args)

    return wrapped


def test_saved_folder_loads_and_has_learned(finished):
    scorer = load_scorer(str(finished / "scorer"))
    assert (scorer.resolution, scorer.channels, scorer.num_classes) == (8, 1, 10)
    unet = UNet2DModel.from_pretrained(finished / "scorer")
    state = load_file(finished / "state.safetensors")
    for name, weight in unet.named_parameters():
        torch.testing.assert_close(weight.detach(), state[f"ema.{name}"])
        assert not torch.equal(state[f"ema.{name}"], state[f"model.{name}"]) or weight.numel() < 2
    assert [file.name for file in finished.glob("samples*.png")] == ["samples000000.png"]
    row = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["kimg"] == 0.024 and row["lr"] == 0 and row["heldout/100-199"] > 0
    assert not list(finished.glob("*.partial"))


def test_finished_run_does_nothing_more(finished):
    before = (finished / "state.safetensors").read_bytes()
    assert train_scorer(options(finished)) == finished / "scorer"
    assert (finished / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch: 0, expected more than 0"),
        ({"snapshot_kimg": 0.0}, "snapshot_kimg: 0.0, expected more than 0"),
        ({"seed": 1}, "a run with seed = 0, expected 1; choose another dir"),
        ({"beta_schedule": "scaled_linear"}, "a run with beta_schedule = linear, expected scaled_linear"),
        ({"holdout": 1797}, "holdout: 1797, expected 0..1796"),
        ({"unet": replace(TINY, block_out_channels=(4,) * 5)}, "5 levels, expected fewer for 8 pixels"),
        ({"unet": replace(TINY, norm_groups=3)}, "unet.block_out_channels: 4, expected a multiple of 3 groups"),
    ],
)
def test_refused(finished, changes, message):
    with pytest.raises(UserError, match=message):
        train_scorer(options(finished, **changes))


def test_truncated_state(finished, tmp_path):
    (tmp_path / "state.safetensors").write_bytes((finished / "state.safetensors").read_bytes()[:999])
    with pytest.raises(UserError, match="not a readable training state"):
        train_scorer(options(tmp_path))


def test_loss_that_is_not_finite(tmp_path):
    with pytest.raises(UserError, match="loss is (nan|inf) at .* kimg, expected a number; lower lr"):
        train_scorer(options(tmp_path, lr=1e30, lr_warmup_kimg=0.0, kimg=0.03))


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_training_loss(tiny_unet, prediction_type):
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    unet, positions = tiny_unet(num_class_embeds=5).eval(), torch.tensor([3, 900, 2**33])
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    labels = torch.tensor([4, 0, 1])
    found = training_loss(unet, scheduler, images, labels, seed=7, positions=positions)
    t = draw_timesteps(7, positions, 0, 999)
    eps = philox_normal(7, positions, 192, Purpose.SCORE_NOISE).reshape(images.shape).double()
    kept = torch.cumprod(1 - scheduler.betas.double(), 0)[t][:, None, None, None]
    alpha, sigma, x0 = kept.sqrt(), (1 - kept).sqrt(), images.double()
    target = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}[prediction_type]
    prediction = unet((alpha * x0 + sigma * eps).float(), t, class_labels=labels).sample.double()
    torch.testing.assert_close(found.double(), (prediction - target).square().mean(), rtol=1e-4, atol=0)


def test_learning_rate(tmp_path):
    run = options(tmp_path, lr=1.0, batch=10, lr_warmup_kimg=1.0, kimg=3.0)
    assert learning_rate(run, 0) == pytest.approx(10 / 1010)
    assert learning_rate(run, 500) == pytest.approx(510 / 1010)
    assert learning_rate(run, 2000) == pytest.approx(0.5)
    assert learning_rate(run, 3000) == pytest.approx(0.0)
    assert learning_rate(replace(run, lr_decay="constant"), 2900) == 1.0


def test_split_is_a_partition():
    dataset = open_dataset(DataConfig(resolution=8, labels=True))
    training, held_out = split(dataset, 180)
    both = torch.cat([training.indices, held_out.indices])
    assert torch.equal(both.sort().values, torch.arange(1797))
    assert len(held_out) == 180 and held_out.indices.diff().unique().tolist() == [9, 10]
    assert torch.equal(held_out.all_images(), dataset.all_images()[held_out.indices])
    assert torch.equal(held_out.labels, dataset.labels[held_out.indices])
    assert split(dataset, 0)[1] is None
