"""Distances between images, the search for styles, and `smartfast project` on images that its own generator made."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models.vgg import cfgs, make_layers

from smartfast.cli import main
from smartfast.core.checkpoint import load_newest
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.features import open_features
from smartfast.families.saved import open_sampler
from smartfast.networks.r3gan import Discriminator as R3GanDiscriminator
from smartfast.networks.r3gan.networks import R3GanOptions
from smartfast.networks.stylegan2 import Discriminator
from smartfast.tools import perceptual
from smartfast.tools import project as project_tool
from smartfast.tools.generate import GenerateOptions, generate
from smartfast.tools.perceptual import FeatureDistance, Vgg16Distance, pixel_distance
from smartfast.tools.project import ProjectOptions, project, read_target
from smartfast.tools.projection import Search, learning_rate, noise_level, style_statistics

SETTINGS = (
    "--config=digits --data.resolution=8 --data.labels=false --gan.z_dim=8 --gan.w_dim=8 --gan.mapping_layers=2 "
    "--gan.channel_base=64 --gan.channel_max=8 --gan.mbstd_group=4 --gan.mbstd_by_class=false --optim.batch=8 "
    "--smart.frequency=0 --metrics.every_ticks=0 --run.tracker=none --run.kimg=0.016 --run.tick_kimg=0.016 "
    "--run.snapshot_ticks=1 --perf.cpu_threads=1"
).split()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", *SETTINGS, f"--run.dir={folder}"]) == 0
    return folder


def test_pixel_distance_at_every_scale() -> None:
    images = torch.zeros(2, 1, 16, 16, dtype=torch.float64)
    others = images.clone()
    others[0] = 0.5  # the same at 16, 8 and 4 pixels
    others[1, 0, ::2, ::2] = others[1, 0, 1::2, 1::2] = 1
    others[1, 0, 1::2, ::2] = others[1, 0, ::2, 1::2] = -1  # gone at half the resolution
    assert pixel_distance(images, others).tolist() == pytest.approx([0.25, 1 / 3])
    assert pixel_distance(images[..., :6, :6], others[..., :6, :6]).tolist() == pytest.approx([0.25, 1])


def test_feature_distance_compares_directions() -> None:
    a, b = (torch.tensor(values)[None, :, None, None].expand(1, 2, 3, 3) for values in ([3.0, 0.0], [0.0, 0.5]))
    distance = FeatureDistance(lambda images: [images, images[:, :, :1, :1] * 7])
    assert distance(a, b).tolist() == pytest.approx([2.0]) and distance(a, 5 * a).tolist() == pytest.approx([0.0])


@pytest.fixture(scope="module")
def vgg_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Random weights as torchvision's and LPIPS's."""
    folder = tmp_path_factory.mktemp("vgg")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = make_layers(cfgs["D"])
        weights = {f"features.{name}": value for name, value in layers.state_dict().items()}
        widths = (64, 128, 256, 512, 512)
        lin = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(widths)}
    save_file(weights, folder / "vgg.safetensors")
    torch.save(lin, folder / "lpips.pth")
    return folder / "vgg.safetensors", folder / "lpips.pth"


def test_lpips_is_that_of_torch_fidelity(vgg_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_fidelity.sample_similarity_lpips as theirs

    class Vgg16:
        features = make_layers(cfgs["D"])

    Vgg16.features.load_state_dict(
        {name.removeprefix("features."): value for name, value in load_file(vgg_files[0]).items()}
    )
    lin = torch.load(vgg_files[1], weights_only=True)
    monkeypatch.setattr(theirs, "torchvision_load_pretrained_vgg16", lambda: Vgg16)
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *arguments, **options: lin)
    monkeypatch.setattr(perceptual, "_VGG_PIXELS", (16, 256))
    reference = theirs.SampleSimilarityLPIPS("lpips")
    images, others = torch.randint(0, 256, (2, 2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).unbind()
    expected = reference(images, others).flatten()
    found = Vgg16Distance(*vgg_files, torch.device("cpu"))(images / 127.5 - 1, others / 127.5 - 1)
    assert torch.allclose(found, expected, rtol=1e-3) and (expected > 0).all()


def test_vgg_sees_grey_small_and_large_images_and_has_gradients(
    vgg_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptual, "_VGG_PIXELS", (16, 32))
    distance = Vgg16Distance(vgg_files[0], None, torch.device("cpu"))
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    value = distance(images, torch.zeros(1, 1, 8, 8))
    (gradient,) = torch.autograd.grad(value.sum(), images)
    assert value.item() > 0 and gradient.abs().min() > 0
    colour = images.detach().expand(-1, 3, -1, -1)
    assert torch.allclose(distance(colour, torch.zeros(1, 3, 8, 8)), value.detach())
    assert [len(f[0, 0]) for f in distance.features(torch.zeros(1, 4, 40, 40))] == [32, 16, 8, 4, 2]


@pytest.mark.parametrize("content", [b"", b"no pickle", None])
def test_other_files_are_no_weights_of_vgg(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "vgg.pth"
    if content is None:
        torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="^vgg: .*vgg.pth is not a file of these weights") as error:
        Vgg16Distance(path, None, torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_schedules_are_those_of_the_paper() -> None:
    search = Search(steps=100, lr=0.1, noise=0.05)
    rates = [learning_rate(search, step) for step in range(101)]
    assert rates[0] == 0 and rates[5:76] == pytest.approx([0.1] * 71) and rates[100] == pytest.approx(0)
    assert rates[2] == pytest.approx(0.04) and rates[90] == pytest.approx(0.05 * (1 - math.cos(math.pi * 0.4)))
    noise = [noise_level(search, step) for step in (0, 30, 75, 99)]
    assert noise == pytest.approx([0.05, 0.05 * 0.36, 0, 0])


def test_statistics_of_the_styles(run_dir: Path) -> None:
    sampler = open_sampler(run_dir)
    found = style_statistics(sampler, None, 300, seed=1)
    whole = style_statistics(sampler, None, 20000, seed=2)
    z = torch.randn(20000, 8, generator=torch.Generator().manual_seed(0))
    w = sampler.module.mapping.map(z, None)
    spread = (w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    assert whole.spread.item() == pytest.approx(spread.item(), rel=0.03)
    assert (whole.mean - w.mean(dim=0)).norm() < 0.05 * spread and tuple(found.mean.shape) == (4, 8)
    assert 0 < (found.mean - whole.mean).norm() < spread
    again = style_statistics(sampler, None, 300, seed=1)
    assert torch.equal(found.mean, again.mean)


def test_features_are_those_of_the_trained_discriminator(run_dir: Path) -> None:
    sampler = open_sampler(run_dir)
    features = open_features(run_dir, sampler)
    state = load_newest(run_dir).state
    names = [name for name in state if name.startswith("d/module/")]
    assert set(features.module.state_dict()) == {name.removeprefix("d/module/") for name in names}
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    (found,) = features(images)
    widths = dict(channel_base=64, channel_max=8, mbstd_group=4, mbstd_channels=4, conv_clamp=256)
    d = Discriminator(c_dim=0, resolution=8, channels=1, **widths)
    d.load_state_dict({name.removeprefix("d/module/"): state[name] for name in names})
    assert torch.equal(found, d.b8(None, images)[0]) and found.shape == (2, 8, 4, 4)
    assert not found.requires_grad and not features.module.b8._forward_hooks


def test_weights_on_their_own_have_no_features(run_dir: Path, make_checkpoint, tmp_path: Path) -> None:
    weights = tmp_path / "generator_ema.safetensors"
    (source,) = run_dir.glob("checkpoints/*/generator_ema.*s")
    for path in (source, source.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert open_features(weights, open_sampler(weights)) is None
    assert open_features(make_checkpoint(), open_sampler(make_checkpoint())) is None


def test_a_converted_folder_has_features(run_dir: Path, tmp_path: Path) -> None:
    options = dict(c_dim=3, resolution=8, channels=1, channel_base=64, channel_max=8, mbstd_group=4)
    d = Discriminator(**options)
    (source,) = run_dir.glob("checkpoints/*/generator_ema.*s")
    for path in (source, source.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "conversion.json").write_text("{}")
    save_file(d.state_dict(), tmp_path / "discriminator.safetensors")
    (tmp_path / "discriminator.json").write_text(json.dumps({"family": "stylegan2", **options}))
    sampler = open_sampler(tmp_path)
    sampler.num_classes = 3
    features, images = open_features(tmp_path, sampler), torch.rand(1, 1, 8, 8)
    assert torch.equal(features(images)[0], d.b8(None, images)[0])
    (tmp_path / "discriminator.json").write_text(json.dumps({"family": "stylegan2", **options, "resolution": 16}))
    with pytest.raises(UserError, match="expected the discriminator that belongs to its generator"):
        open_features(tmp_path, sampler)


def test_the_layers_of_r3gan_are_images_of_features() -> None:
    d = R3GanDiscriminator(R3GanOptions(widths=(8, 8, 4), cardinalities=(4, 4, 2), blocks=(1, 1, 1), channels=1))
    layers = FAMILIES["r3gan"].feature_layers(d)
    x = torch.rand(2, 4, 16, 16)
    assert [x := layer(x) for layer in layers][-1].shape == (2, 8, 4, 4) and len(layers) == 2
    assert FAMILIES["denoiser"].feature_layers(d) == ()


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture).astype(int)


STEPS = 60


def run_project(
    run_dir: Path, image: Path, out: Path, *, plot: bool = False, **changes: object
) -> dict[str, list[float]]:
    options = ProjectOptions(
        str(image),
        str(run_dir),
        str(out),
        **{"steps": STEPS, "mean_samples": 200, "device": "cpu", "lr": 0.2, **changes},
    )
    with pytest.MonkeyPatch.context() as patch:
        if not plot:  # it takes longer than the search
            patch.setattr(project_tool, "_plot", lambda curve: b"")
        assert project(options).is_file()
    return json.loads((out / "projection.json").read_text())["distances"]


@pytest.fixture(scope="module")
def made(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of the generator."""
    out = tmp_path_factory.mktemp("made")
    return generate(GenerateOptions(str(run_dir), str(out), seeds="3", device="cpu"))[0]


def test_a_generated_image_is_found_again(run_dir: Path, made: Path, tmp_path: Path) -> None:
    curves = {"w": run_project(run_dir, made, tmp_path / "w", video="none")}
    curves["w+"] = run_project(run_dir, made, tmp_path / "w+", space="w+", plot=True)
    for space, curve in curves.items():
        folder = tmp_path / space
        assert set(curve) == {"pixels", "discriminator", "total"} and len(curve["total"]) == STEPS
        assert curve["total"][-1] < 0.1 * curve["total"][0] and curve["pixels"][-1] < 0.1 * curve["pixels"][0]
        assert curve["total"][5] == pytest.approx(curve["pixels"][5] + curve["discriminator"][5])
        assert np.array_equal(pixels(folder / "target.png"), pixels(made))
        distance = np.abs(pixels(folder / "projected.png") - pixels(made)).mean()
        assert distance < 0.3 * np.abs(pixels(made) - pixels(made).mean()).mean()
        w = load_file(folder / "projected_w.safetensors")["w"]
        assert tuple(w.shape) == (1, 4, 8)
        assert (space == "w") == all(torch.equal(w[:, 0], w[:, layer]) for layer in range(4))
    with Image.open(tmp_path / "w+" / "way.gif") as way:
        assert way.n_frames > 10 and way.size == (512, 256)
    assert {path.name for path in (tmp_path / "w+").iterdir()} == {
        *(
            "target.png",
            "projected.png",
            "way.png",
            "way.gif",
            "curve.png",
            "projection.json",
            "projected_w.safetensors",
        )
    }
    styles = str(tmp_path / "w+" / "projected_w.safetensors")
    (drawn,) = generate(GenerateOptions(str(run_dir), str(tmp_path / "drawn"), styles=styles, device="cpu"))
    assert drawn.name == "style0000.png" and np.array_equal(pixels(drawn), pixels(tmp_path / "w+" / "projected.png"))


def test_the_same_options_give_the_same_bits(run_dir: Path, made: Path, tmp_path: Path) -> None:
    options = dict(steps=8, video="none", discriminator=False)
    curves = [run_project(run_dir, made, tmp_path / str(i), seed=i // 2, **options) for i in range(3)]
    files = [(tmp_path / str(i) / "projected_w.safetensors").read_bytes() for i in range(3)]
    assert files[0] == files[1] != files[2] and curves[0] == curves[1] and set(curves[0]) == {"pixels", "total"}
    assert not list(tmp_path.glob("*/way.gif"))


def test_a_photo_becomes_an_image_of_the_networks(run_dir: Path, tmp_path: Path) -> None:
    photo = Image.new("RGBA", (40, 24), (0, 0, 0, 0))
    photo.paste((255, 255, 255, 255), (8, 0, 20, 24))
    photo.paste((0, 0, 0, 255), (20, 0, 32, 24))
    photo.save(tmp_path / "photo.png")
    target = read_target(str(tmp_path / "photo.png"), open_sampler(run_dir), "center")
    assert target.shape == (1, 1, 8, 8) and target[..., :3].min() > 0.98 and target[..., 5:7].max() < -0.98


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(image="nowhere.png"), "^image: nowhere.png: No such file"),
        (dict(image=__file__), "^image: .*: not a readable image"),
        (dict(out="a.png"), "^out: found 'a.png', expected a folder"),
        (dict(lpips="x"), "^lpips: given without vgg"),
        (dict(vgg="nowhere.pth"), "^vgg: nowhere.pth is not a file"),
        (dict(steps=0), "^steps is 0"),
        (dict(classes="0"), "^classes: found '0', expected none"),
        (dict(label=(1.0,)), "^label: found .*, expected none"),
        (dict(crop="none"), "^image: .*wide.png: .*expected the same shape"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_bad_options(run_dir: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    Image.new("L", (20, 10)).save(tmp_path / "wide.png")
    options = {"image": str(tmp_path / "wide.png"), "checkpoint": str(run_dir), "out": str(tmp_path / "out")}
    with pytest.raises(UserError, match=message) as error:
        project(ProjectOptions(**{**options, "device": "cpu", "mean_samples": 10, **changes}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"x", (1, 3, 8), (4, 8)])
def test_styles_of_another_network_are_refused(run_dir: Path, tmp_path: Path, content: object) -> None:
    path = tmp_path / "styles.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        save_file({"w": torch.zeros(*content)}, path)
    with pytest.raises(UserError, match="^styles: .*styles.safetensors"):
        generate(GenerateOptions(str(run_dir), str(tmp_path / "out"), styles=str(path), device="cpu"))
    with pytest.raises(UserError, match="^noise is random, expected const or none"):
        generate(GenerateOptions(str(run_dir), str(tmp_path / "out"), styles=str(path), noise="random", device="cpu"))


def test_a_class_is_where_the_search_starts(make_checkpoint, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    curves = [
        run_project(make_checkpoint(c_dim=3), tmp_path / "black.png", tmp_path / name, steps=2, video="none", **options)
        for name, options in {"a": dict(classes="0"), "b": dict(label=(1.0, 0.0, 0.0)), "c": dict(classes="2")}.items()
    ]
    assert curves[0] == curves[1] != curves[2]
    with pytest.raises(UserError, match="^classes: found '0,1', expected one class"):
        run_project(make_checkpoint(c_dim=3), tmp_path / "black.png", tmp_path / "d", classes="0,1")
