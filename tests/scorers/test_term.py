"""The score term against its closed form, eagerly and compiled."""

import pytest
import torch
from diffusers import UNet2DModel

from smartfast.kernels import denoise_distance, noise_forward, philox_normal
from smartfast.scorers import GaussianMixtureScorer, UNetScorer
from smartfast.scorers.schedule import edm_schedule, schedule_from_config
from smartfast.scorers.term import ScoreTerm, score_loss, score_loss_past_network

SHAPE = (5, 3, 7, 7)
T = torch.tensor([25, 0, 35, 400, 999])
NOISE = {"seed": 11, "stream": torch.tensor([4, 0, 7, 2**40, 1]), "purpose": 8}
MEAN = torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(5)) - 0.5
STD = 0.4


def one_gaussian(parameterization="eps", schedule=None, dtype=torch.float32):
    schedule = schedule or schedule_from_config({}, "test")
    moments = MEAN[None].double(), torch.tensor([STD], dtype=torch.float64)
    return GaussianMixtureScorer(schedule, *moments, parameterization=parameterization, dtype=dtype)


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def closed_form(scorer, images, upstream, *, distance="plain", through_network=True):
    """Loss per sample and its gradient for one Gaussian, whose x0 is known, by autograd in float64.

    The loss is the plain error of what the network predicts, or that in eps. Past the network the estimate of x0 is
    held fixed.
    """
    alpha, sigma = (level(T).double()[:, None, None, None] for level in (scorer.alpha, scorer.sigma))
    eps = philox_normal(NOISE["seed"], NOISE["stream"], MEAN.numel(), NOISE["purpose"]).reshape(SHAPE).double()
    x = images.double().requires_grad_(True)
    x_t = alpha * x + sigma * eps
    variance = (alpha * STD) ** 2 + sigma**2
    x0 = MEAN.double() + alpha * STD**2 / variance * (x_t - alpha * MEAN.double())
    if not through_network:
        x0 = x0.detach()
    error_in_eps = (x_t - alpha * x0) / sigma - eps
    errors = {"eps": error_in_eps, "x0": x0 - x, "v": alpha * error_in_eps - sigma * (x0 - x)}
    loss = errors[scorer.parameterization if distance == "plain" else "eps"].square().mean(dim=(1, 2, 3))
    return loss.detach(), torch.autograd.grad(loss, x, upstream.double())[0]


@pytest.mark.parametrize("through_network", [True, False])
@pytest.mark.parametrize("distance", ["plain", "eps"])
@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
def test_loss_and_gradient_against_closed_form(parameterization, distance, through_network):
    scorer = one_gaussian(parameterization)
    images, upstream = random(*SHAPE, seed=1).requires_grad_(True), random(SHAPE[0], seed=2)
    loss_function = score_loss if through_network else score_loss_past_network
    loss = loss_function(scorer, images, None, T, **NOISE, distance=distance)
    (gradient,) = torch.autograd.grad(loss, images, upstream)
    how = {"distance": distance, "through_network": through_network}
    expected_loss, expected_gradient = closed_form(scorer, images.detach(), upstream, **how)
    assert loss.dtype == gradient.dtype == torch.float32
    term = ScoreTerm(scorer, NOISE["seed"], NOISE["purpose"], distance=distance)
    in_eps, _ = closed_form(scorer, images.detach(), upstream, distance="eps")
    torch.testing.assert_close(term.in_eps(expected_loss.float(), T), in_eps.float(), rtol=1e-4, atol=0)
    # The difference of eps and its prediction is small at t = 999, that of x0 and v rounded at t = 0, sigma = 0.01.
    tolerance = 1e-4 if parameterization == "eps" else 1e-3
    torch.testing.assert_close(loss.double(), expected_loss, rtol=tolerance, atol=0)
    for n in range(SHAPE[0]):
        error = (gradient[n].double() - expected_gradient[n]).norm() / expected_gradient[n].norm()
        assert error < tolerance


@pytest.mark.parametrize("through_network", [True, False])
@pytest.mark.parametrize("distance", ["plain", "eps"])
@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_last_step_without_signal(dtype, parameterization, distance, through_network):
    """alpha = 0 at t = 999: the distance in eps and its gradient are 0, those of x0 and v are as anywhere else."""
    scorer = one_gaussian(parameterization, schedule_from_config({"rescale_betas_zero_snr": True}, "test"), dtype)
    assert scorer.alpha(T)[-1] == 0
    images, upstream = random(*SHAPE, seed=1).requires_grad_(True), random(SHAPE[0], seed=2)
    loss_function = score_loss if through_network else score_loss_past_network
    loss = loss_function(scorer, images, None, T, **NOISE, distance=distance)
    (gradient,) = torch.autograd.grad(loss, images, upstream)
    how = {"distance": distance, "through_network": through_network}
    expected = closed_form(scorer, images.detach(), upstream, **how)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for found, truth in zip((loss, gradient), expected, strict=True):
        assert (found[-1] - truth[-1]).norm() <= tolerance * truth[-1].norm() + 1e-6


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_past_a_network_in_half_precision(parameterization, dtype):
    full, half = (
        loss_and_gradient(score_loss_past_network, unet_scorer(parameterization, kind), upstream_scale=1e-4)
        for kind in (torch.float32, dtype)
    )
    for found, expected in zip(half, full, strict=True):
        assert (found - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("loss_function", [score_loss, score_loss_past_network])
def test_only_the_term_through_the_network_differentiates_it(loss_function):
    scorer, graphs = unet_scorer("eps", torch.float32), []
    scorer.unet.register_forward_hook(lambda module, inputs, output: graphs.append(output[0].requires_grad))
    loss_and_gradient(loss_function, scorer)
    assert graphs == [loss_function is score_loss]


@pytest.mark.parametrize("through_network", [True, False])
@pytest.mark.parametrize("distance", ["plain", "eps"])
def test_the_noise_levels_of_edm(distance, through_network):
    """sigma = 0.002 at t = 0 and 0.0036 at t = 25, where the two parts of x0's gradient cancel to 3e-5 of either."""
    scorer = one_gaussian("x0", edm_schedule(), torch.float64)
    images, upstream = random(*SHAPE, seed=1).double().requires_grad_(True), random(SHAPE[0], seed=2).double()
    loss_function = score_loss if through_network else score_loss_past_network
    loss = loss_function(scorer, images, None, T, **NOISE, distance=distance)
    (gradient,) = torch.autograd.grad(loss, images, upstream)
    how = {"distance": distance, "through_network": through_network}
    expected_loss, expected_gradient = closed_form(scorer, images.detach(), upstream, **how)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    for n in range(SHAPE[0]):
        assert (gradient[n] - expected_gradient[n]).norm() / expected_gradient[n].norm() < 1e-5


def test_an_eps_network_knows_one_distance():
    """Bit by bit that of the op without a weight, whichever `smart.distance` asks for."""
    scorer = one_gaussian()
    images, upstream = random(*SHAPE, seed=1).requires_grad_(True), random(SHAPE[0], seed=2)
    x_t = noise_forward(images, scorer.alpha(T), scorer.sigma(T), **NOISE)
    expected = denoise_distance(scorer.network(x_t, T, None), **NOISE)
    (expected_gradient,) = torch.autograd.grad(expected, images, upstream)
    for distance in ("plain", "eps"):
        loss = score_loss(scorer, images, None, T, **NOISE, distance=distance)
        assert torch.equal(loss, expected)
        assert torch.equal(torch.autograd.grad(loss, images, upstream)[0], expected_gradient)


@pytest.mark.parametrize("through_network", [True, False])
@pytest.mark.parametrize("downscale", [1, 2, 4])
def test_term_scores_means_of_pixels(through_network, downscale):
    scorer = unet_scorer("v", torch.float32)
    size = 8 * downscale
    images = random(5, 3, size, size, seed=3).requires_grad_(True)
    labels, upstream = torch.tensor([0, 1, 2, 0, 1]), random(5, seed=4)
    key = {"seed": NOISE["seed"], "purpose": NOISE["purpose"]}
    how = {"through_network": through_network, "downscale": downscale, "distance": "eps"}
    term = ScoreTerm(scorer, **key, **how)
    loss = term(images, labels, T, NOISE["stream"])
    (gradient,) = torch.autograd.grad(loss, images, upstream)

    reduced = images.detach().double().reshape(5, 3, 8, downscale, 8, downscale).mean(dim=(3, 5)).float()
    reduced.requires_grad_(True)
    loss_function = score_loss if through_network else score_loss_past_network
    expected = loss_function(scorer, reduced, labels, T, **NOISE, distance="eps")
    (expected_gradient,) = torch.autograd.grad(expected, reduced, upstream)
    spread = expected_gradient.repeat_interleave(downscale, 2).repeat_interleave(downscale, 3) / downscale**2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    assert (gradient - spread).norm() / spread.norm() < 1e-4


def test_samples_do_not_depend_on_their_batch():
    scorer, images = one_gaussian(), random(*SHAPE, seed=1)
    whole = score_loss(scorer, images, None, T, **NOISE)
    for n in range(SHAPE[0]):
        one = {**NOISE, "stream": NOISE["stream"][n : n + 1]}
        torch.testing.assert_close(score_loss(scorer, images[n : n + 1], None, T[n : n + 1], **one)[0], whole[n])


@pytest.mark.parametrize("loss_function", [score_loss, score_loss_past_network])
def test_empty_batch(loss_function):
    empty = torch.zeros(0, dtype=torch.int64)
    loss = loss_function(one_gaussian(), torch.zeros(0, *SHAPE[1:]), None, empty, seed=0, stream=empty, purpose=8)
    assert loss.shape == (0,)


def test_labels_reach_the_scorer():
    scorer = GaussianMixtureScorer(
        schedule_from_config({}, "test"),
        torch.stack([MEAN, -MEAN]),
        torch.tensor([0.1, 0.1]),
        classes=(0, 1),
    )
    images = MEAN.expand(SHAPE).clone()
    right, wrong = (score_loss(scorer, images, torch.full((5,), c), T, **NOISE) for c in (0, 1))
    assert (right[[0, 2]] < wrong[[0, 2]]).all()


def loss_and_gradient(loss_function, scorer, *, upstream_scale=1.0):
    images = random(5, 3, 8, 8, seed=1).requires_grad_(True)
    loss = loss_function(scorer, images, torch.tensor([0, 1, 2, 0, 1]), T, **NOISE)
    loss.backward(random(5, seed=2) * upstream_scale)
    return loss.detach(), images.grad


def unet_scorer(parameterization, dtype):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        num_class_embeds=3,
    )
    return UNetScorer(unet, schedule_from_config({}, "test"), parameterization=parameterization, dtype=dtype)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
def test_small_gradients_survive_fp16(parameterization):
    full, half = (
        loss_and_gradient(score_loss, unet_scorer(parameterization, dtype), upstream_scale=1e-4)
        for dtype in (torch.float32, torch.float16)
    )
    for found, expected in zip(half, full, strict=True):
        assert (found - expected).norm() / expected.norm() < 1e-2


class RoundsGradients(torch.autograd.Function):
    """The identity, whose gradient passes through fp16."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.half().float()


@pytest.mark.parametrize("distance", ["plain", "eps"])
def test_gradients_fit_fp16_at_the_noise_levels_of_edm(distance):
    """The error of x0, a thousandth, times a lambda of 1e-4 would be too small; (alpha / sigma)^2 too large."""

    full, half = (one_gaussian("x0", edm_schedule()) for _ in range(2))
    half.dtype, half.network = torch.float16, lambda x_t, *rest: full.network(RoundsGradients.apply(x_t), *rest)
    upstream = random(SHAPE[0], seed=2) * (1e-4 if distance == "plain" else 10)
    gradients = []
    for scorer in (full, half):
        images, t = random(*SHAPE, seed=1).requires_grad_(True), torch.full((SHAPE[0],), 25)
        # Without its part through the target, which would cancel nearly all of the part through the network.
        loss = score_loss(scorer, images, None, t, **NOISE, distance=distance)
        past = score_loss_past_network(scorer, images, None, t, **NOISE, distance=distance)
        gradients.append(torch.autograd.grad(loss - past, images, upstream)[0])
    assert (gradients[1] - gradients[0]).norm() / gradients[0].norm() < 1e-3


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("loss_function", "dtype"),
    [(score_loss, torch.bfloat16), (score_loss, torch.float16), (score_loss_past_network, torch.bfloat16)],
)
def test_compiled_equals_eager_and_weights_get_no_gradient(loss_function, dtype):
    scorer = unet_scorer("v", dtype)
    eager = loss_and_gradient(loss_function, scorer)
    compiled = loss_and_gradient(torch.compile(loss_function, fullgraph=True, backend="aot_eager"), scorer)
    for found, expected in zip(compiled, eager, strict=True):
        assert (found - expected).norm() / expected.norm() < 2e-2
    assert all(p.grad is None for p in scorer.parameters())
