"""`smartfast interpolate`: the path itself, its end points, the file formats, bad options."""

import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from smartfast.errors import UserError
from smartfast.families.sampling import Look, draw_path, slerp
from smartfast.families.saved import open_sampler
from smartfast.tools.animation import pictures
from smartfast.tools.generate import GenerateOptions, generate
from smartfast.tools.interpolate import InterpolateOptions, interpolate


def options(checkpoint, **changes) -> InterpolateOptions:
    return InterpolateOptions(
        **{"checkpoint": str(checkpoint), "device": "cpu", "seeds": "0,1,2", "steps": 4, **changes}
    )


def test_slerp_on_the_circle():
    angle = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64) * math.pi / 3
    start = torch.tensor([[2.0, 0.0]], dtype=torch.float64).expand(4, 2)
    end = torch.tensor([[math.cos(math.pi / 3), math.sin(math.pi / 3)]], dtype=torch.float64).expand(4, 2) * 3
    fraction = angle / (math.pi / 3)
    expected = torch.stack([angle.cos(), angle.sin()], dim=1) * (2 + fraction)[:, None]
    assert torch.allclose(slerp(start, end, fraction), expected, atol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slerp_without_an_arc_stays_finite(sign):
    a = torch.randn(3, 5)
    middle = slerp(a, sign * a, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.isfinite(middle).all()
    assert torch.allclose(middle[0], a[0], atol=1e-5) and torch.allclose(middle[2], sign * a[2], atol=1e-5)


@pytest.mark.parametrize("space", ["z", "w"])
@pytest.mark.parametrize("loop", [True, False])
def test_path_passes_through_the_seeds(make_checkpoint, tmp_path, space, loop):
    run = make_checkpoint(c_dim=3)
    seeds, labels = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])
    path = draw_path(open_sampler(run), seeds, labels, steps=4, loop=loop, space=space, look=Look(0.7))
    assert path.dtype == torch.uint8 and tuple(path.shape) == (12 if loop else 9, 1, 8, 8)
    files = generate(
        GenerateOptions(checkpoint=str(run), out=str(tmp_path), seeds="0-2", truncation_psi=0.7, device="cpu")
    )
    for i, file in enumerate(files):
        key = torch.from_numpy(np.array(Image.open(file)))
        assert (path[4 * i, 0].int() - key.int()).abs().max() <= 1


def test_w_path_is_linear_in_w(make_checkpoint):
    run = make_checkpoint()
    sampler = open_sampler(run)
    generator = sampler.module
    path = draw_path(sampler, torch.tensor([0, 1]), None, steps=4, loop=False)
    z = torch.stack([torch.from_numpy(np.random.RandomState(seed).randn(8)).float() for seed in (0, 1)])
    ws = generator.mapping(z)
    expected = generator.synthesis((0.75 * ws[:1] + 0.25 * ws[1:]), "const")
    expected = (expected * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    assert (path[1:2].int() - expected.int()).abs().max() <= 1


def test_batch_size_changes_nothing(make_checkpoint):
    run = make_checkpoint(channels=3)
    paths = [draw_path(open_sampler(run), torch.tensor([3, 4]), None, steps=4, loop=True, batch=b) for b in (1, 32)]
    assert (paths[0].int() - paths[1].int()).abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gif(make_checkpoint, tmp_path, channels):
    run, out = make_checkpoint(channels=channels), tmp_path / "deep" / "path.gif"
    assert interpolate(options(run, out=str(out), fps=10)) == out
    with Image.open(out) as gif:
        assert gif.n_frames > 6 and gif.size == (256, 256)  # Pillow joins equal neighbours
        assert gif.info["duration"] % 100 == 0 and gif.info["loop"] == 0


@pytest.mark.parametrize(("channels", "suffix"), [(4, ".gif"), (4, ".mp4"), (4, ".png"), (3, ".gif"), (1, ".gif")])
def test_alpha_is_laid_on_white_and_said_where_a_format_has_none(
    make_checkpoint, tmp_path, capsys, monkeypatch, channels, suffix
):
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg", reason="the extra `video` is not installed")
    out = tmp_path / f"path{suffix}"
    half_seen = torch.tensor([200, 100, 0, 51], dtype=torch.uint8)[:channels, None, None].expand(6, -1, 8, 8)
    monkeypatch.setattr("smartfast.tools.interpolate.draw_path", lambda *args, **options: half_seen)
    interpolate(options(make_checkpoint(channels=channels), out=str(out)))
    has_alpha_to_lose = channels == 4 and suffix != ".png"
    assert ("alpha is laid on white, a .png keeps it" in capsys.readouterr().out) == has_alpha_to_lose
    if suffix == ".gif" and channels == 4:
        with Image.open(out) as gif:
            colour = np.array(gif.convert("RGB"))[128, 128].astype(int)
        assert np.abs(colour - [244, 224, 204]).max() <= 8  # of a palette


def test_strip_has_one_row_per_pair(make_checkpoint, tmp_path):
    out = tmp_path / "strip.png"
    interpolate(options(make_checkpoint(), out=str(out), steps=5))
    with Image.open(out) as strip:
        assert strip.size == (8 * (5 * 9 + 1), 8 * (3 * 9 + 1))


def test_mp4(make_checkpoint, tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra `video` is not installed")
    out = tmp_path / "path.mp4"
    interpolate(options(make_checkpoint(), out=str(out), fps=12))
    frames = imageio_ffmpeg.read_frames(str(out))
    info = next(frames)
    assert info["size"] == (256, 256) and info["fps"] == 12 and len(list(frames)) == 12


def test_mp4_without_the_extra_says_what_to_install(make_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="pip install imageio-ffmpeg"):
        interpolate(options(make_checkpoint(), out="path.mp4"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(out="path.avi"), "out: found 'path.avi'"),
        (dict(seeds="3"), "seeds: found '3', expected at least two"),
        (dict(steps=0), "steps is 0"),
        (dict(fps=0), "fps is 0"),
        (dict(classes="0,1"), "classes: found 2 classes, expected 1 or as many as seeds"),
        (dict(classes="9"), "classes: found '9'"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_bad_options(make_checkpoint, changes, message):
    with pytest.raises(UserError, match=message):
        interpolate(options(make_checkpoint(c_dim=3), **changes))


def test_a_gif_says_what_becomes_of_alpha(make_checkpoint, tmp_path, capsys):
    """GIF and MP4 have no such alpha: the pictures lie on white, as `smartfast dataset --mode RGB` lays them."""
    for channels in (3, 4):
        interpolate(options(make_checkpoint(channels=channels), out=str(tmp_path / "a.gif"), seeds="0,1", steps=2))
        assert ("alpha is laid on white" in capsys.readouterr().out) == (channels == 4)
    hidden = torch.zeros(1, 4, 8, 8, dtype=torch.uint8)
    hidden[:, 0] = 255
    (picture,) = pictures(hidden)
    assert picture.mode == "RGB" and set(picture.getdata()) == {(255, 255, 255)}
