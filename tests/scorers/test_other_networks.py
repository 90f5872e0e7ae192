"""Folders of networks that are whole, but no scorers of pixels as they are, and those that only look odd."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, LDMPipeline, VQModel
from safetensors.torch import load_file, save_file

from smartfast.errors import UserError
from smartfast.scorers import check_scorer, load_scorer

T = torch.tensor([25, 900])


def image_batch():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("decoder", "kind"),
    [
        (lambda: VQModel(block_out_channels=(16,), norm_num_groups=8), "VQModel"),
        (lambda: AutoencoderKL(block_out_channels=(16,), norm_num_groups=8), "AutoencoderKL"),
    ],
    ids=["VQModel", "AutoencoderKL"],
)
def test_a_pipeline_of_latents_is_refused(tmp_path, tiny_unet, decoder, kind):
    LDMPipeline(decoder(), tiny_unet(), DDIMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"model_index.json: names vqvae .{kind}., expected unet and scheduler alone"):
        load_scorer(str(tmp_path))


def test_the_unet_of_a_pipeline_of_latents_is_refused(tmp_path, tiny_unet):
    """Though someone put the scheduler beside it."""
    decoder = VQModel(block_out_channels=(16,), norm_num_groups=8)
    LDMPipeline(decoder, tiny_unet(), DDIMScheduler()).save_pretrained(tmp_path)
    DDIMScheduler().save_config(tmp_path / "unet")
    with pytest.raises(UserError, match="model_index.json: names vqvae"):
        load_scorer(str(tmp_path / "unet"))


def test_learned_timesteps_that_are_fewer_than_the_schedules(scorer_folder, tiny_unet):
    folder, _ = scorer_folder(unet=tiny_unet(time_embedding_type="learned", num_train_timesteps=500))
    with pytest.raises(UserError, match="embeds 500 timesteps, expected the 1000 of its scheduler"):
        load_scorer(str(folder))


@pytest.mark.parametrize(
    ("components", "is_accepted"),
    [
        ({}, True),
        ({"safety_checker": [None, None], "requires_safety_checker": False}, True),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, False),
        ({"movq": ["diffusers", "VQModel"]}, False),
        ({"text_encoder": ["transformers", "CLIPTextModel"]}, False),
        ({"vae": "AutoencoderKL"}, False),
    ],
)
def test_components_of_a_pipeline(scorer_folder, components, is_accepted):
    folder, unet = scorer_folder(pipeline=True)
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    index |= {"scheduler": ["diffusers", "DDPMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index | components))
    if is_accepted:
        load_scorer(str(folder))
        return
    with pytest.raises(UserError, match=f"model_index.json: names {next(iter(components))}"):
        load_scorer(str(folder))


def test_a_pipeline_of_pixels_is_accepted(tmp_path, tiny_unet):
    unet = tiny_unet().eval()
    DDPMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path)
    found = load_scorer(str(tmp_path)).predict_eps(image_batch(), T)
    torch.testing.assert_close(found, unet(image_batch(), T).sample, rtol=1e-4, atol=1e-5)


def test_images_of_another_range_are_refused(scorer_folder, tiny_unet):
    folder, _ = scorer_folder(unet=tiny_unet(center_input_sample=True))
    with pytest.raises(UserError, match="center_input_sample is True, expected false"):
        load_scorer(str(folder))


PLAIN = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}


@pytest.mark.parametrize(
    ("changes", "weight"),
    [
        (PLAIN | {"add_attention": False}, "attentions"),
        (PLAIN, "attentions"),
        ({"add_attention": False}, "mid_block.attentions"),
        ({"num_class_embeds": None}, "class_embedding"),
        ({"mid_block_type": None}, "mid_block"),
    ],
)
def test_weights_that_config_json_has_no_place_for(scorer_folder, tiny_unet, changes, weight):
    folder, _ = scorer_folder(unet=tiny_unet(num_class_embeds=4))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(
        UserError, match=rf"config.json: .*{weight}.* is \(.*\), expected none; expected the config of the weights"
    ):
        load_scorer(str(folder))


def test_a_weight_too_many(scorer_folder):
    folder, _ = scorer_folder()
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"extra": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"config.json: extra is \(.*\), expected none"):
        load_scorer(str(folder))


def test_old_names_of_attention_weights_are_read(scorer_folder):
    """As the first models on the hub have them."""
    folder, unet = scorer_folder()
    file = folder / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, weight in load_file(file).items():
        for new, replaced in old.items():
            name = name.replace(f".{new}.", f".{replaced}.")
        weights[name] = weight
    assert any(".proj_attn." in name for name in weights)
    save_file(weights, file, {"format": "pt"})
    found = load_scorer(str(folder)).predict_eps(image_batch(), T)
    torch.testing.assert_close(found, unet(image_batch(), T).sample, rtol=1e-4, atol=1e-5)


def test_without_a_size_of_its_own_it_takes_the_images(scorer_folder, tiny_unet):
    folder, unet = scorer_folder(unet=tiny_unet(sample_size=None))
    scorer = load_scorer(str(folder), resolution=8)
    assert scorer.image_shape == (3, 8, 8) and not scorer.states_resolution
    check_scorer(scorer, resolution=16, channels=3, num_classes=0, name="mine", downscale=2)
    found = scorer.predict_eps(image_batch(), T)
    torch.testing.assert_close(found, unet(image_batch(), T).sample, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="sample_size is None, expected .*resolution"):
        load_scorer(str(folder))


def test_a_size_of_its_own_holds(scorer_folder):
    scorer = load_scorer(str(scorer_folder()[0]), resolution=16)
    assert scorer.resolution == 8 and scorer.states_resolution


@pytest.mark.parametrize("num_classes", [0, 3])
def test_classes_and_a_null_class(scorer_folder, tiny_unet, num_classes):
    """Which one it is, smart.null_class says; the line that asks for it names it."""
    folder, _ = scorer_folder(unet=tiny_unet(num_class_embeds=4))
    gan = {"resolution": 8, "channels": 3, "num_classes": num_classes, "name": "mine"}
    with pytest.raises(UserError, match="'mine' has 4 classes, .*smart.null_class 3 "):
        check_scorer(load_scorer(str(folder)), **gan)
    check_scorer(load_scorer(str(folder), null_class=3), **gan)
