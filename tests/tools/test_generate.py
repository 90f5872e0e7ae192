"""`smartfast generate`: what a seed fixes, files, classes, bad options."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.config.parse import parse_options
from smartfast.errors import UserError
from smartfast.families.sampling import seeded_latents
from smartfast.families.saved import open_sampler
from smartfast.tools.generate import GenerateOptions, generate, parse_numbers
from smartfast.tools.interpolate import InterpolateOptions, interpolate


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def singles(checkpoint, out, **options) -> dict[str, np.ndarray]:
    written = generate(GenerateOptions(checkpoint=str(checkpoint), out=str(out), device="cpu", **options))
    return {path.name: pixels(path) for path in written}


@pytest.mark.parametrize(
    ("text", "numbers"), [("7", [7]), ("0-3", [0, 1, 2, 3]), ("5, 1-2,0", [5, 1, 2, 0]), ("4-4", [4])]
)
def test_number_lists(text, numbers):
    assert parse_numbers(text, "seeds", 10) == numbers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "11", "0-11", "1.5", "0x1"])
def test_bad_number_lists_name_the_option(text):
    with pytest.raises(UserError, match="^seeds: found"):
        parse_numbers(text, "seeds", 10)


def test_latents_are_those_of_stylegan_scripts():
    expected = np.random.RandomState(85).randn(1, 512)
    assert torch.equal(seeded_latents(torch.tensor([3, 85]), (512,))[1:], torch.from_numpy(expected).to(torch.float32))


@pytest.mark.parametrize("noise", ["const", "random", "none"])
def test_a_seed_alone_fixes_its_image(make_checkpoint, tmp_path, noise):
    together = singles(make_checkpoint(c_dim=3), tmp_path / "a", seeds="0-4", noise=noise)
    alone = singles(make_checkpoint(c_dim=3), tmp_path / "b", seeds="4,2", noise=noise, batch=1)
    assert list(alone) == ["seed0004_class1.png", "seed0002_class2.png"]
    for name, image in alone.items():
        difference = np.abs(image.astype(int) - together[name].astype(int))
        assert difference.max() <= 1  # another batch size may round the last bit differently
    assert np.abs(together["seed0000_class0.png"].astype(int) - together["seed0003_class0.png"]).max() > 5


def test_images_are_the_generators(make_checkpoint, tmp_path):
    run = make_checkpoint(channels=3)
    image = singles(run, tmp_path, seeds="7", truncation_psi=0.5, truncation_cutoff=2)["seed0007.png"]
    generator = open_sampler(run).module
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 8)).float()
    w = generator.mapping.map(z, None)
    ws = w[:, None].repeat(1, generator.num_ws, 1)
    ws[:, :2] = generator.mapping.w_avg + 0.5 * (ws[:, :2] - generator.mapping.w_avg)
    expected = (generator.synthesis(ws, "const") * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    assert np.array_equal(image, expected[0].permute(1, 2, 0).numpy())


def test_several_truncations_lie_side_by_side(make_checkpoint, tmp_path):
    run = make_checkpoint(c_dim=3)
    images = singles(run, tmp_path / "several", seeds="0-2", truncation_psi=(0.25, 1.0), batch=2)
    assert list(images)[:3] == [
        "seed0000_class0_psi0.25.png",
        "seed0000_class0_psi1.png",
        "seed0001_class1_psi0.25.png",
    ]
    for psi in (0.25, 1.0):
        for name, image in singles(run, tmp_path / f"alone{psi > 0.5}", seeds="0-2", truncation_psi=psi).items():
            both = images[name.replace(".png", f"_psi{psi:g}.png")]
            assert np.abs(both.astype(int) - image.astype(int)).max() <= 1
    sheet = tmp_path / "sheet.png"
    generate(GenerateOptions(str(run), str(sheet), seeds="0-2", truncation_psi=(0.25, 1.0), device="cpu"))
    assert pixels(sheet).shape == (8 * (3 * 9 + 1), 8 * (2 * 9 + 1))
    assert np.array_equal(pixels(sheet)[8:72:8, 80:144:8], images["seed0000_class0_psi1.png"])


@pytest.mark.parametrize(("given", "psis"), [("0.5", 0.5), ("0.5,1", (0.5, 1.0)), ("[0.7]", 0.7)])
def test_truncations_of_the_command_line(given, psis):
    options = parse_options(GenerateOptions, ["--checkpoint", "a", "--truncation_psi", given], command="generate")
    wanted = options.truncation_psi
    assert wanted == psis or wanted == (psis,)


def test_noise_modes_differ(make_checkpoint, tmp_path):
    images = [
        singles(make_checkpoint(), tmp_path / noise, seeds="1", noise=noise)["seed0001.png"].astype(int)
        for noise in ("const", "random", "none")
    ]
    assert all(np.abs(a - b).max() > 2 for a, b in [(images[0], images[1]), (images[1], images[2])])


def test_every_seed_in_every_class(make_checkpoint, tmp_path):
    images = singles(make_checkpoint(c_dim=3), tmp_path, seeds="0,5", classes="0,2")
    assert list(images) == ["seed0000_class0.png", "seed0000_class2.png", "seed0005_class0.png", "seed0005_class2.png"]
    assert np.abs(images["seed0000_class0.png"].astype(int) - images["seed0000_class2.png"]).max() > 2


def test_sheet_has_one_column_per_class(make_checkpoint, tmp_path):
    out = tmp_path / "sheet.png"
    options = GenerateOptions(checkpoint=str(make_checkpoint(c_dim=3)), out=str(out), seeds="0-1", classes="0-2")
    assert generate(options) == [out]
    height, width = pixels(out).shape  # 8 pixels enlarged 8 times, a line of one pixel around each
    assert (height, width) == (8 * (2 * 9 + 1), 8 * (3 * 9 + 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(seeds="x"), "seeds: found 'x'"),
        (dict(seeds="4294967296"), "seeds: .* from 0 to 4294967295"),
        (dict(seeds="0-4294967295"), "seeds: found '0-4294967295', expected at most 1000000 numbers"),
        (dict(seeds="9" * 5000), "seeds: found '9+', expected numbers and ranges"),
        (dict(classes="3"), "classes: found '3', expected rising numbers from 0 to 2"),
        (dict(out="fakes.jpg"), "out: found 'fakes.jpg'"),
        (dict(batch=0), "batch is 0"),
        (dict(columns=0), "columns is 0"),
        (dict(truncation_psi=(0.5, 0.5)), r"^truncation_psi is \[0.5, 0.5\], expected one or several, each once"),
        (dict(truncation_psi=()), r"^truncation_psi is \[\]"),
        (dict(truncation_psi=(0.5, 101.0)), "^truncation_psi is 101"),
        (dict(device="gpu7"), "device: found 'gpu7'"),
        (dict(checkpoint="nowhere"), "nowhere: expected a run folder"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_bad_options(make_checkpoint, options, message):
    with pytest.raises(UserError, match=message) as error:
        generate(GenerateOptions(**{"checkpoint": str(make_checkpoint(c_dim=3)), "device": "cpu", **options}))
    assert "\n" not in str(error.value)


def test_classes_need_a_conditional_generator(make_checkpoint):
    with pytest.raises(UserError, match="without labels"):
        generate(GenerateOptions(checkpoint=str(make_checkpoint()), classes="0", device="cpu"))


@pytest.mark.parametrize("text", ["emu", "2", " emu "])
def test_classes_by_name_and_by_number(make_checkpoint, tmp_path, monkeypatch, text):
    run = shutil.copytree(make_checkpoint(c_dim=3), tmp_path / "run")
    (index,) = run.glob("checkpoints/*/checkpoint.json")
    index.write_text(json.dumps(json.loads(index.read_text()) | {"dataset": {"class_names": ["cat", "2dog", "emu"]}}))
    images = singles(run, tmp_path / "out", seeds="0", classes=text)
    assert list(images) == ["seed0000_class2.png"]
    assert list(singles(run, tmp_path / "two", seeds="0", classes="emu,2dog,0")) == [
        f"seed0000_class{label}.png" for label in (2, 1, 0)
    ]
    with pytest.raises(UserError, match="^classes: found 'ant', expected .*cat, 2dog, emu"):
        singles(run, tmp_path / "out", seeds="0", classes="ant")
    path = interpolate(InterpolateOptions(str(run), str(tmp_path / "a.png"), seeds="0,1", steps=2, classes="emu"))
    assert path.is_file()


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"dataset": 3}', b'{"dataset": {"class_names": null}}'])
def test_weights_without_class_names_take_numbers(make_checkpoint, tmp_path, content):
    run = shutil.copytree(make_checkpoint(c_dim=3), tmp_path / "run")
    (weights,) = run.glob("checkpoints/*/generator_ema.safetensors")
    weights.with_name("checkpoint.json").write_bytes(content)
    assert list(singles(weights, tmp_path / "out", seeds="0", classes="1")) == ["seed0000_class1.png"]
    with pytest.raises(UserError, match="^classes: found 'cat', expected numbers"):
        singles(weights, tmp_path / "out", seeds="0", classes="cat")
