"""`evaluate` on digits whose answer is known: the same set, collapsed, halved or damaged ones."""

import math
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from smartfast.config.schema import MetricsConfig
from smartfast.data import ImageDataset
from smartfast.metrics import evaluate, evaluation
from smartfast.metrics.digits.features import EXTRACTOR_NAME

ALL = ("fid", "kid", "isc", "prc", "diversity")
KEYS = {"fd_digits", "kd_digits", "cs_digits", "precision_digits", "recall_digits", "diversity_digits"}
FAST = ("fid", "prc", "diversity")

pytestmark = pytest.mark.filterwarnings("ignore:kernel distance. subsets of")


def config(samples: int, names: tuple[str, ...] = FAST, batch: int = 64) -> MetricsConfig:
    return MetricsConfig(names=names, samples=samples, batch=batch, features="digits")


@pytest.fixture
def scores(digits, make_dataset, showing):
    """scores(images, labels): metrics of these images against the 600 digits."""

    def score(images, labels, names=FAST):
        dataset = make_dataset(*digits)
        return evaluate(showing(images, labels), dataset, config(len(images), names), device="cpu", progress=False)

    return score


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (ALL, KEYS),
        (("fid",), {"fd_digits"}),
        (("isc",), {"cs_digits"}),
        (("prc", "diversity"), {"precision_digits", "recall_digits", "diversity_digits"}),
    ],
)
def test_returns_what_was_asked_for(digits, scores, names, expected):
    found = scores(digits[0][:100], digits[1][:100], names)
    assert set(found) == expected | {"seconds"}
    assert all(isinstance(value, float) for value in found.values())


class Images(Dataset):
    """uint8 images [N, C, H, W] as torch-fidelity takes them."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def test_equals_what_torch_fidelity_computes_from_the_images(digits, make_dataset, showing):
    images, labels = digits
    fakes, reals = images[:130], images[250:401]
    expected = calculate_metrics(
        input1=Images(fakes),
        input2=Images(reals),
        feature_extractor=EXTRACTOR_NAME,
        cuda=False,
        fid=True,
        kid=True,
        isc=True,
        prc=True,
        kid_subset_size=130,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    dataset = make_dataset(reals, labels[250:401])
    found = evaluate(showing(fakes, None), dataset, config(130, ALL), device="cpu", progress=False)
    assert found["fd_digits"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-4)
    assert found["kd_digits"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert found["cs_digits"] == pytest.approx(expected["inception_score_mean"], rel=1e-4)
    assert found["precision_digits"] == pytest.approx(expected["precision"], abs=1e-6)
    assert found["recall_digits"] == pytest.approx(expected["recall"], abs=1e-6)
    assert found["precision_digits"] != found["recall_digits"]


def test_the_same_set(digits, scores):
    found = scores(*digits, ALL)
    assert found["fd_digits"] == pytest.approx(0, abs=1e-6)
    assert found["precision_digits"] == found["recall_digits"] == 1
    assert found["diversity_digits"] == pytest.approx(1, rel=1e-9)
    assert 9 < found["cs_digits"] <= 10
    assert abs(found["kd_digits"]) < 0.1


def test_collapse_within_classes_lowers_recall_and_diversity(digits, scores):
    images, labels = digits
    members = [(labels == label).nonzero()[:3, 0] for label in range(10)]
    chosen = torch.stack([members[label][i % 3] for i, label in enumerate(labels.tolist())])
    found = scores(images[chosen], labels)
    assert found["precision_digits"] == 1
    assert found["recall_digits"] < 0.1
    assert found["diversity_digits"] < 0.65


def test_missing_classes_lower_recall_but_not_diversity(digits, scores):
    images, labels = digits
    found = scores(images[labels < 5], labels[labels < 5])
    assert found["precision_digits"] == 1
    assert 0.4 < found["recall_digits"] < 0.6
    assert found["diversity_digits"] == pytest.approx(1, rel=1e-9)


def test_distance_grows_with_blur_and_noise(digits, scores):
    images, labels = digits
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)

    def blurred(times: int) -> torch.Tensor:
        x = images.float()
        for _ in range(times):
            x = F.avg_pool2d(x, 3, stride=1, padding=1)
        return x.round().to(torch.uint8)

    def noisy(std: float) -> torch.Tensor:
        return (images + std * noise).clamp(0, 255).to(torch.uint8)

    sets = ([blurred(1), blurred(3)], [noisy(20), noisy(80)])
    blur, sand = ([scores(x, labels)["fd_digits"] for x in xs] for xs in sets)
    assert 0.1 < blur[0] < blur[1]
    assert 0.1 < sand[0] < sand[1]


def test_grey_and_rgb_score_the_same(digits, scores, make_dataset, showing):
    images, labels = digits
    as_rgb = make_dataset(images.expand(-1, 3, -1, -1).contiguous(), labels, "rgb")
    sampler = showing(images[:200].expand(-1, 3, -1, -1), labels[:200])
    rgb = evaluate(sampler, as_rgb, config(200), device="cpu", progress=False)
    grey = scores(images[:200], labels[:200])
    assert {k: v for k, v in rgb.items() if k != "seconds"} == pytest.approx(
        {k: v for k, v in grey.items() if k != "seconds"}, rel=1e-5
    )


def test_unlabelled_data(digits, make_dataset, showing):
    images, _ = digits
    dataset = make_dataset(images, None)
    found = evaluate(showing(images[:100], None), dataset, config(100), device="cpu", progress=False)
    assert found["diversity_digits"] == pytest.approx(1, abs=0.1)


def test_few_samples_adapt_the_sizes_and_say_so(digits, make_dataset, showing):
    images, labels = digits
    dataset = make_dataset(images[:20], labels[:20])
    with pytest.warns(UserWarning) as caught:
        found = evaluate(showing(images[20:], labels[20:]), dataset, config(3, ALL), device="cpu", progress=False)
    messages = [str(w.message) for w in caught]
    assert any(m.startswith("kernel distance: subsets of 3 images instead of 1000") for m in messages)
    assert any(m.startswith("precision and recall: 2 neighbours instead of 3") for m in messages)
    assert KEYS < set(found)


def test_diversity_without_pairs_is_nan_and_says_so(digits, make_dataset, showing):
    images, labels = digits
    dataset = make_dataset(images[:20], labels[:20])
    chosen = torch.stack([(labels == label).nonzero()[0, 0] for label in range(10)])
    settings = config(10, ("diversity",))
    with pytest.warns(UserWarning, match="diversity: nan, no class has two samples"):
        found = evaluate(showing(images[chosen], labels[chosen]), dataset, settings, device="cpu", progress=False)
    assert math.isnan(found["diversity_digits"])


@pytest.mark.parametrize(
    ("samples", "reals", "fewer"),
    [
        (64, 600, "Fréchet distance: 64 samples for 64"),
        (65, 64, "Fréchet distance: 64 real images for 64"),
        (65, 65, None),
    ],
)
def test_a_singular_covariance_is_said(digits, make_dataset, showing, samples, reals, fewer):
    """The 64 features of n images have a covariance of rank n - 1."""
    images, labels = digits
    dataset = make_dataset(images[:reals], labels[:reals])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(showing(images, labels), dataset, config(samples, ("fid",)), device="cpu", progress=False)
    found = [str(w.message) for w in caught]
    assert [text.partition(" features,")[0] for text in found] == ([] if fewer is None else [fewer])


def test_a_metric_that_fails_is_nan_and_the_others_are_there(digits, scores, monkeypatch):
    def fail(*args):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("smartfast.metrics.evaluation._precision_recall", fail)
    expected = "^precision_digits, recall_digits: not computed, RuntimeError: out of memory$"
    with pytest.warns(UserWarning, match=expected):
        found = scores(digits[0][:100], digits[1][:100])
    assert math.isnan(found["precision_digits"]) and math.isnan(found["recall_digits"])
    assert found["fd_digits"] > 0 and found["diversity_digits"] > 0


def test_precision_and_recall_do_not_depend_on_the_precision_of_training(digits, scores, monkeypatch):
    seen, usual = [], evaluation.prc_features_to_metric

    def look(*args, **kwargs):
        seen.append(torch.get_float32_matmul_precision())
        return usual(*args, **kwargs)

    monkeypatch.setattr(evaluation, "prc_features_to_metric", look)
    torch.set_float32_matmul_precision("high")
    try:
        scores(digits[0][:100], digits[1][:100], ("prc",))
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_batch_size_changes_nothing(digits, make_dataset, showing):
    dataset = make_dataset(*digits)
    first, second = (
        evaluate(showing(*digits), dataset, config(77, batch=batch), device="cpu", progress=False) for batch in (5, 64)
    )
    first.pop("seconds"), second.pop("seconds")
    assert first == pytest.approx(second, rel=1e-5)


class Team:
    """`count` threads in the place of processes, with a gather that waits for all of them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.barrier = threading.Barrier(count, timeout=60)
        self.parts: list = [None] * count

    def gather(self, index: int, x: torch.Tensor) -> torch.Tensor:
        self.parts[index] = x
        self.barrier.wait()
        together = torch.cat(self.parts)
        self.barrier.wait()
        return together

    def run(self, work) -> list:
        results: list = [None] * self.count

        def member(index: int) -> None:
            results[index] = work(index, lambda x: self.gather(index, x))

        threads = [threading.Thread(target=member, args=(index,)) for index in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def test_number_of_processes_changes_nothing(digits, make_dataset, showing, tmp_path, monkeypatch):
    images, labels = digits
    dataset = make_dataset(images[:301], labels[:301])
    sampler, settings = showing(images[200:], labels[200:]), config(151, ALL, batch=20)
    alone = evaluate(sampler, dataset, settings, device="cpu", progress=False, cache_dir=tmp_path / "alone")
    alone.pop("seconds")

    def work(index: int, gather) -> dict[str, float]:
        shared = dict(device="cpu", process_index=index, num_processes=3, gather=gather, progress=False)
        return evaluate(sampler, dataset, settings, **shared, cache_dir=tmp_path / f"cache{index}")

    results = Team(3).run(work)
    assert (tmp_path / "cache0").is_dir() and not (tmp_path / "cache1").exists(), "only the first process writes"
    monkeypatch.setattr(ImageDataset, "__getitem__", lambda *_: pytest.fail("a real image is read again"))
    results += Team(3).run(work)  # each has a cache folder of its own, and the first process's suffices
    assert results[0] == results[1] == results[2]
    assert results[3] == results[4] == results[5]
    for found in results:
        found.pop("seconds")
        assert found == pytest.approx(alone, rel=1e-5, abs=1e-5)
