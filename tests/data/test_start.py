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


@pytest.mark.parametrize("odd", ["class", "path"])
def test_a_run_on_names_of_any_bytes_is_reported_and_resumed(
    odd: str, tmp_path: Path, random_image: Callable[..., Image.Image], write_files: Callable[..., Path]
) -> None:
    folder = os.fsencode(write_files({f"{'ab'[i % 2]}/{i:02d}.png": random_image(i, (16, 16), "L") for i in range(20)}))
    os.rename(folder + b"/a", folder + b"/caf\xe9\n")
    path, run = os.fsdecode(folder), tmp_path / "run"
    if odd == "path":
        path, run = os.fsdecode(folder + b"\xff"), tmp_path / os.fsdecode(b"run\xe9")
        os.rename(folder, path)
    settings = SETTINGS | {"data.path": path, "data.labels": "true", "run.dir": run}
    for kimg in (0.008, 0.016) if odd == "class" else (0.008,):  # YAML has no word for such a path
        assert launch(parse_config([f"--{name}={value}" for name, value in (settings | {"run.kimg": kimg}).items()]))
    assert (run / "report.html").stat().st_size
    (newest,) = sorted(run.glob("checkpoints/*/checkpoint.json"))[-1:]
    assert json.loads(newest.read_text())["dataset"]["class_names"] == ["b", "caf\\udce9\\n"]
