"""What the networks are built from: data classes that JSON can hold, with the names of the original arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Preconditioning = Literal["edm", "vp", "ve", "iddpm", "cm"]


class _EDMImages:
    """What all of EDM's and EDM2's options say of the images."""

    img_resolution: int
    img_channels: int
    label_dim: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.img_channels, self.img_resolution, self.img_resolution

    @property
    def classes(self) -> int:
        """0 = unconditional."""
        return self.label_dim


@dataclass(frozen=True)
class ADMOptions:
    """ADM's UNet (Dhariwal and Nichol, arXiv 2105.05233), of guided-diffusion and consistency_models.

    image_size: Height and width of the images in pixels.
    out_channels: Twice the images' where the variance is learned: the first half is epsilon.
    attention_resolutions: In pixels, where the original has factors of reduction.
    num_classes: None = unconditional.
    num_heads: Used where num_head_channels is None.
    use_scale_shift_norm: False adds the embedding.
    resblock_updown: Resampling inside residual blocks, not by convolutions of its own.
    use_new_attention_order: Rows of the attention weights by q/k/v, head, channel; False by head, q/k/v, channel.
    attention_dims: Of the 1x1 convolutions of attention: 1 in guided-diffusion, 2 in consistency_models.
    """

    image_size: int
    in_channels: int = 3
    out_channels: int = 6
    model_channels: int = 256
    num_res_blocks: int = 2
    channel_mult: Sequence[float] = (1, 1, 2, 2, 4, 4)
    attention_resolutions: Sequence[int] = (32, 16, 8)
    num_classes: int | None = None
    num_heads: int = 4
    num_head_channels: int | None = 64
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    attention_dims: Literal[1, 2] = 1
    network: Literal["adm"] = "adm"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.in_channels, self.image_size, self.image_size

    @property
    def classes(self) -> int:
        """0 = unconditional."""
        return self.num_classes or 0


@dataclass(frozen=True)
class SongOptions(_EDMImages):
    """EDM's SongUNet (Karras et al., arXiv 2206.00364): DDPM++ with the defaults, NCSN++ with `NCSNPP` on top."""

    img_resolution: int
    img_channels: int = 3
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 128
    channel_mult: Sequence[int] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: Sequence[int] = (16,)
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: int = 1
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: Sequence[int] = (1, 1)
    network: Literal["song"] = "song"


NCSNPP: dict[str, Any] = dict(
    embedding_type="fourier", channel_mult_noise=2, encoder_type="residual", resample_filter=(1, 3, 3, 1)
)


@dataclass(frozen=True)
class DhariwalOptions(_EDMImages):
    """EDM's DhariwalUNet: ADM's with learned labels of augmentation, biases elsewhere and names of its own."""

    img_resolution: int
    img_channels: int = 3
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 192
    channel_mult: Sequence[int] = (1, 2, 3, 4)
    channel_mult_emb: int = 4
    num_blocks: int = 3
    attn_resolutions: Sequence[int] = (32, 16, 8)
    network: Literal["dhariwal"] = "dhariwal"


@dataclass(frozen=True)
class EDMOptions:
    """A network F inside D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), see `Denoiser`."""

    model: ADMOptions | SongOptions | DhariwalOptions
    preconditioning: Preconditioning = "edm"
    sigma_data: float = 0.5
    network: Literal["edm"] = "edm"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.model.image_shape

    @property
    def classes(self) -> int:
        """0 = unconditional."""
        return self.model.classes


@dataclass(frozen=True)
class EDM2Options(_EDMImages):
    """EDM2's magnitude-preserving UNet (Karras et al., arXiv 2312.02696) of pixels, and its preconditioning.

    channel_mult_noise, channel_mult_emb: None = the first, and the largest of channel_mult.
    """

    img_resolution: int
    img_channels: int = 3
    label_dim: int = 0
    model_channels: int = 192
    channel_mult: Sequence[int] = (1, 2, 3, 4)
    channel_mult_noise: int | None = None
    channel_mult_emb: int | None = None
    num_blocks: int = 3
    attn_resolutions: Sequence[int] = (16, 8)
    channels_per_head: int = 64
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float | None = 256
    logvar_channels: int = 128
    sigma_data: float = 0.5
    network: Literal["edm2"] = "edm2"


NetworkOptions = ADMOptions | SongOptions | DhariwalOptions | EDMOptions | EDM2Options
OPTIONS: dict[str, type] = {
    "adm": ADMOptions,
    "song": SongOptions,
    "dhariwal": DhariwalOptions,
    "edm": EDMOptions,
    "edm2": EDM2Options,
}


def options_to_json(options: NetworkOptions) -> dict[str, Any]:
    """What `options_from_json` reads."""
    return asdict(options)


def options_from_json(values: Mapping[str, Any]) -> NetworkOptions:
    """Options from a JSON object, whose key `network` says of which network.

    Raises:
        ValueError: An unknown network or key, or one that is missing.
    """
    kind = values.get("network")
    if kind not in OPTIONS:
        raise ValueError(f"network is {kind!r}, expected one of {', '.join(OPTIONS)}")
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else options_from_json(value) if name == "model" else value
        for name, value in values.items()
    }
    try:
        return OPTIONS[kind](**fields)
    except TypeError as error:
        raise ValueError(f"options of {kind}: {str(error).partition(' ')[2]}") from error
