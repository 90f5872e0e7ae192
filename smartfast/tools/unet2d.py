"""ADM's UNet and EDM's DhariwalUNet as diffusers' UNet2DModel: its config and its tensors, where it computes the same.

All three have the same blocks in the same order (`plan_unet`); names, and the rows of attention, differ.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from smartfast.networks.unets import ADMOptions, DhariwalOptions
from smartfast.networks.unets.adm import GROUPS
from smartfast.networks.unets.layers import RowOrder, sort_rows
from smartfast.networks.unets.plan import Step, plan_unet

Names = tuple[str, str]
"""Of a step's block and of the attention behind it."""


@dataclass(frozen=True)
class Structure:
    """What UNet2DModel needs to know of a network.

    groups: Groups of a normalisation, by its channels. head_channels: Channels of a head of attention, by the layer's;
    0 = that layer has none. names: Of each step of encoder and decoder. whole, block, attention: Names of the network's
    parts by those of UNet2DModel, of the whole, in a block and in an attention layer. labels: Name of the embedding of
    classes, and whether it has one per column.
    """

    image_shape: tuple[int, int, int]
    classes: int
    time_channels: int
    embedding_channels: int
    widths: Sequence[int]
    num_blocks: int
    attention_resolutions: Sequence[int]
    resamples_in_blocks: bool
    has_scale_shift: bool
    groups: Callable[[int], int]
    head_channels: Callable[[int], int]
    order: RowOrder
    names: Callable[[Sequence[Step], Sequence[Step]], list[Names]]
    whole: Mapping[str, str]
    block: Mapping[str, str]
    attention: Mapping[str, str]
    labels: tuple[str, bool]

    def plan(self) -> tuple[list[Step], list[Step]]:
        """Encoder and decoder."""
        return plan_unet(
            resolution=self.image_shape[1],
            in_channels=self.image_shape[0],
            first_width=self.widths[0],
            widths=self.widths,
            num_blocks=self.num_blocks,
            attention=self.attention_resolutions,
        )


def structure_of(options: ADMOptions | DhariwalOptions) -> Structure:
    """The structure of a network."""
    return _of_adm(options) if isinstance(options, ADMOptions) else _of_dhariwal(options)


def unet2d_config(structure: Structure, out_channels: int) -> dict[str, Any]:
    """Arguments of UNet2DModel.

    Raises:
        ValueError: It has no such network; the message says why.
    """
    s = structure
    blocks = [step for part in s.plan() for step in part if step.role != "conv"]
    if s.widths[0] != s.time_channels:
        raise ValueError(
            f"its first block has {s.widths[0]} channels and its time {s.time_channels}, there they are alike"
        )
    groups = _only("groups", {s.groups(c) for step in blocks for c in (step.in_channels, step.out_channels)})
    heads = _only("channels of a head", {s.head_channels(step.out_channels) for step in blocks if step.attention})
    if not heads:
        raise ValueError("its middle block has no attention")
    attends = [s.image_shape[1] >> level in s.attention_resolutions for level in range(len(s.widths))]
    plain = (
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if s.resamples_in_blocks else ("DownBlock2D", "UpBlock2D")
    )
    resampling = "resnet" if s.resamples_in_blocks else "conv"
    return dict(
        sample_size=s.image_shape[1],
        in_channels=s.image_shape[0],
        out_channels=out_channels,
        block_out_channels=tuple(s.widths),
        layers_per_block=s.num_blocks,
        down_block_types=tuple("AttnDownBlock2D" if attend else plain[0] for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else plain[1] for attend in reversed(attends)),
        downsample_type=resampling,
        upsample_type=resampling,
        attention_head_dim=heads,
        norm_num_groups=groups,
        attn_norm_num_groups=groups,
        norm_eps=1e-5,
        resnet_time_scale_shift="scale_shift" if s.has_scale_shift else "default",
        time_embedding_type="positional",
        time_embedding_dim=s.embedding_channels,
        flip_sin_to_cos=True,
        freq_shift=0,
        num_class_embeds=s.classes or None,
    )


def unet2d_tensors(structure: Structure, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """UNet2DModel's state dict from that of the network, without what it has no place for."""
    s = structure
    encoder, decoder = s.plan()
    found = dict(_renamed(tensors, "", "", s.whole))
    for step, (block, attention), (new_block, new_attention) in zip(
        [*encoder, *decoder], s.names(encoder, decoder), _unet2d_names(encoder, decoder), strict=True
    ):
        if step.role == "conv":
            found |= _renamed(tensors, block, new_block, {"": ""})
        elif step.resampling and not s.resamples_in_blocks:
            found |= _renamed(tensors, block, new_block, {".conv": ".op" if step.resampling == "down" else ".conv"})
        else:
            found |= _renamed(tensors, block, new_block, {f".{new}": f".{old}" for new, old in s.block.items()})
        if step.attention:
            parts = {f".{new}": f".{old}" for new, old in s.attention.items()}
            heads = step.out_channels // s.head_channels(step.out_channels)
            found |= _split(dict(_renamed(tensors, attention, new_attention, parts)), heads, s.order)
    if s.classes:
        name, has_columns = s.labels
        found["class_embedding.weight"] = tensors[name].t() if has_columns else tensors[name]
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _renamed(
    tensors: Mapping[str, Tensor], old: str, new: str, parts: Mapping[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """Weights and biases of those parts that are there."""
    for new_part, old_part in parts.items():
        for kind in ("weight", "bias"):
            if (tensor := tensors.get(f"{old}{old_part}.{kind}")) is not None:
                yield f"{new}{new_part}.{kind}", tensor


def _split(layer: Mapping[str, Tensor], heads: int, order: RowOrder) -> dict[str, Tensor]:
    """Queries, keys and values as layers of their own, and all of them linear."""
    found: dict[str, Tensor] = {}
    for name, tensor in layer.items():
        tensor = tensor.flatten(1) if tensor.ndim > 2 else tensor
        before, is_qkv, kind = name.partition(".qkv.")
        if is_qkv:
            q, k, v = sort_rows(tensor, heads, order).chunk(3)
            found |= {f"{before}.to_q.{kind}": q, f"{before}.to_k.{kind}": k, f"{before}.to_v.{kind}": v}
        else:
            found[name] = tensor
    return found


def _unet2d_names(encoder: Sequence[Step], decoder: Sequence[Step]) -> list[Names]:
    names, level = [], 0
    for step in encoder:
        if step.role == "conv":
            names.append(("conv_in", ""))
        elif step.role == "down":
            names.append((f"down_blocks.{level}.downsamplers.0", ""))
            level += 1
        else:
            i = step.role.removeprefix("block")
            names.append((f"down_blocks.{level}.resnets.{i}", f"down_blocks.{level}.attentions.{i}"))
    level = 0
    for step in decoder:
        if step.role in ("in0", "in1"):
            names.append((f"mid_block.resnets.{step.role[2:]}", "mid_block.attentions.0"))
        elif step.role == "up":
            names.append((f"up_blocks.{level}.upsamplers.0", ""))
            level += 1
        else:
            i = step.role.removeprefix("block")
            names.append((f"up_blocks.{level}.resnets.{i}", f"up_blocks.{level}.attentions.{i}"))
    return names


def _adm_names(encoder: Sequence[Step], decoder: Sequence[Step]) -> list[Names]:
    """ADM counts layers: what attends or resamples follows its block in the same sequence."""
    names = [(f"input_blocks.{i}.0", f"input_blocks.{i}.1") for i in range(len(encoder))]
    names += [("middle_block.0", "middle_block.1"), ("middle_block.2", "")]
    block, layers = -1, 0
    for step in decoder[2:]:
        if step.takes_skip:
            block, layers = block + 1, 1 + step.attention
            names.append((f"output_blocks.{block}.0", f"output_blocks.{block}.1"))
        else:
            names.append((f"output_blocks.{block}.{layers}", ""))
    return names


def _dhariwal_names(encoder: Sequence[Step], decoder: Sequence[Step]) -> list[Names]:
    parts = [(part, step.name) for part, steps in (("enc", encoder), ("dec", decoder)) for step in steps]
    return [(f"{part}.{name}", f"{part}.{name}") for part, name in parts]


def _of_adm(options: ADMOptions) -> Structure:
    def head_channels(channels: int) -> int:
        return options.num_head_channels or channels // options.num_heads

    return Structure(
        image_shape=options.image_shape,
        classes=options.classes,
        time_channels=options.model_channels,
        embedding_channels=4 * options.model_channels,
        widths=[int(mult * options.model_channels) for mult in options.channel_mult],
        num_blocks=options.num_res_blocks,
        attention_resolutions=options.attention_resolutions,
        resamples_in_blocks=options.resblock_updown,
        has_scale_shift=options.use_scale_shift_norm,
        groups=lambda channels: GROUPS,
        head_channels=head_channels,
        order="qkv, head, channel" if options.use_new_attention_order else "head, qkv, channel",
        names=_adm_names,
        whole={
            "time_embedding.linear_1": "time_embed.0",
            "time_embedding.linear_2": "time_embed.2",
            "conv_norm_out": "out.0",
            "conv_out": "out.2",
        },
        block={
            "norm1": "in_layers.0",
            "conv1": "in_layers.2",
            "time_emb_proj": "emb_layers.1",
            "norm2": "out_layers.0",
            "conv2": "out_layers.3",
            "conv_shortcut": "skip_connection",
        },
        attention={"group_norm": "norm", "qkv": "qkv", "to_out.0": "proj_out"},
        labels=("label_emb.weight", False),
    )


def _of_dhariwal(options: DhariwalOptions) -> Structure:
    def head_channels(channels: int) -> int:
        return channels // heads if (heads := channels // 64) else 0

    return Structure(
        image_shape=options.image_shape,
        classes=options.classes,
        time_channels=options.model_channels,
        embedding_channels=options.channel_mult_emb * options.model_channels,
        widths=[mult * options.model_channels for mult in options.channel_mult],
        num_blocks=options.num_blocks,
        attention_resolutions=options.attn_resolutions,
        resamples_in_blocks=True,
        has_scale_shift=True,
        groups=lambda channels: min(32, channels // 4),
        head_channels=head_channels,
        order="head, channel, qkv",
        names=_dhariwal_names,
        whole={
            "time_embedding.linear_1": "map_layer0",
            "time_embedding.linear_2": "map_layer1",
            "conv_norm_out": "out_norm",
            "conv_out": "out_conv",
        },
        block={
            "norm1": "norm0",
            "conv1": "conv0",
            "time_emb_proj": "affine",
            "norm2": "norm1",
            "conv2": "conv1",
            "conv_shortcut": "skip",
        },
        attention={"group_norm": "norm2", "qkv": "qkv", "to_out.0": "proj"},
        labels=("map_label.weight", True),
    )


def _only(what: str, values: set[int]) -> int:
    if len(values) != 1:
        found = ", ".join(map(str, sorted(values)))
        raise ValueError(f"{what} differ between its layers ({found}), there they are the same")
    return values.pop()
