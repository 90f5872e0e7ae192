"""Images as sequences of tokens, row by row."""

from torch import Tensor


def as_tokens(x: Tensor) -> Tensor:
    """[N, C, H, W] as [N, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


def as_image(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, H * W, C] as [N, C, H, W], size = (H, W)."""
    return tokens.transpose(1, 2).unflatten(2, size)
