"""What a discriminator's step says beside its loss: who wins the game, and how much the images of a batch differ."""

import torch
from torch import Tensor

from smartfast.core.draws import are_vectors


@torch.no_grad()
def game_signs(
    fakes: Tensor, fake_labels: Tensor | None, reals: Tensor, labels: Tensor | None, *, right: Tensor
) -> dict[str, Tensor]:
    """Statistics of a step, scalars.

    Args:
        fakes, reals: Images [N, C, H, W] as they are, before any augmentation.
        fake_labels, labels: Theirs, int64 [N]; vectors or None: every image is of one class.
        right: Whether each of the discriminator's decisions was right, bool of any shape.

    Returns:
        Its share of right decisions, and the `spread` of fakes and reals.
    """
    return {
        "discriminator/accuracy": right.float().mean(),
        "spread/fakes": spread(fakes.detach(), fake_labels),
        "spread/reals": spread(reals.detach(), labels),
    }


def spread(images: Tensor, labels: Tensor | None) -> Tensor:
    """Mean squared difference per value between two images [N, C, H, W] of one class, a scalar.

    Over the classes together, each pair once; nan where no two images are of one class.
    """
    flat = (images.float() - images.float().mean(dim=0)).flatten(1)  # centred, so that little is lost in the products
    squares = flat.square().sum(dim=1)
    differences = squares[:, None] + squares - 2 * flat @ flat.t()
    pairs = torch.ones_like(differences).triu(1)
    if labels is not None and not are_vectors(labels):
        pairs = pairs * (labels[:, None] == labels)
    return (differences * pairs).sum() / (pairs.sum() * flat.shape[1])
