"""What networks a file holds, told by the names of their tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from smartfast.errors import UserError
from smartfast.interop.records import Record, printable, state_dict
from smartfast.interop.safe_pickle import read_untrusted

KINDS: Mapping[str, tuple[str, ...]] = {
    "stylegan2 generator": ("synthesis.b4.const", "mapping.fc0.weight"),
    "stylegan2 discriminator": ("b4.fc.weight", "b4.out.weight"),
    "stylegan2 augmentation": ("p", "Hz_geom", "Hz_fbank"),
    "stylegan3 generator": ("synthesis.input.freqs", "synthesis.L0_*.magnitude_ema"),
    "hammer stylegan2 generator": ("synthesis.early_layer.const", "mapping.dense0.weight"),
    "hammer stylegan2 discriminator": ("input0.weight", "layer0.weight", "layer1.weight", "output.weight"),
    "aurora generator": ("synthesis.net.0.*", "synthesis.output_res_*.weight", "mapping.dense0.weight"),
    "rosinality generator": ("style.1.weight", "input.input", "conv1.conv.weight"),
    "rosinality discriminator": ("convs.0.0.weight", "final_conv.*", "final_linear.0.weight"),
    "biggan generator": ("linear.sv0", "blocks.0.0.bn1.gain.weight", "output_layer.2.weight"),
    "biggan discriminator": ("linear.sv0", "blocks.0.0.conv1.weight", "embed.weight"),
    "r3gan generator": ("Model.MainLayers.0.Layers.0.Basis", "Model.AggregationLayer.Layer.weight"),
    "r3gan discriminator": ("Model.ExtractionLayer.Layer.weight", "Model.MainLayers.*.Basis.weight"),
    "adm unet": ("time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.in_layers.0.weight"),
    "edm unet": ("model.map_layer0.weight", "model.enc.*_conv.weight", "model.dec.*"),
    "edm2 unet": ("unet.emb_fourier.freqs", "unet.out_gain", "unet.enc.*_conv.weight"),
}
"""Kind -> patterns that each match the name of a tensor."""

REFUSED = {
    "stylegan3 generator": "a StyleGAN3 generator (config-t or config-r)",
    "adm upsampler": "a diffusion model that enlarges images",
}


@dataclass(frozen=True)
class Network:
    """A network in a file.

    `tensors` bear their original names. `kwargs` are arguments of the constructor as far as the file holds them,
    `record` is the module with all its attributes where the file holds those.
    """

    kind: str
    tensors: dict[str, Tensor] = field(repr=False)
    kwargs: dict[str, object] = field(default_factory=dict)
    record: Record | None = field(default=None, repr=False)


def find_networks(path: Path) -> dict[str, Network]:
    """The networks of known kinds in a file, under the names that the file gives them; "" where it is one network.

    Raises UserError where the file cannot be read, holds none, or holds one that is not supported, which is named.
    """
    return networks_in(read_untrusted(path), path)


def networks_in(content: Mapping[str, object], path: Path) -> dict[str, Network]:
    """`find_networks` of a file that has been read; `path` is its name for messages."""
    found, unknown = {}, []
    try:
        held = list(_state_dicts(content))
    except ValueError as error:
        raise UserError(f"{path}: {printable(str(error))}") from error
    for name, tensors, kwargs, record in held:
        kind = kind_of(tensors)
        if kind in REFUSED:
            raise UserError(f"{path}: {printable(name) or 'it'} is {REFUSED[kind]}, which is not supported")
        if kind is None:
            unknown.append(f"{name or 'it'} with {len(tensors)} tensors such as {', '.join(list(tensors)[:3])}")
        else:
            found[name] = Network(kind, tensors, kwargs, record)
    if not found:
        others = "; ".join(unknown) or f"no networks but {', '.join(map(str, list(content)[:10])) or 'nothing'}"
        raise UserError(f"{path}: no network of a known kind, found {printable(others)}")
    return found


def rest_of(content: Mapping[str, object], networks: Mapping[str, Network]) -> dict[str, str]:
    """What else is in a file that holds `networks`, by name, and whether it is a network."""
    if "" in networks:
        return {}
    models = content.get("models")
    rest = {**content, **models} if isinstance(models, dict) else content
    return {
        printable(str(name)): "a network of an unknown kind" if _is_network(value) else "no network"
        for name, value in rest.items()
        if name not in networks and not (name == "models" and isinstance(value, dict))
    }


def kind_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Key of KINDS, or of REFUSED, that names and shapes tell; None where they tell of none."""
    fits = (
        kind
        for kind, patterns in KINDS.items()
        if all(any(fnmatchcase(name, pattern) for name in tensors) for pattern in patterns)
    )
    kind = next(fits, None)
    if kind == "adm unet" and tensors["input_blocks.0.0.weight"].shape[1:2] == (6,):
        return "adm upsampler"  # the image to enlarge comes as further channels
    if kind == "adm unet" and any(name.endswith(".qkv.weight") and value.dim() == 4 for name, value in tensors.items()):
        return "consistency_models unet"
    return kind


def _state_dicts(
    content: Mapping[str, object],
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, object], Record | None]]:
    """Name, tensors, arguments and record of each network, known or not."""
    if tensors := _tensors(content):
        yield "", tensors, {}, None
        return
    models, arguments = content.get("models"), content.get("model_kwargs_init")
    for name, value in (models if isinstance(models, dict) else content).items():
        if isinstance(value, Record) and value.is_module:
            try:
                yield str(name), state_dict(value), value.init_kwargs, value
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        elif tensors := _tensors(value):
            kwargs = arguments.get(name) if isinstance(arguments, dict) else None
            yield str(name), tensors, kwargs if isinstance(kwargs, dict) else {}, None


def _is_network(value: object) -> bool:
    return value.is_module if isinstance(value, Record) else bool(_tensors(value))


def _tensors(value: object) -> dict[str, Tensor]:
    """`value` where it is a state dict, else nothing."""
    if isinstance(value, Mapping) and all(isinstance(entry, Tensor) for entry in value.values()):
        return {str(name): tensor for name, tensor in value.items()}
    return {}
