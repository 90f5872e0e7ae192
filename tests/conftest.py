"""Fixtures that several test files share."""

import functools
import json
import math
import os
import re
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = os.environ.get("SMARTFAST_TEST_DEVICE", "cpu")
"""Where the tests of ops and networks put tensors: cpu, with Triton's kernels in its interpreter, or cuda."""

if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton

from smartfast.config.parse import parse_config  # noqa: E402
from smartfast.core.caches import CACHE_VARIABLE  # noqa: E402
from smartfast.core.checkpoint import save_checkpoint  # noqa: E402
from smartfast.data import RealBatch, open_dataset  # noqa: E402
from smartfast.families.stylegan2.phases import StyleGan2Phases  # noqa: E402
from smartfast.networks.stylegan2 import Generator  # noqa: E402
from smartfast.run.training import Training  # noqa: E402
from smartfast.scorers import timestep_range  # noqa: E402
from smartfast.scorers.analytic import GaussianMixtureScorer  # noqa: E402
from smartfast.scorers.schedule import schedule_from_betas  # noqa: E402

TINY_SETTINGS = {
    "data.resolution": 8,
    "gan.z_dim": 8,
    "gan.w_dim": 8,
    "gan.mapping_layers": 1,
    "gan.d_mapping_layers": 1,
    "gan.channel_base": 64,
    "gan.channel_max": 8,
    "gan.noise": "true",
    "gan.mbstd_group": 4,
    "gan.mbstd_by_class": "false",
    "loss.path_length_weight": 2,
    "loss.path_length_interval": 4,
    "loss.r1_interval": 8,
    "loss.style_mixing_prob": 0.5,
    "optim.batch": 8,
    "smart.frequency": 2,
}
"""A run so small that tests can afford to compile it: 8x8 digits and an analytic scorer."""

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
IMAGE_SHAPES = {"L": (), "RGB": (3,), "RGBA": (4,)}


SLOW = "SMARTFAST_TEST_SLOW" in os.environ


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes long; left out without SMARTFAST_TEST_SLOW=1")
    config.addinivalue_line("markers", "sample(n): one case in n, spread over all, without SMARTFAST_TEST_SLOW=1")
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        torch.set_num_threads(max(torch.get_num_threads() // int(workers), 1))
    if DEVICE != "cpu":
        torch.set_default_device(DEVICE)
        torch.backends.cudnn.allow_tf32 = False  # comparisons with float64 mean float32


def pytest_report_header() -> str:
    return "SMARTFAST_TEST_SLOW: " + ("every test" if SLOW else "unset, what takes long is left out or sampled")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is `slow`, and of what is a `sample` most cases.

    Fractions of multiples of the golden ratio have no period that a parameter could share, so every value of every
    parameter has its turn.
    """
    if SLOW:
        return
    seen: Counter[str] = Counter()
    left_out = []
    for item in items:
        function = item.nodeid.partition("[")[0]
        sample = item.get_closest_marker("sample")
        is_drawn = sample is None or seen[function] * GOLDEN_RATIO % 1 < 1 / sample.args[0]
        seen[function] += 1
        if item.get_closest_marker("slow") or not is_drawn:
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    chosen = set(items).difference(left_out)
    items[:] = [item for item in items if item in chosen]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run folder with one checkpoint of a tiny random generator; arguments: c_dim and channels."""
    made: dict[tuple[int, int], Path] = {}

    def make(c_dim: int = 0, channels: int = 1) -> Path:
        if (c_dim, channels) not in made:
            made[c_dim, channels] = _write_run(tmp_path_factory.mktemp("run"), c_dim, channels)
        return made[c_dim, channels]

    return make


def _write_run(run_dir: Path, c_dim: int, channels: int) -> Path:
    options = dict(
        z_dim=8, c_dim=c_dim, w_dim=8, resolution=8, channels=channels, mapping_layers=2, channel_base=64, channel_max=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(**options)
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                torch.nn.init.constant_(parameter, 0.5)
        torch.nn.init.normal_(generator.mapping.w_avg)
    save_checkpoint(
        run_dir,
        images=2000,
        state={"empty": torch.zeros(1)},
        generator=generator.state_dict(),
        generator_options=options,
        info={"time_sec": 1.0, "device": "cpu", "versions": {"torch": torch.__version__}},
        keep=1,
    )
    return run_dir


@pytest.fixture
def write_hammer(tmp_path: Path) -> Callable[..., Path]:
    """write_hammer({"generator_smooth": network.state_dict()}, label_dim=3): a file in Hammer's layout."""

    def write(models: Mapping[str, Mapping[str, torch.Tensor]], **kwargs: Any) -> Path:
        path = tmp_path / "checkpoint.pth"
        states = {name: dict(_in_hammer(tensors)) for name, tensors in models.items()}
        torch.save({"models": states, "model_kwargs_init": dict.fromkeys(models, kwargs)}, path)
        return path

    return write


def _in_hammer(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """A state dict of StyleGAN2 with Hammer's names and shapes."""
    is_generator = "mapping.w_avg" in tensors
    top = "synthesis." if is_generator else ""
    largest = max(int(found[1]) for name in tensors if (found := re.search(r"\bb(\d+)\.", name)))
    yield f"{top}filter", tensors[f"{top}b{largest}.resample_filter"]
    for name, tensor in tensors.items():
        block = re.fullmatch(r"(?:synthesis\.)?b(\d+)\.(\w+)\.(.+)", name)
        if name.endswith("resample_filter"):
            continue
        if name == "synthesis.b4.const":
            yield "synthesis.early_layer.const", tensor[None]
        elif name == "mapping.w_avg":
            yield "w_avg", tensor
        elif block is None:
            name = name.replace("fc", "dense" if is_generator else "mapping").replace("embed", "embedding")
            yield name if is_generator else name.removeprefix("mapping."), tensor
        else:
            level = int(math.log2(int(block[1]) / 4 if is_generator else largest / int(block[1])))
            upper, lower = 2 * level, 2 * level + (-1 if is_generator else 1)
            layers = dict.fromkeys(("conv1",) if is_generator else ("conv0", "conv"), f"layer{upper}")
            layers |= dict.fromkeys(("conv0",) if is_generator else ("conv1", "fc"), f"layer{lower}")
            layers |= {
                "torgb": f"output{level}",
                "fromrgb": f"input{level}",
                "skip": f"residual{level}",
                "out": "output",
            }
            last = block[3].replace("affine", "style").replace("noise_const", "noise")
            yield f"{top}{layers[block[2]]}.{last}", tensor[None, None] if last == "noise" else tensor


@pytest.fixture(scope="session")
def tiny_training() -> Callable[..., Training]:
    """Makes a run at its start: `tiny_training(device, group__field=value, ...)`; see TINY_SETTINGS."""
    return _tiny_training


def _tiny_training(device: str = "cpu", **changes: object) -> Training:
    settings = TINY_SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    config = parse_config([f"--{name}={value}" for name, value in settings.items()])
    schedule = schedule_from_betas(torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), "linear")
    scorer = GaussianMixtureScorer(schedule, torch.zeros(2, 1, 8, 8), torch.tensor([0.2, 0.5]))
    return Training(
        config,
        open_dataset(config.data),
        scorer=scorer.to(device),
        timesteps=timestep_range(scorer, config.smart),
        device=torch.device(device),
    )


@pytest.fixture(scope="session")
def tiny_reals() -> Callable[..., RealBatch]:
    """Makes real images for one iteration of a tiny run, always the same: `tiny_reals(device)`."""

    def make(device: str = "cpu") -> RealBatch:
        images = torch.randn(8, 1, 8, 8, generator=torch.Generator("cpu").manual_seed(1), device="cpu").tanh()
        return RealBatch(images.to(device), torch.arange(8, device=device) % 10)

    return make


class ReadBacks(TorchDispatchMode):
    """Lists what copies a value from the device to Python, which would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.found.append("".join(traceback.format_stack(limit=8)))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def read_backs() -> type[ReadBacks]:
    """`with read_backs() as read: ...`, then read.found."""
    return ReadBacks


@pytest.fixture
def random_image() -> Callable[..., Image.Image]:
    """random_image(seed, size=(16, 16), mode="RGB"): noise, so that any mix-up of images or channels shows."""

    def make(seed: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
        width, height = size
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *IMAGE_SHAPES[mode]), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make


@pytest.fixture
def not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss of both networks of StyleGAN2 is nan."""

    def poison(loss_function: Callable[..., tuple]) -> Callable[..., tuple]:
        @functools.wraps(loss_function)
        def poisoned(self: StyleGan2Phases, batch: object) -> tuple:
            loss, statistics = loss_function(self, batch)
            return loss * float("nan"), statistics

        return poisoned

    for phase in ("g_main", "g_score", "d_main"):
        monkeypatch.setattr(StyleGan2Phases, phase, poison(getattr(StyleGan2Phases, phase)))


@pytest.fixture(scope="session")
def read_report() -> Callable[[Path], dict[str, Any]]:
    """read_report(path): the data of the one run inside a report.html."""

    def read(path: Path) -> dict[str, Any]:
        (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
        (run,) = json.loads(found)["runs"]
        return run

    return read


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of SmartFast's caches, empty, for this test alone."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write_files(tmp_path: Path, own_cache: Path) -> Callable[..., Path]:
    """write_files(files, name="set"): a folder of images, bytes or JSON objects; a .zip if the name says so."""

    def write(files: Mapping[str, Any], name: str = "set") -> Path:
        folder = tmp_path / name.removesuffix(".zip")
        for relative, content in files.items():
            path = folder / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Image.Image):
                content.save(path)
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(json.dumps(content))
        if not name.endswith(".zip"):
            return folder
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for relative in files:
                archive.write(folder / relative, relative)
        return tmp_path / name

    return write
