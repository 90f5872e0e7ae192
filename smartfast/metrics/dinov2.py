"""DINOv2's vision transformer (Oquab et al., arXiv 2304.07193), for the weight files that its authors publish.

torch-fidelity takes its network from a repository that torch.hub would download and run; this is the same function of
the same files, `dinov2_vit*14_pretrain.pth`, with their names of tensors.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

PATCH = 14
_HEAD = 64
_OFFSET = 0.1
"""The authors' addition to the number of patches where they resize the position embedding."""
_EPS = 1e-6


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // _HEAD
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, _HEAD)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _GatedMlp(nn.Module):
    """Of the largest network, SwiGLU (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (4 * width * 2 // 3 + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, width: int, *, is_gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, _EPS), nn.LayerNorm(width, _EPS)
        self.attn, self.mlp = _Attention(width), (_GatedMlp if is_gated else _Mlp)(width)
        self.ls1, self.ls2 = _Scale(width), _Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DinoV2(nn.Module):
    """From images float32 [N, 3, H, W], normalised, H and W multiples of 14, to the class token [N, width].

    Args:
        width, depth: Of the network.
        grid: Patches along a side of the images that the position embedding is of.
        is_gated: Its blocks have gated units.
    """

    def __init__(self, width: int, depth: int, grid: int, *, is_gated: bool) -> None:
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of the training; in the files
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(_Block(width, is_gated=is_gated) for _ in range(depth))
        self.norm = nn.LayerNorm(width, _EPS)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "DinoV2":
        """The network of a weight file; raises KeyError or RuntimeError where it is of another one."""
        width = tensors["cls_token"].shape[-1]
        depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
        grid = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
        with torch.device("meta"):
            network = cls(width, depth, grid, is_gated="blocks.0.mlp.w12.weight" in tensors)
        network.load_state_dict(dict(tensors), assign=True)
        return network

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = tokens + self._positions(*patches.shape[2:])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def _positions(self, height: int, width: int) -> Tensor:
        """The position embedding for another number of patches, bicubic."""
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        of_class, of_patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        square = of_patches.unflatten(1, (self.grid, self.grid)).movedim(3, 1)
        factors = ((height + _OFFSET) / self.grid, (width + _OFFSET) / self.grid)
        resized = F.interpolate(square, scale_factor=factors, mode="bicubic")
        return torch.cat([of_class, resized.flatten(2).transpose(1, 2)], dim=1)


class LocalDinoV2(FeatureExtractorDinoV2):
    """torch-fidelity's extractor, its way to bring images to size included, with the network of given weights."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        FeatureExtractorBase.__init__(self, name, ["dinov2"])
        self.feature_extractor_internal_dtype = torch.float32
        self.model = DinoV2.of(tensors)
        self.to(torch.float32).requires_grad_(False).eval()
