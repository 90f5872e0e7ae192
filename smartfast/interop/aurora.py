"""Aurora of SMaRt and Hammer: arguments of the original's constructor as those of ours.

Most of a generator cannot be read off its tensors, so that a file is read only with its arguments; those left out have
the defaults of SMaRt's models/text_generator.py.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from smartfast.interop.hammer import PROJECT as HAMMER
from smartfast.interop.project import Project
from smartfast.interop.recognise import Network

_DEFAULTS: dict[str, object] = {
    "z_dim": 128,
    "w_dim": 1024,
    "mapping_layers": 4,
    "mapping_fmaps": 1024,
    "mapping_lr_mul": 0.01,
    "label_dim": 0,
    "embedding_dim": 512,
    "use_w_cond": False,
    "context_dim": 768,
    "resolution": -1,
    "image_channels": 3,
    "num_adaptive_kernels": {},
    "num_block_per_res": {},
    "attn_resolutions": (8, 16, 32),
    "attn_depth": {},
    "num_experts": {},
    "residual_gain": 1.0,
    "attn_gain": 1.0,
    "zero_out": True,
    "final_tanh": False,
    "fourier_feat": True,
    "fmaps_base": 16384,
    "fmaps_max": 1600,
    "filter_kernel": (1, 3, 3, 1),
    "conv_clamp": None,
    "num_heads": 8,
    "head_dim": None,
    "l2_attention": True,
    "tie": True,
    "scale_in": True,
    "include_ff": True,
    "glu": False,
    "mtm": False,
}
_FIXED: dict[str, object] = {
    "use_text_cond": False,
    "use_class_label": True,
    "repeat_w": True,
    "normalize_z": True,
    "mapping_use_wscale": True,
    "mapping_wscale_gain": 1,
    "embedding_bias": True,
    "embedding_use_wscale": True,
    "embedding_wscale_gain": 1,
    "embedding_lr_mul": 1,
    "normalize_class_embed": True,
    "init_res": 4,
    "mask_self": False,
    "demodulate": True,
    "use_wscale": True,
    "wscale_gain": 1,
    "lr_mul": 1,
    "eps": 1e-8,
}
"""The only values that the network here has."""
_WITHOUT_EFFECT = (
    "model_type num_layers_text_enc dropout text_use_wscale text_wscale_gain text_lr_mul clip_out_dim "
    "normalize_text_cond attn_ch_factor text_head_gain use_checkpoint checkpoint_res ms_training_res skip_connection"
).split()
"""Of text, of memory, or of images at lower resolutions, which a network of classes does not give."""
_TWICE = re.compile(r".*\.ff\.(project_in|proj_out)\..*|synthesis\.filter")
"""Tensors under a second name, and the filter that sums images of several resolutions."""
_NAMES = {
    "z_dim": "z_dim",
    "w_dim": "w_dim",
    "classes": "label_dim",
    "channels": "image_channels",
    "mapping_layers": "mapping_layers",
    "mapping_width": "mapping_fmaps",
    "embedding": "embedding_dim",
    "channel_base": "fmaps_base",
    "channel_max": "fmaps_max",
    "heads": "num_heads",
}
"""Ours, which are whole numbers, and theirs."""
_SWITCHES = {
    "l2_attention": "l2_attention",
    "tie": "tie",
    "scale_in": "scale_in",
    "feed_forward": "include_ff",
    "deformable": "mtm",
    "fourier": "fourier_feat",
    "zero_out": "zero_out",
    "final_tanh": "final_tanh",
}
_GAINS = {"mapping_lr_multiplier": "mapping_lr_mul", "residual_gain": "residual_gain", "attention_gain": "attn_gain"}
_LARGEST = 10**6
_MAX_SHOWN = 4000


def options_of(kwargs: Mapping[str, object]) -> dict[str, Any]:
    """Arguments of `AuroraOptions`, all of which JSON can hold, from those of the original's constructor.

    Raises:
        ValueError: An argument that is unknown, or has a value that the network here does not.
    """
    for name, value in kwargs.items():
        if name not in _DEFAULTS and name not in _FIXED and name not in _WITHOUT_EFFECT:
            raise ValueError(f"an unknown argument {name}")
        if name in _FIXED and value != _FIXED[name]:
            raise ValueError(f"{name} is {value}, expected {_FIXED[name]}")
    given: dict[str, Any] = {**_DEFAULTS, **kwargs}
    options: dict[str, Any] = {ours: _whole(given, theirs) for ours, theirs in _NAMES.items()}
    options |= {ours: _switch(given, theirs) for ours, theirs in _SWITCHES.items()}
    options |= {ours: _number(given, theirs) for ours, theirs in _GAINS.items()}
    if not isinstance(given["filter_kernel"], list | tuple):
        raise ValueError(f"filter_kernel is {given['filter_kernel']}, expected a list of numbers")
    return options | dict(
        _stages(given),
        gated=not _switch(given, "glu"),
        context=_whole(given, "context_dim") if _switch(given, "use_w_cond") else 0,
        head_dim=None if given["head_dim"] is None else _whole(given, "head_dim"),
        conv_clamp=None if given["conv_clamp"] is None else _number(given, "conv_clamp"),
        taps=[float(tap) for tap in given["filter_kernel"]],
    )


def own_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without those that the original stores twice, or for images of several resolutions."""
    return {name: tensor for name, tensor in tensors.items() if not _TWICE.fullmatch(name)}


def generator(network: Network, beside: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of `AuroraOptions`, and the generator's tensors, see `Reader`."""
    if not network.kwargs:
        raise ValueError("the file has no arguments (model_kwargs_init), without which its tensors tell too little")
    options = options_of(network.kwargs)
    most = len(network.tensors)
    for name in ("mapping_layers", "blocks", "attention", "experts"):
        found = options[name]
        if sum(found if isinstance(found, list) else [found]) > most:
            raise ValueError(f"{name} is {str(found)[:60]}, expected no more than the {most} tensors of the file")
    return options, own_tensors(network.tensors)


def _stages(given: Mapping[str, Any]) -> dict[str, list[int]]:
    """Numbers of each resolution from 4 pixels up; the original has them by the resolution as a text."""
    resolution = _whole(given, "resolution")
    if resolution < 4 or resolution & (resolution - 1) or resolution > 2**14:
        raise ValueError(f"resolution is {resolution}, expected a power of two from 4 to 16384")
    names = [str(4 << level) for level in range(resolution.bit_length() - 2)]
    tables = {name: given[name] for name in ("num_adaptive_kernels", "num_block_per_res", "attn_depth", "num_experts")}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{name} is {table}, expected numbers by resolution")
    attended = given["attn_resolutions"]
    if not isinstance(attended, list | tuple | None):
        raise ValueError(f"attn_resolutions is {attended}, expected a list")
    attends = [name in (tables["attn_depth"] if attended is None else attended) for name in names]
    return dict(
        kernels=[_whole(tables["num_adaptive_kernels"], name) for name in names],
        blocks=[_whole(tables["num_block_per_res"], name) for name in names],
        attention=[_whole(tables["attn_depth"], name) if on else 0 for name, on in zip(names, attends, strict=True)],
        experts=[
            max(0, _whole(tables["num_experts"], name, -_LARGEST)) if on else 0
            for name, on in zip(names, attends, strict=True)
        ],
    )


def _whole(given: Mapping[str, Any], name: str, least: int = 1) -> int:
    value = given[name]
    if type(value) is not int or not least <= value <= _LARGEST:
        raise ValueError(f"{name} is {str(value)[:60]}, expected a whole number from {least} to {_LARGEST}")
    return value


def _number(given: Mapping[str, Any], name: str) -> float:
    value = given[name]
    if type(value) not in (int, float) or not 0 < value < 1e9:
        raise ValueError(f"{name} is {str(value)[:60]}, expected a number above 0")
    return float(value)


def _switch(given: Mapping[str, Any], name: str) -> bool:
    if type(given[name]) is not bool:
        raise ValueError(f"{name} is {str(given[name])[:60]}, expected true or false")
    return given[name]


def _notes(content: Mapping[str, object]) -> list[str]:
    """The arguments, which nothing else tells of what SMaRt trained."""
    arguments = content.get("model_kwargs_init")
    if not isinstance(arguments, dict):
        return []
    texts = {name: json.dumps(one, default=lambda value: type(value).__name__) for name, one in arguments.items()}
    return [f"arguments of {name}: {text[:_MAX_SHOWN]}" for name, text in texts.items()]


PROJECT = Project(
    HAMMER.name, HAMMER.roles, {"aurora generator": generator}, HAMMER.also_read, notes=_notes, family="aurora"
)
