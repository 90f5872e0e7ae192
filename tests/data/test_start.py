"""A whole run on a folder of images: what its resume opens."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from smartfast.config.parse import parse_config
from smartfast.data.sources.folder import FolderSource
from smartfast.errors import UserError
from smartfast.run.launch import launch

SETTINGS = {
    "data.labels": "false",
    "gan.z_dim": 8,
    "gan.w_dim": 8,
    "gan.mapping_layers": 1,
    "gan.channel_base": 64,
    "gan.channel_max": 8,
    "gan.mbstd_by_class": "false",
    "optim.batch": 8,
    "smart.frequency": 0,
    "metrics.every_ticks": 1,
    "metrics.names": "[fid]",
    "metrics.samples": 16,
    "metrics.batch": 16,
    "metrics.features": "digits",
    "run.tracker": "none",
    "run.tick_kimg": 0.008,
    "run.snapshot_ticks": 1,
    "perf.cpu_threads": 1,
}


@pytest.mark.parametrize("cache", ["device", "stream"])
def test_a_resume_opens_only_what_it_streams(
    cache: str,
    tmp_path: Path,
    random_image: Callable[..., Image.Image],
    write_files: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = write_files({f"{i:02d}.png": random_image(i, (16, 16), "L") for i in range(60)})
    opened: Counter[str] = Counter()
    original = FolderSource._read

    def count(source: FolderSource, index: int) -> bytes:
        opened[source.names[index]] += 1
        return original(source, index)

    monkeypatch.setattr(FolderSource, "_read", count)
    settings = SETTINGS | {"data.path": folder, "data.cache": cache, "data.workers": 0, "run.dir": tmp_path / "run"}
    for kimg in (0.008, 0.016):
        opened.clear()
        assert launch(parse_config([f"--{name}={value}" for name, value in (settings | {"run.kimg": kimg}).items()]))
    assert sum(opened.values()) == (0 if cache == "device" else 16)  # the last batch, and the one read ahead of use


def test_a_run_on_names_of_any_bytes_is_reported_and_resumed(
    tmp_path: Path, random_image: Callable[..., Image.Image], write_files: Callable[..., Path]
) -> None:
    folder = write_files({f"{'ab'[i % 2]}/{i:02d}.png": random_image(i, (16, 16), "L") for i in range(20)})
    os.rename(os.fsencode(folder) + b"/a", os.fsencode(folder) + b"/caf\xe9\n")
    settings = SETTINGS | {"data.path": folder, "data.labels": "true", "run.dir": tmp_path / "run"}
    for kimg in (0.008, 0.016):
        assert launch(parse_config([f"--{name}={value}" for name, value in (settings | {"run.kimg": kimg}).items()]))
    assert (tmp_path / "run/report.html").stat().st_size
    (newest,) = sorted(tmp_path.glob("run/checkpoints/*/checkpoint.json"))[-1:]
    assert json.loads(newest.read_text())["dataset"]["class_names"] == ["b", "caf\\udce9\\n"]


@pytest.mark.parametrize("name", ["data.path", "run.dir"])
def test_a_path_that_yaml_has_no_word_for_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} is .*udcff.*, expected a path .* UTF-8") as error:
        parse_config([f"--{name}={os.fsdecode(b'data' + bytes([255]))}"])
    assert str(error.value).isprintable()
