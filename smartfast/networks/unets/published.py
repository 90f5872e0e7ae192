"""The networks whose weights are published, by the names of their files."""

from dataclasses import replace
from typing import Any

from smartfast.networks.unets.options import (
    NCSNPP,
    ADMOptions,
    DhariwalOptions,
    EDM2Options,
    EDMOptions,
    NetworkOptions,
    SongOptions,
)

_ADM64 = ADMOptions(
    64,
    model_channels=192,
    num_res_blocks=3,
    channel_mult=(1, 2, 3, 4),
    num_classes=1000,
    use_new_attention_order=True,
)
_ADM128 = ADMOptions(128, channel_mult=(1, 1, 2, 3, 4), num_classes=1000, num_head_channels=None)
_ADM256 = ADMOptions(256)
# The flags of consistency_models say otherwise, but its code splits q, k and v before heads.
_CM: dict[str, Any] = dict(out_channels=3, attention_dims=2, use_new_attention_order=True)
_CM256 = EDMOptions(replace(_ADM256, **_CM, use_scale_shift_norm=False), "cm")

_CIFAR = SongOptions(32, augment_dim=9, channel_mult=(2, 2, 2))
_FACES = SongOptions(64, augment_dim=9)
_IMAGENET64 = DhariwalOptions(64, label_dim=1000)
_EDM2_CHANNELS = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384}

ADM_NETWORKS: dict[str, ADMOptions] = {
    "64x64_diffusion": _ADM64,
    "128x128_diffusion": _ADM128,
    "256x256_diffusion": replace(_ADM256, num_classes=1000),
    "256x256_diffusion_uncond": _ADM256,
    "512x512_diffusion": ADMOptions(512, channel_mult=(0.5, 1, 1, 2, 2, 4, 4), num_classes=1000),
    **dict.fromkeys(("lsun_bedroom", "lsun_cat", "lsun_horse", "lsun_horse_nodropout"), _ADM256),
}
"""guided-diffusion's files: class-conditional and 64x64 with the cosine schedule, all others with the linear one."""

EDM_NETWORKS: dict[str, EDMOptions] = {
    **{
        f"edm-{data}-{kind}": EDMOptions(replace(options, **(NCSNPP if kind == "ve" else {})))
        for data, options in {
            "cifar10-32x32-cond": replace(_CIFAR, label_dim=10),
            "cifar10-32x32-uncond": _CIFAR,
            "ffhq-64x64-uncond": _FACES,
            "afhqv2-64x64-uncond": _FACES,
        }.items()
        for kind in ("vp", "ve")
    },
    "edm-imagenet-64x64-cond-adm": EDMOptions(_IMAGENET64),
    "baseline-cifar10-32x32-uncond-vp": EDMOptions(replace(_CIFAR, augment_dim=0), "vp"),
    "baseline-cifar10-32x32-uncond-ve": EDMOptions(replace(_CIFAR, augment_dim=0, **NCSNPP), "ve"),
    "baseline-imagenet-64x64-cond-adm": EDMOptions(_IMAGENET64, "iddpm"),
    "edm_imagenet64_ema": EDMOptions(replace(_ADM64, **_CM), "cm"),
    "edm_bedroom256_ema": _CM256,
    "edm_cat256_ema": _CM256,
}
"""EDM's files, where vp and ve are DDPM++ and NCSN++, and the last three consistency_models' of EDM."""

EDM2_NETWORKS: dict[str, EDM2Options] = {
    f"edm2-img64-{size}": EDM2Options(64, label_dim=1000, model_channels=channels)
    for size, channels in _EDM2_CHANNELS.items()
}
"""EDM2's files of pixels, without the training length and the averaging that their names end in."""

PUBLISHED: dict[str, NetworkOptions] = {**ADM_NETWORKS, **EDM_NETWORKS, **EDM2_NETWORKS}
