"""Folders that diffusers writes, loaded as scorers, and everything that can be wrong with them."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from smartfast.errors import UserError
from smartfast.scorers import GaussianMixtureScorer, check_scorer, load_scorer, loading
from smartfast.scorers.loading import scorer_dtype
from smartfast.scorers.schedule import schedule_from_betas

T = torch.tensor([25, 900])
LABELS = torch.tensor([2, 0])


def image_batch():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def expected_eps(prediction, prediction_type, x_t):
    kept = DDPMScheduler().alphas_cumprod[T].double()[:, None, None, None]
    alpha, sigma, prediction = kept.sqrt(), (1 - kept).sqrt(), prediction.double()
    if prediction_type == "epsilon":
        return prediction
    if prediction_type == "sample":
        return (x_t - alpha * prediction) / sigma
    return alpha * prediction + sigma * x_t


@pytest.mark.parametrize("pipeline", [False, True])
@pytest.mark.parametrize("out_channels", [3, 6])
@pytest.mark.parametrize("classes", [None, 4])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_round_trip(scorer_folder, tiny_unet, prediction_type, classes, out_channels, pipeline):
    unet = tiny_unet(num_class_embeds=classes, out_channels=out_channels)
    folder, unet = scorer_folder(unet=unet, scheduler=DDPMScheduler(prediction_type=prediction_type), pipeline=pipeline)
    scorer = load_scorer(str(folder))
    assert (scorer.resolution, scorer.channels, scorer.num_classes) == (8, 3, classes or 0)
    x_t = image_batch()
    again = UNet2DModel.from_pretrained(folder / "unet" if pipeline else folder).eval()
    raw = again(x_t, T, class_labels=LABELS if classes else None).sample
    torch.testing.assert_close(raw, unet(x_t, T, class_labels=LABELS if classes else None).sample)
    expected = expected_eps(raw[:, :3], prediction_type, x_t)
    # float32 rounding of the network, divided by sigma = 0.08 where x0 is predicted
    found = scorer.predict_eps(x_t, T, LABELS)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_frozen_and_differentiable(scorer_folder):
    folder, _ = scorer_folder()
    scorer = load_scorer(str(folder)).train()
    assert not scorer.training and not scorer.unet.training
    x_t = image_batch().requires_grad_(True)
    scorer.predict_eps(x_t, T).square().mean().backward()
    assert x_t.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in scorer.parameters())


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision(scorer_folder, precision, dtype):
    folder, unet = scorer_folder(scheduler=DDIMScheduler())
    scorer = load_scorer(str(folder), precision=precision)
    assert scorer.dtype == scorer.unet.conv_in.weight.dtype == dtype
    assert scorer.alphas.dtype == torch.float32
    found = scorer.predict_eps(image_batch(), T)
    assert found.dtype == torch.float32
    expected = unet(image_batch(), T).sample
    assert (found - expected).norm() / expected.norm() < 2e-2


def test_auto_precision_on_a_cpu():
    assert scorer_dtype("cpu", "auto") == torch.float32
    assert scorer_dtype("cuda", "fp16") == torch.float16


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def truncate(folder: Path):
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def lose_one_weight(folder: Path):
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.bias"]
    save_file(weights, file, {"format": "pt"})


def edit(name, **changes):
    def apply(folder: Path):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | changes))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("scheduler_config.json"), "has no scheduler_config.json, expected one"),
        (remove("config.json"), "no config.json, expected a diffusers UNet2DModel"),
        (remove("diffusion_pytorch_model.safetensors"), "expected a UNet2DModel with safetensors weights"),
        (truncate, "expected a UNet2DModel with safetensors weights"),
        (lose_one_weight, r"config.json: conv_out.bias is missing, expected \(3,\)"),
        (edit("config.json", layers_per_block=2), "is missing, expected .*; expected the config of the weights"),
        (lambda folder: (folder / "scheduler_config.json").write_text("{"), "scheduler_config.json: not readable"),
        (edit("scheduler_config.json", prediction_type="flow"), "prediction_type is 'flow', expected one of epsilon"),
        (edit("scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"), "expected one of DDPMScheduler"),
        (edit("config.json", sample_size=None), "sample_size is None, expected one number or a square"),
        (edit("config.json", sample_size=[8, 16]), "expected one number or a square"),
    ],
)
def test_damaged_folder(scorer_folder, damage, message):
    folder, _ = scorer_folder()
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        load_scorer(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 4}, "out_channels is 4, expected in_channels"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep', expected null"),
    ],
)
def test_unsupported_network(scorer_folder, tiny_unet, changes, message):
    folder, _ = scorer_folder(unet=tiny_unet(**changes))
    with pytest.raises(UserError, match=message):
        load_scorer(str(folder))


def test_weights_in_a_pickle_are_refused(scorer_folder, tiny_unet):
    folder, unet = scorer_folder()
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(unet.state_dict(), folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="expected a UNet2DModel with safetensors weights"):
        load_scorer(str(folder))


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "./missing/folder", "a/b/c"])
def test_missing_folder(name):
    with pytest.raises(UserError, match="is no folder, expected `digits`, a diffusers folder or a hub id"):
        load_scorer(name)


def test_hub_id(scorer_folder, monkeypatch):
    folder, unet = scorer_folder(pipeline=True)
    asked = []

    def download(name, allow_patterns):
        asked.append((name, [p for p in allow_patterns if p.endswith((".bin", ".py"))]))
        return str(folder)

    monkeypatch.setattr(loading, "snapshot_download", download)
    found = load_scorer("owner/model").predict_eps(image_batch(), T)
    assert asked == [("owner/model", [])]
    torch.testing.assert_close(found, unet(image_batch(), T).sample, rtol=1e-4, atol=1e-5)


def test_hub_id_without_internet(monkeypatch):
    def download(name, allow_patterns):
        raise LocalEntryNotFoundError("no connection\nand nothing cached")

    monkeypatch.setattr(loading, "snapshot_download", download)
    with pytest.raises(UserError, match="'owner/model' is no folder and no hub download .no connection and nothing"):
        load_scorer("owner/model")


@pytest.mark.parametrize(
    ("gan", "message"),
    [
        ({"resolution": 16}, "'mine' has resolution 8, expected the GAN's 16 .smart.downscale 2 makes it fit.$"),
        ({"resolution": 12}, "'mine' has resolution 8, expected the GAN's 12$"),
        ({"channels": 1}, "'mine' has 3 image channels, expected the GAN's 1"),
        ({"num_classes": 10}, "'mine' has 4 classes, expected the GAN's 10"),
        ({"num_classes": 0}, "'mine' has 4 classes, expected the GAN's 0"),
    ],
)
def test_check_scorer(scorer_folder, tiny_unet, gan, message):
    folder, _ = scorer_folder(unet=tiny_unet(num_class_embeds=4))
    scorer = load_scorer(str(folder))
    fitting = {"resolution": 8, "channels": 3, "num_classes": 4}
    check_scorer(scorer, **fitting, name="mine")
    with pytest.raises(UserError, match=message):
        check_scorer(scorer, **fitting | gan, name="mine")


@pytest.mark.parametrize(
    ("theirs", "ours", "line"),
    [
        (
            ["ant", "bee", "cat", "dog"],
            ["ant", "bee", "dog", "cat"],
            "calls class 2 'cat' (class_names.json), expected 'dog'",
        ),
        (
            ["ant", "bee", "cat", "dog"],
            ["ant", "bee", "cat", "Dog"],
            "calls class 3 'dog' (class_names.json), expected 'Dog'",
        ),
        (["ant", "bee", "cat", "dog"], ["ant", "bee", "cat", "dog"], None),
        (["ant", "bee", "cat", "dog"], None, None),
        (None, ["ant", "bee", "cat", "dog"], None),
    ],
)
def test_names_of_classes_are_compared_where_both_are_known(scorer_folder, tiny_unet, theirs, ours, line):
    folder, _ = scorer_folder(unet=tiny_unet(num_class_embeds=4))
    if theirs:
        (folder / "class_names.json").write_text(json.dumps(theirs))
    scorer = load_scorer(str(folder))
    fitting = {"resolution": 8, "channels": 3, "num_classes": 4, "class_names": ours, "name": "mine"}
    if line is None:
        return check_scorer(scorer, **fitting)
    with pytest.raises(UserError) as caught:
        check_scorer(scorer, **fitting)
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "{}", '["ant"]', '["ant", "bee", "cat", 3]', "null", "[" * 9999])
def test_names_that_are_no_list_of_one_text_per_class(scorer_folder, tiny_unet, content):
    folder, _ = scorer_folder(unet=tiny_unet(num_class_embeds=4))
    (folder / "class_names.json").write_text(content)
    with pytest.raises(UserError, match=r"class_names.json: .*, expected ") as caught:
        load_scorer(str(folder))
    assert "\n" not in str(caught.value)


def test_check_scorer_of_reduced_images(scorer_folder):
    scorer = load_scorer(str(scorer_folder()[0]))
    check_scorer(scorer, resolution=32, channels=3, num_classes=0, name="mine", downscale=4)
    with pytest.raises(UserError, match="'mine' has resolution 8, expected the GAN's 32 divided by smart.downscale 2"):
        check_scorer(scorer, resolution=32, channels=3, num_classes=0, name="mine", downscale=2)


def test_scorer_without_classes_fits_any_gan(scorer_folder):
    scorer = load_scorer(str(scorer_folder()[0]))
    check_scorer(scorer, resolution=8, channels=3, num_classes=10, name="mine")
    x_t = image_batch()
    assert torch.equal(scorer.predict_eps(x_t, T, LABELS), scorer.predict_eps(x_t, T))


def mixture(path, **changes):
    generator = torch.Generator().manual_seed(2)
    tensors = {
        "betas": torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64),
        "means": torch.randn(3, 3, 8, 8, generator=generator),
        "stds": torch.tensor([0.2, 0.3, 0.5]),
        "weights": torch.tensor([1.0, 2.0, 1.0]),
        "classes": torch.tensor([0, 1, 1]),
    }
    save_file({name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}, path)
    return tensors | changes


@pytest.mark.parametrize("prefix", ["", "analytic:"])
def test_mixture_in_a_file(tmp_path, prefix):
    tensors = mixture(tmp_path / "toy.safetensors")
    scorer = load_scorer(f"{prefix}{tmp_path / 'toy.safetensors'}")
    assert (scorer.image_shape, scorer.num_classes, scorer.null_class) == ((3, 8, 8), 2, 2)
    expected = GaussianMixtureScorer(
        schedule_from_betas(tensors["betas"], "test"),
        tensors["means"],
        tensors["stds"],
        weights=tensors["weights"],
        classes=tensors["classes"].tolist(),
    )
    labels = torch.tensor([1, 0])
    assert torch.equal(scorer.predict_eps(image_batch(), T, labels), expected.predict_eps(image_batch(), T, labels))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stds": None}, "holds no stds, expected safetensors: betas, means and stds"),
        ({"stds": torch.ones(2)}, r"stds \[2\], .*expected means \[K, C, R, R\], stds \[K\]"),
        ({"means": torch.zeros(3, 3, 8, 4)}, r"means \[3, 3, 8, 4\]"),
        ({"means": torch.zeros(0, 3, 8, 8), "stds": torch.zeros(0)}, r"means \[0, 3, 8, 8\]"),
        ({"weights": torch.ones(2)}, r"weights \[2\]"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0])}, "weights of -1, expected positive"),
        ({"classes": torch.zeros(3, 1, dtype=torch.int64)}, r"classes \[3, 1\]"),
        ({"classes": torch.tensor([0.0, 1.0, 1.0])}, "classes of torch.float32, expected int64 of at least 0"),
        ({"classes": torch.tensor([0, -1, 1])}, "classes of torch.int64, expected int64 of at least 0"),
        ({"stds": torch.tensor([0.1, 0.0, 0.2])}, "stds of 0, expected positive"),
        ({"stds": torch.tensor([0.1, float("nan"), 0.2])}, "stds of nan, expected positive"),
        ({"betas": torch.tensor([0.1, -0.2])}, "betas lie in -0.2..0.1, expected 0 < beta <= 1"),
        ({"betas": torch.tensor([0.1, float("nan")])}, "betas lie in nan..nan, expected 0 < beta <= 1"),
        ({"means": torch.zeros(3, 3, 8, 8, dtype=torch.int8)}, "means is int8, expected floating-point numbers"),
        ({"stds": torch.tensor([True, True, True])}, "stds is bool, expected floating-point numbers"),
        ({"betas": torch.zeros(0)}, "betas are none, expected 0 < beta <= 1"),
    ],
)
def test_damaged_mixture(tmp_path, changes, message):
    mixture(tmp_path / "toy.safetensors", **changes)
    with pytest.raises(UserError, match=message) as error:
        load_scorer(f"analytic:{tmp_path / 'toy.safetensors'}")
    assert "\n" not in str(error.value)


def test_a_format_can_be_named(scorer_folder):
    folder, unet = scorer_folder()
    found = load_scorer(f"diffusers:{folder}").predict_eps(image_batch(), T)
    torch.testing.assert_close(found, unet(image_batch(), T).sample, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="holds no betas, expected safetensors: betas, means and stds"):
        load_scorer(f"analytic:{folder}")


@pytest.mark.parametrize("make", ["empty folder", "text file", "other tensors"])
def test_what_no_format_recognises(tmp_path, make):
    path = tmp_path / ("x.safetensors" if make == "other tensors" else "x")
    if make == "empty folder":
        path.mkdir()
    elif make == "text file":
        path.write_text("hello")
    else:
        save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is of no known format, expected one of diffusers, analytic"):
        load_scorer(str(path))


def test_the_null_class_serves_where_there_are_no_labels(scorer_folder, tiny_unet):
    folder, unet = scorer_folder(unet=tiny_unet(num_class_embeds=4))
    scorer = load_scorer(str(folder), null_class=3)
    assert (scorer.num_classes, scorer.null_class) == (3, 3)
    x_t = image_batch()
    for labels, told in ((None, torch.tensor([3, 3])), (LABELS, LABELS)):
        expected = unet(x_t, T, class_labels=told).sample
        torch.testing.assert_close(scorer.predict_eps(x_t, T, labels), expected, rtol=1e-4, atol=1e-5)
    for num_classes in (0, 3):
        check_scorer(scorer, resolution=8, channels=3, num_classes=num_classes, name="mine")
    with pytest.raises(UserError, match="'mine' has 3 classes, expected the GAN's 4"):
        check_scorer(scorer, resolution=8, channels=3, num_classes=4, name="mine")


def test_classes_without_labels_or_null_class(scorer_folder, tiny_unet):
    scorer = load_scorer(str(scorer_folder(unet=tiny_unet(num_class_embeds=4))[0]))
    with pytest.raises(ValueError, match="labels is None, expected class indices below 4"):
        scorer.predict_eps(image_batch(), T)


@pytest.mark.parametrize(
    ("embeddings", "null_class", "message"),
    [
        (4, 4, "smart.null_class is 4, expected of .* 3, the last"),
        (4, -1, "smart.null_class is -1, expected"),
        (None, 0, "smart.null_class is 0, expected of .* null: it has no classes"),
        (None, -1, "smart.null_class is -1, expected of .* null: it has no classes"),
    ],
)
def test_null_class_that_is_none(scorer_folder, tiny_unet, embeddings, null_class, message):
    folder, _ = scorer_folder(unet=tiny_unet(num_class_embeds=embeddings))
    with pytest.raises(UserError, match=message):
        load_scorer(str(folder), null_class=null_class)
