"""The cache of real features on disk."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smartfast.config.schema import DataConfig, MetricsConfig
from smartfast.core.caches import default_cache_dir
from smartfast.data import open_dataset
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


def entry_file(cache_dir: Path) -> Path:
    (file,) = cache_dir.glob("*.safetensors")
    return file


def flip(position: float):
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(position * (len(content) - 1))] ^= 0x10
        path.write_bytes(content)

    return damage


def rewrite(**changes):
    """Another tensor in place of one, in an intact file whose description is as it was."""

    def damage(path: Path) -> None:
        with safe_open(path, "pt") as file:
            written = file.metadata()
        tensors = load_file(path)
        for name, change in changes.items():
            tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, path, written)

    return damage


DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "bit of the header": flip(0.0),
    "bit of the first tensor": flip(0.05),
    "bit in the middle": flip(0.5),
    "last bit": flip(1.0),
    "another mean": rewrite(mu=lambda mu: mu + 1e-3),
    "mean of other shape": rewrite(mu=lambda mu: mu[:-1]),
    "mean of other dtype": rewrite(mu=lambda mu: mu.float()),
    "covariance of other shape": rewrite(sigma=lambda sigma: sigma[:, :-1]),
    "features of other dtype": rewrite(features=lambda features: features.half()),
    "fewer features": rewrite(features=lambda features: features[:-1]),
    "other labels": rewrite(labels=lambda labels: labels.flip(0)),
    "not a number": rewrite(sigma=lambda sigma: sigma * float("nan")),
    "no description": lambda path: save_file(load_file(path), path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_computed_anew(counted, score, cache_dir, damage):
    first = score(counted)
    DAMAGE[damage](entry_file(cache_dir))
    with pytest.warns(UserWarning, match="cannot be used and is computed anew") as caught:
        assert score(counted) == first
    (said,) = [str(warning.message) for warning in caught if "metrics cache" in str(warning.message)]
    assert str(entry_file(cache_dir)) in said
    assert counted.reads == 300
    assert score(counted) == first
    assert counted.reads == 300
    assert [path.suffix for path in cache_dir.glob("*e*")] == [".safetensors"]


def test_a_folder_in_the_place_of_an_entry_costs_a_line(counted, score, cache_dir):
    first = score(counted)
    file = entry_file(cache_dir)
    file.unlink()
    file.mkdir()
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        assert score(counted) == first
    assert len([warning for warning in caught if "metrics cache" in str(warning.message)]) == 1


def test_an_entry_of_other_data_is_not_used(digits, counted, make_dataset, score, cache_dir):
    """Under the wrong name, as after a copy of the wrong file."""
    score(counted)
    first = entry_file(cache_dir)
    other = Counting(make_dataset(digits[0][150:300], digits[1][150:300]))
    truth = score(other)
    (second,) = set(cache_dir.glob("*.safetensors")) - {first}
    second.write_bytes(first.read_bytes())
    with pytest.warns(UserWarning, match="cannot be used"):
        assert score(other) == truth


def test_the_same_data_under_another_name_share_an_entry(digits, counted, make_dataset, score, tmp_path):
    first = score(counted)
    (tmp_path / "reals.npz").rename(tmp_path / "renamed.npz")
    renamed = Counting(open_dataset(DataConfig(path=str(tmp_path / "renamed.npz"), labels=True)))
    assert score(renamed) == first
    assert renamed.reads == 0


def test_writers_at_the_same_time_leave_one_whole_entry(counted, score, cache_dir):
    first = score(counted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: score(counted, cache_dir=cache_dir.with_name("shared")), range(4)))
    assert found == [first] * 4
    before = counted.reads
    assert score(counted, cache_dir=cache_dir.with_name("shared")) == first and counted.reads == before
    assert [path.suffix for path in cache_dir.with_name("shared").iterdir()] == [".safetensors"]


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
