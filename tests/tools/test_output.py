"""Tools on a disk that takes nothing, or that is full in the middle: one line, and no half a file."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from smartfast.errors import UserError
from smartfast.families.stylegan2.sampler import StyleGan2Sampler
from smartfast.tools.evaluate import DataOptions, EvaluateOptions, MetricsOptions, evaluate_command
from smartfast.tools.generate import GenerateOptions, generate
from smartfast.tools.interpolate import InterpolateOptions, interpolate

SPACE = "expected a folder with room that can be written"


def draw(out: Path, run: Path) -> None:
    if out.name.startswith("path"):
        interpolate(InterpolateOptions(checkpoint=str(run), out=str(out), device="cpu", seeds="0-2", steps=3))
    else:
        generate(GenerateOptions(checkpoint=str(run), out=str(out), device="cpu", seeds="0-9", batch=2))


@contextmanager
def full_disk(room_bytes: int) -> Iterator[None]:
    """No file grows beyond `room_bytes`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is found before anything is drawn."""

    def fail(*args: object) -> None:
        raise AssertionError("something was drawn")

    monkeypatch.setattr(StyleGan2Sampler, "images", fail)
    monkeypatch.setattr(StyleGan2Sampler, "mix", fail)


@pytest.mark.parametrize("name", ["sheet.png", "folder", "path.gif", "path.png", "path.mp4"])
@pytest.mark.parametrize("place", ["/proc/nowhere", "file", "file/below", "/dev/null"])
def test_a_folder_that_cannot_be_written(make_checkpoint, tmp_path, draws_nothing, name, place) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg", reason="the extra `video` is not installed")
    (tmp_path / "file").write_text("no folder")
    out = tmp_path / place / name
    with pytest.raises(UserError) as caught:
        draw(out, make_checkpoint())
    text = str(caught.value)
    assert text.startswith(f"out: {out} cannot be written (") and text.endswith(SPACE) and "\n" not in text


@pytest.mark.parametrize("name", ["sheet.png", "folder", "path.gif", "path.png", "path.mp4"])
def test_a_disk_that_is_full(make_checkpoint, tmp_path, name) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg", reason="the extra `video` is not installed")
    run, out = make_checkpoint(), tmp_path / name
    with full_disk(64), pytest.raises(UserError, match=f"^out: .* cannot be written .*{SPACE}$") as caught:
        draw(out, run)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_older_file_stays_when_the_disk_is_full(make_checkpoint, tmp_path) -> None:
    out = tmp_path / "path.gif"
    draw(out, make_checkpoint())
    before = out.read_bytes()
    with full_disk(64), pytest.raises(UserError):
        draw(out, make_checkpoint())
    assert out.read_bytes() == before


def test_images_are_written_as_they_are_drawn(make_checkpoint, tmp_path, monkeypatch) -> None:
    """A folder of a million images needs the memory of a batch."""
    draws: Callable = StyleGan2Sampler.images
    seen = []

    def images(self, *args: object) -> torch.Tensor:
        seen.append(len(list(tmp_path.glob("*.png"))))
        return draws(self, *args)

    monkeypatch.setattr(StyleGan2Sampler, "images", images)
    written = generate(GenerateOptions(str(make_checkpoint()), out=str(tmp_path), seeds="0-9", batch=4, device="cpu"))
    assert seen == [0, 4, 8] and len(written) == 10


def test_what_is_in_the_way_is_said_before_drawing(make_checkpoint, tmp_path, draws_nothing) -> None:
    (tmp_path / "fakes.jpg").write_text("")
    for out in (tmp_path / "fakes.jpg", tmp_path / "fakes.webp"):
        with pytest.raises(UserError, match="^out: found .*, expected a .png file or a folder"):
            generate(GenerateOptions(str(make_checkpoint()), out=str(out), device="cpu"))


def test_evaluate_prints_what_it_cannot_write(make_checkpoint, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("SMARTFAST_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(make_checkpoint(c_dim=10) / "checkpoints")
    (run / "config.yaml").write_text("data: {path: digits, resolution: 8, labels: true}\n")
    (run / "metrics-000002.json").mkdir()
    options = EvaluateOptions(
        str(run),
        data=DataOptions(path="digits"),
        metrics=MetricsOptions(samples=70, features="digits"),
        device="cpu",
    )
    with pytest.raises(UserError, match="metrics-000002.json cannot be written") as caught:
        evaluate_command(options)
    assert "\n" not in str(caught.value) and "metric/fd_digits" in capsys.readouterr().out
