"""The state that training a scorer resumes from: one safetensors file with a JSON header, replaced atomically."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from smartfast.errors import UserError
from smartfast.scorers.train_options import TrainScorerOptions

_FREE_TO_CHANGE = ("dir", "kimg", "snapshot_kimg", "sample_rows", "sample_steps", "save_precision")


def save_state(
    path: Path, unet: UNet2DModel, ema: EMAModel, optimizer: Optimizer, images: int, options: TrainScorerOptions
) -> None:
    """Write weights, averaged weights, optimizer state and the number of images seen.

    The file appears whole or not at all.
    """
    names = [name for name, _ in unet.named_parameters()]
    tensors = {f"model.{name}": tensor for name, tensor in unet.state_dict().items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in zip(names, ema.shadow_params, strict=True)}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": tensor for key, tensor in entry.items()}
    header = {"images": images, "ema_step": ema.optimization_step, "options": _fixed_options(options)}
    partial = path.with_suffix(".partial")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial, {"state": json.dumps(header)})
    os.replace(partial, path)


def load_state(path: Path, unet: UNet2DModel, ema: EMAModel, optimizer: Optimizer, options: TrainScorerOptions) -> int:
    """Put everything back in place and return the number of images seen.

    Raises:
        UserError: The file is unreadable, or belongs to a run with other options.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("state", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a readable training state ({error}); delete it to start anew") from error
    _check_options(path, header.get("options", {}), _fixed_options(options))
    groups: dict[str, dict[str, Tensor]] = {part: {} for part in ("model", "ema", "optimizer")}
    for key, tensor in tensors.items():
        part, _, rest = key.partition(".")
        groups[part][rest] = tensor
    unet.load_state_dict(groups["model"])
    for (name, _), shadow in zip(unet.named_parameters(), ema.shadow_params, strict=True):
        shadow.copy_(groups["ema"][name])
    ema.optimization_step = header["ema_step"]
    parameters = list(unet.parameters())
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in groups["optimizer"].items():
        index, _, name = key.partition(".")
        if tensor.ndim:
            # Fused Adam walks through memory: the moments must lie in the parameter's memory format.
            tensor = torch.empty_like(parameters[int(index)], requires_grad=False).copy_(tensor)
        moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return header["images"]


def _fixed_options(options: TrainScorerOptions) -> dict:
    """The options that decide what is computed, as JSON holds them."""
    kept = {key: value for key, value in asdict(options).items() if key not in _FREE_TO_CHANGE}
    for key in ("cache", "workers"):
        kept["data"].pop(key)
    return json.loads(json.dumps(kept))


def _check_options(path: Path, found: dict, expected: dict) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise UserError(f"{path}: a run with {key} = {found.get(key)}, expected {value}; choose another dir")
