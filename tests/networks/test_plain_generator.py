"""docs/stylegan2_generator.py, the generator to be copied, draws the same images from the same files."""

import ast
import importlib.util
import json
import random
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from smartfast.core.checkpoint import save_checkpoint
from smartfast.families.saved import open_sampler
from smartfast.networks.stylegan2 import Generator

FILE = Path(__file__).parents[2] / "docs" / "stylegan2_generator.py"
RANDOM_CASES = 40


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stylegan2_generator", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved(folder: Path, options: dict) -> Path:
    """A checkpoint's two files, with weights of which none is at its initial value."""
    generator = Generator(**options)
    with torch.no_grad():
        for name, value in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")) and "affine" not in name:
                value.normal_(std=0.5)
        generator.mapping.w_avg.normal_()
    save_file(generator.state_dict(), folder / "generator_ema.safetensors")
    (folder / "generator_ema.json").write_text(json.dumps({"family": "stylegan2", **options}))
    return folder / "generator_ema.safetensors"


def options(**changes: object) -> dict:
    base = dict(z_dim=8, c_dim=0, w_dim=8, resolution=16, channels=3, mapping_layers=2, mapping_lr_multiplier=0.01)
    rest = dict(architecture="skip", channel_base=128, channel_max=16, use_noise=True, conv_clamp=None)
    return {**base, **rest, **changes}


def random_options(number: int) -> dict:
    choose = random.Random(number).choice
    return options(
        z_dim=choose([1, 8, 16]),
        c_dim=choose([0, 1, 3]),
        w_dim=choose([4, 8, 12]),
        resolution=choose([4, 8, 16, 32]),
        channels=choose([1, 3, 4]),
        mapping_layers=choose([1, 2, 8]),
        mapping_lr_multiplier=choose([0.01, 0.1, 1.0]),
        architecture=choose(["skip", "resnet", "orig"]),
        channel_base=choose([32, 128]),
        channel_max=choose([4, 16]),
        use_noise=choose([True, False]),
        conv_clamp=choose([None, 256, 0.5]),
    )


@pytest.mark.parametrize("number", range(RANDOM_CASES))
def test_the_same_images(plain: ModuleType, tmp_path: Path, number: int) -> None:
    torch.manual_seed(number)
    path = saved(tmp_path, random_options(number))
    ours, theirs = open_sampler(path).module, plain.load(path)
    assert list(theirs.state_dict()) != [] and theirs.state_dict().keys() == ours.state_dict().keys()
    z = torch.randn(3, ours.z_dim)
    c = torch.eye(ours.c_dim)[torch.arange(3) % ours.c_dim] if ours.c_dim else None
    for psi in (1.0, 0.7):
        expected = ours(z, c, psi)
        torch.testing.assert_close(theirs(z, c, psi), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_other_activations_are_refused(plain: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mapping_act is relu, expected lrelu"):
        plain.load(saved(tmp_path, options(mapping_act="relu")))


def test_it_needs_nothing_of_ours() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(FILE.read_text()))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        + ([node.module] if isinstance(node, ast.ImportFrom) else [])
    }
    assert imported - set(sys.stdlib_module_names) == {"torch", "safetensors"}


def test_the_lines_of_the_page(plain: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/weights_elsewhere.md, but for the lines that need a checkout of another project."""
    text = (FILE.parent / "weights_elsewhere.md").read_text()
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    ours, alone, checkout = blocks
    assert "from training.networks import Generator" in checkout
    weights = Generator(**options()).state_dict()
    run = tmp_path / "runs" / "photos"
    run.mkdir(parents=True)
    save_checkpoint(run, images=8, state=weights, generator=weights, generator_options=options(), info={}, keep=1)
    for file in run.glob("checkpoints/*/generator_ema.*"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "stylegan2_generator", plain)
    z, drawn = torch.randn(2, 8), []
    for block, count in ((ours, 16), (alone, 4)):
        names: dict = {}
        exec(block, names)
        assert names["images"].shape == (count, 3, 16, 16)
        drawn.append(getattr(names["generator"], "module", names["generator"])(z))
    torch.testing.assert_close(*drawn, rtol=1e-4, atol=1e-4)
