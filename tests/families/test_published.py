"""Images of published models: a ConsistencyModelPipeline that diffusers saved, and a scorer, against diffusers."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, DDIMScheduler, UNet2DModel
from torch import Tensor

from smartfast.cli import main
from smartfast.core.draws import Purpose
from smartfast.core.pixels import to_uint8
from smartfast.errors import UserError
from smartfast.families.saved import open_sampler
from smartfast.kernels import philox_normal
from smartfast.scorers.loading import BUNDLED

NUMBERS = torch.arange(5)
PIPELINE = "diffusers.schedulers.scheduling_consistency_models.randn_tensor"


def save_pipeline(folder: Path, *, channels: int = 3, size: int = 8, classes: int | None = 4) -> None:
    blocks = dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, layers_per_block=1)
    more = dict(block_out_channels=[8, 16], norm_num_groups=4, attention_head_dim=8, num_class_embeds=classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        unet = UNet2DModel(sample_size=size, in_channels=channels, out_channels=channels, **blocks, **more)
    scheduler = CMStochasticIterativeScheduler(sigma_min=0.01, sigma_max=40.0, num_train_timesteps=20)
    ConsistencyModelPipeline(unet, scheduler).save_pretrained(folder)


def further_noise(steps: int, shape: tuple[int, int, int], seed: int) -> list[Tensor]:
    """What our sampler adds before each step after the first."""
    size = shape[0] * shape[1] * shape[2]
    drawn = philox_normal(seed, NUMBERS, size * (steps - 1), int(Purpose.FURTHER_STEPS))
    return list(drawn.view(len(NUMBERS), steps - 1, *shape).unbind(dim=1))


@pytest.mark.parametrize("classes", [None, 4], ids=["unconditional", "classes"])
@pytest.mark.parametrize("steps", [1, 3])
def test_images_are_those_of_diffusers_pipeline_at_equal_noise(
    steps: int, classes: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pipeline(tmp_path, classes=classes)
    sampler = open_sampler(tmp_path).of_data(None, seed=7).in_steps(steps)
    labels = NUMBERS % 4 if classes else None
    z = philox_normal(7, NUMBERS, 192, int(Purpose.SAMPLE)).view(-1, 3, 8, 8)
    ours, _ = sampler.draw(Purpose.SAMPLE, NUMBERS, labels)
    noise = [*further_noise(steps, (3, 8, 8), 7), torch.zeros_like(z)] if steps > 1 else []
    monkeypatch.setattr(PIPELINE, lambda *_, **__: noise.pop(0))
    pipeline = ConsistencyModelPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        len(z), class_labels=labels, num_inference_steps=steps, latents=z, output_type="pt", return_dict=False
    )[0]
    assert noise == []
    assert (to_uint8(ours.clamp(-1, 1)).int() - to_uint8(2 * theirs - 1).int()).abs().max() <= 1
    torch.testing.assert_close(ours.clamp(-1, 1), 2 * theirs - 1, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_scorer_is_sampled_as_by_diffusers_ddim(steps: int) -> None:
    sampler = open_sampler("scorer:digits").of_data(None, seed=1).in_steps(steps)
    labels = NUMBERS % 10
    ours, _ = sampler.draw(Purpose.SAMPLE, NUMBERS, labels)
    unet = UNet2DModel.from_pretrained(BUNDLED["digits"], use_safetensors=True)
    ddim = DDIMScheduler.from_pretrained(BUNDLED["digits"], timestep_spacing="trailing", clip_sample=True)
    ddim.set_timesteps(steps)
    last = (1 - ddim.alphas_cumprod[-1]).sqrt()
    x = last * philox_normal(1, NUMBERS, 256, int(Purpose.SAMPLE)).view(-1, 1, 16, 16)
    with torch.no_grad():
        for t in ddim.timesteps:
            x = ddim.step(unet(x, t, class_labels=labels, return_dict=False)[0], t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-3)


def test_evaluate_takes_both_and_says_how_many_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pipeline(tmp_path, channels=1, size=16, classes=10)
    common = ["--data.path=digits", "--metrics.features=digits", "--metrics.names=[fid]", "--metrics.samples=20"]
    for checkpoint, steps, said in ((str(tmp_path), None, 1), (str(tmp_path), 2, 2), ("scorer:digits", 1, 1)):
        steps_option = [] if steps is None else [f"--steps={steps}"]
        assert main(["evaluate", f"--checkpoint={checkpoint}", *steps_option, *common]) == 0
        record = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert record["steps"] == said and record["kimg"] is None and record["metric/fd_digits"] > 0
    assert main(["evaluate", "--checkpoint=scorer:digits", "--steps=1001", *common]) == 2
    assert "steps is 1001, expected at most the 1000 timesteps of the scorer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"_class_name": "DDIMScheduler"}, "_class_name is DDIMScheduler, expected CMStochasticIterativeScheduler"),
        ({"sigma_min": 50.0}, "sigma_min 50.0, sigma_max 40.0"),
        ({"sigma_max": "wide"}, "sigma_max is 'wide', expected float"),
    ],
)
def test_a_damaged_pipeline_is_one_line(change: dict[str, object], line: str, tmp_path: Path) -> None:
    save_pipeline(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=line) as error:
        open_sampler(tmp_path)
    assert len(str(error.value).splitlines()) == 1
