"""The cache of real features on disk."""

import os
from pathlib import Path

import pytest

from smartfast.config.schema import MetricsConfig
from smartfast.core.caches import default_cache_dir
from smartfast.metrics import evaluate, reals

SETTINGS = MetricsConfig(names=("fid", "prc", "diversity"), samples=60, features="digits")


class Counting:
    """A data set that counts the images read from it."""

    def __init__(self, dataset) -> None:
        self.dataset, self.reads = dataset, 0

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        self.reads += 1
        return self.dataset[index]


@pytest.fixture
def counted(digits, make_dataset):
    return Counting(make_dataset(digits[0][:150], digits[1][:150]))


@pytest.fixture
def score(digits, showing):
    def run(dataset, settings=SETTINGS, **options):
        found = evaluate(showing(*digits), dataset, settings, device="cpu", progress=False, **options)
        found.pop("seconds")
        return found

    return run


def test_a_hit_gives_the_same_numbers_and_reads_no_image(counted, score):
    first = score(counted)
    assert counted.reads == 150
    assert score(counted) == first
    assert counted.reads == 150


def test_threads_are_shared_by_the_processes_of_a_machine(counted, score, monkeypatch):
    pools = []
    executor = reals.ThreadPoolExecutor
    monkeypatch.setattr(reals, "ThreadPoolExecutor", lambda workers: pools.append(workers) or executor(workers))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    score(counted)
    assert pools == [8]


def test_another_fingerprint_is_another_entry(digits, counted, make_dataset, score):
    first = score(counted)
    other = Counting(make_dataset(digits[0][150:300], digits[1][150:300]))
    assert other.fingerprint != counted.fingerprint
    assert score(other) != first
    assert other.reads == 150


def test_statistics_alone_are_small_and_separate(counted, score, cache_dir):
    score(counted, MetricsConfig(names=("fid",), samples=60, features="digits"))
    (file,) = cache_dir.glob("*.safetensors")
    assert file.stat().st_size < 8 * (64 * 64 + 64) + 1000
    score(counted)
    assert counted.reads == 300


@pytest.mark.parametrize("damage", [lambda f: f.write_bytes(f.read_bytes()[:-7]), Path.unlink])
def test_a_damaged_entry_is_computed_anew(counted, score, cache_dir, damage):
    first = score(counted)
    (file,) = cache_dir.glob("*.safetensors")
    damage(file)
    with pytest.warns(UserWarning, match="cannot be read and is computed anew"):
        assert score(counted) == first
    assert counted.reads == 300
    assert score(counted) == first
    assert counted.reads == 300
    assert not list(cache_dir.glob("*.partial"))


def test_a_cache_that_cannot_be_written_is_no_error(counted, score, tmp_path):
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert score(counted, cache_dir=tmp_path / "taken") == score(counted)


def test_default_folder(monkeypatch, tmp_path):
    assert default_cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("SMARTFAST_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "smartfast"
