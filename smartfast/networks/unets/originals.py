"""Options from what files of the original projects hold: constructor arguments, or names and shapes of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from smartfast.networks.unets.options import (
    ADMOptions,
    DhariwalOptions,
    EDM2Options,
    EDMOptions,
    Preconditioning,
    SongOptions,
)
from smartfast.networks.unets.published import ADM_NETWORKS, PUBLISHED

EDM_CLASSES: dict[str, Preconditioning] = {
    "EDMPrecond": "edm",
    "VPPrecond": "vp",
    "VEPrecond": "ve",
    "iDDPMPrecond": "iddpm",
}
EDM_NETWORK_CLASSES: dict[str, type] = {"SongUNet": SongOptions, "DhariwalUNet": DhariwalOptions}
TRAINING_ONLY = ("dropout", "label_dropout", "use_fp16", "sigma_min", "sigma_max")
"""Arguments that choose precision or training, not the function."""
NOT_IN_TENSORS = ("image_size", "num_heads", "num_head_channels", "use_new_attention_order")

Shapes = Mapping[str, Sequence[int]]


def edm_options(class_name: str, arguments: Mapping[str, Any]) -> EDMOptions:
    """Options of an EDM network from its class, as EDMPrecond, and its constructor's keyword arguments.

    Raises:
        ValueError: Another class, or an argument that is unknown, missing or without a counterpart here.
    """
    kept = _without_training(arguments)
    model_type = kept.pop("model_type", "DhariwalUNet" if class_name in ("EDMPrecond", "iDDPMPrecond") else "SongUNet")
    for kind, value, known in (
        ("class", class_name, EDM_CLASSES),
        ("model_type", model_type, EDM_NETWORK_CLASSES),
    ):
        if value not in known:
            raise ValueError(f"{kind} is {value!r}, expected one of {', '.join(known)}")
    outer = {"sigma_data": kept.pop("sigma_data")} if "sigma_data" in kept else {}
    model = _built(EDM_NETWORK_CLASSES[model_type], kept, model_type)
    return EDMOptions(model, EDM_CLASSES[class_name], **outer)


def edm2_options(arguments: Mapping[str, Any]) -> EDM2Options:
    """Options of an EDM2 network from the keyword arguments of its constructor, Precond.

    Raises:
        ValueError: An argument that is unknown, missing or without a counterpart here.
    """
    return _built(EDM2Options, _without_training(arguments), "Precond")


def adm_options(shapes: Shapes, **known: Any) -> ADMOptions:
    """Options of an ADM network from the names and shapes of its tensors.

    What those do not tell (NOT_IN_TENSORS) is that of the published network that they are the tensors of.

    Args:
        shapes: By name, of a state dict.
        known: Those of NOT_IN_TENSORS that are known; one of the two about heads is enough.

    Raises:
        ValueError: The tensors are not those of such a network, or something that they do not tell is not known.
    """
    found, attention_levels = _read_shapes(shapes)
    if known.get("num_heads") is not None:
        known.setdefault("num_head_channels", None)
    elif known.get("num_head_channels") is not None:
        known.setdefault("num_heads", ADMOptions.num_heads)
    if twin := published_adm(shapes):
        known = {name: getattr(twin[1], name) for name in NOT_IN_TENSORS} | known
    if missing := [name for name in NOT_IN_TENSORS if name not in known]:
        raise ValueError(f"{', '.join(missing)}: not in the tensors of a network that is not a published one")
    resolutions = tuple(known["image_size"] >> level for level in attention_levels)
    return ADMOptions(attention_resolutions=resolutions, **found, **known)


def published_adm(shapes: Shapes) -> tuple[str, ADMOptions] | None:
    """Name and options of the published network with tensors of these names and shapes; None = there is none.

    Raises:
        ValueError: The tensors are not those of such a network.
    """
    found, attention_levels = _read_shapes(shapes)
    return next((twin for twin in _published().items() if _has(twin[1], found, attention_levels)), None)


def adm_schedule_name(options: ADMOptions) -> Literal["linear", "cosine"] | None:
    """Noise schedule of guided-diffusion's network with the tensors of this one; None = it has published none."""
    told = {name: getattr(options, name) for name in NOT_IN_TENSORS}
    names = [name for name, published in ADM_NETWORKS.items() if replace(published, **told) == options]
    if not names:
        return None
    return "cosine" if "64x64_diffusion" in names else "linear"


def _read_shapes(shapes: Shapes) -> tuple[dict[str, Any], list[int]]:
    """Options that tensors tell, and the levels, from 0 for full resolution, that have attention."""
    for name in ("time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.in_layers.2.weight"):
        if name not in shapes:
            raise ValueError(f"no tensor {name}, expected a UNet of guided-diffusion or consistency_models")
    in_channels, out_channels = shapes["input_blocks.0.0.weight"][1], shapes["out.2.weight"][0]
    if in_channels > 3:
        raise ValueError(f"the network reads {in_channels} channels, expected at most 3: upsamplers are no scorers")
    blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("output_blocks."))
    ups = [i for i in range(blocks) if _is_up(shapes, i)]
    per_level = ups[0] + 1 if ups else blocks
    firsts = [f"input_blocks.{level * per_level + 1}" for level in range(blocks // per_level)]
    model_channels = shapes["time_embed.0.weight"][1]
    widths = [shapes[f"{first}.0.out_layers.3.weight"][0] for first in firsts]
    attention = next((shape for name, shape in shapes.items() if name.endswith(".qkv.weight")), (1, 1, 1))
    width, embedding = (shapes[f"input_blocks.1.0.{name}.weight"][0] for name in ("out_layers.3", "emb_layers.1"))
    found = dict(
        in_channels=in_channels,
        out_channels=out_channels,
        model_channels=model_channels,
        num_res_blocks=per_level - 1,
        channel_mult=tuple(width / model_channels for width in widths),
        num_classes=shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None,
        use_scale_shift_norm=embedding == 2 * width,
        resblock_updown=not any(name.endswith(".op.weight") for name in shapes),
        attention_dims=len(attention) - 2,
    )
    return found, [level for level, first in enumerate(firsts) if f"{first}.1.qkv.weight" in shapes]


def _is_up(shapes: Shapes, block: int) -> bool:
    return any(
        f"output_blocks.{block}.{layer}.{name}.weight" in shapes for layer in (1, 2) for name in ("in_layers.2", "conv")
    )


def _published() -> dict[str, ADMOptions]:
    inner = {name: getattr(options, "model", options) for name, options in PUBLISHED.items()}
    return {name: options for name, options in inner.items() if isinstance(options, ADMOptions)}


def _has(options: ADMOptions, found: Mapping[str, Any], attention_levels: Sequence[int]) -> bool:
    resolutions = {options.image_size >> level for level in attention_levels}
    is_equal = all(getattr(options, name) == value for name, value in found.items())
    return is_equal and set(options.attention_resolutions) == resolutions


def _without_training(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in TRAINING_ONLY}


def _built(options: type, arguments: Mapping[str, Any], where: str) -> Any:
    try:
        return options(**{name: tuple(v) if isinstance(v, list) else v for name, v in arguments.items()})
    except TypeError as error:
        raise ValueError(f"arguments of {where}: {str(error).partition(' ')[2]}") from error
