"""How like two scorers are in what reaches an image: the gradient of the score term through each of them.

The term's gradient for an image is 2 alpha / numel * J^T (eps_theta - eps), with the network's Jacobian J: networks
whose predictions are near one another may still push an image in different directions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.kernels import noise_forward
from smartfast.scorers.base import Scorer
from smartfast.scorers.interval import TimestepRange
from smartfast.scorers.term import score_loss


class Likeness(NamedTuple):
    """Of one scorer to another, over batches of images.

    cosine: Of the gradients of a batch with one draw of noise, in the mean.
    mean_cosine: Of a batch's gradients after averaging each over all draws, where what is only noise fades.
    norm: Length of the gradients over that of the other's, in the mean.
    error: Root of the mean squared difference of the predictions over that of the other's own.
    """

    cosine: float
    mean_cosine: float
    norm: float
    error: float


def likeness(
    student: Scorer,
    teacher: Scorer,
    timesteps: TimestepRange,
    images: Tensor,
    labels: Tensor | None,
    *,
    draws: int = 8,
    batch: int = 64,
    seed: int = 0,
) -> Likeness:
    """Compare the score term through `student` with that through `teacher`, on the same noised images.

    Args:
        student, teacher: With one schedule and one parameterization.
        timesteps: That t is drawn from.
        images: float [N, C, H, W] in [-1, 1], N at least 1, on the scorers' device.
        labels: Classes int64 [N], or None.
        draws: Of noise and timesteps, for each image.
        batch: Images at a time, of which one gradient is compared.
        seed: Of the draws.
    """
    cosines: list[Tensor] = []
    mean_cosines: list[Tensor] = []
    norms: list[Tensor] = []
    squares = torch.zeros(2, dtype=torch.float64, device=images.device)
    for places in torch.arange(len(images), device=images.device).split(batch):
        part, classes = images[places], None if labels is None else labels[places]
        pairs = []
        for draw in range(draws):
            stream = places + draw * len(images)
            t = draw_timesteps(seed, stream, timesteps.first, timesteps.last)
            pairs.append([_gradient(scorer, part, classes, t, stream, seed) for scorer in (student, teacher)])
            squares += _squares(student, teacher, part, classes, t, stream, seed)
        found = torch.stack([torch.stack(pair) for pair in pairs]).flatten(2).double()  # [draws, 2, values]
        cosines.append(torch.cosine_similarity(found[:, 0], found[:, 1]).mean())
        norms.append((found[:, 0].norm(dim=1) / found[:, 1].norm(dim=1)).mean())
        of_student, of_teacher = found.mean(dim=0)
        mean_cosines.append(torch.cosine_similarity(of_student, of_teacher, dim=0))
    cosine, mean_cosine, norm = (float(torch.stack(values).mean()) for values in (cosines, mean_cosines, norms))
    return Likeness(cosine, mean_cosine, norm, float((squares[0] / squares[1]).sqrt()))


def _gradient(scorer: Scorer, images: Tensor, labels: Tensor | None, t: Tensor, stream: Tensor, seed: int) -> Tensor:
    """Of the mean distance, for the images."""
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        loss = score_loss(scorer, images, labels, t, seed=seed, stream=stream, purpose=Purpose.SCORE_NOISE)
        return torch.autograd.grad(loss.mean(), images)[0]


@torch.no_grad()
def _squares(
    student: Scorer, teacher: Scorer, images: Tensor, labels: Tensor | None, t: Tensor, stream: Tensor, seed: int
) -> Tensor:
    """Sums of squares, float64 [2]: of the difference of both predictions, and of the teacher's."""
    alpha, sigma = teacher.alpha(t), teacher.sigma(t)
    x_t = noise_forward(images, alpha, sigma, seed=seed, stream=stream, purpose=Purpose.SCORE_NOISE)
    of_student, of_teacher = (scorer.network(x_t, t, labels).double() for scorer in (student, teacher))
    return torch.stack([(of_student - of_teacher).square().sum(), of_teacher.square().sum()])
