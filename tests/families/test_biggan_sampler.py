"""Images of BigGAN's generator: standing statistics, truncation by drawing again."""

import copy
import math

import pytest
import torch
from torch import Tensor

from smartfast.core.draws import Purpose, one_hot
from smartfast.core.pixels import to_uint8
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.biggan.sampler import BigGanSampler, standing_statistics, truncated
from smartfast.families.sampling import Look, draw_path, seeded_latents, slerp
from smartfast.kernels import philox_normal, philox_uniform
from smartfast.networks.biggan import BigGanOptions, Generator
from smartfast.networks.stylegan2 import Generator as StyleGan2


@pytest.fixture
def g() -> Generator:
    torch.manual_seed(0)
    options = BigGanOptions(32, 2, 3, attention=(16,), shared_dim=4, hierarchical=True)
    made = Generator(8, options, standing=(3, 5)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def test_standing_statistics_are_the_means_over_their_batches(g: Generator) -> None:
    before = copy.deepcopy(g.state_dict())
    found = standing_statistics(g)
    assert all(torch.equal(value, before[name]) for name, value in g.state_dict().items()) and not g.training
    assert not any(module.training for module in g.modules())
    inputs: dict[str, list[Tensor]] = {name: [] for name in g.norms()}
    other = copy.deepcopy(g)
    for name, norm in other.norms().items():
        norm.training = True  # not what its condition goes through
        norm.register_forward_pre_hook(lambda module, x, name=name: inputs[name].append(x[0].detach()))
    for numbers in torch.arange(15).split(5):
        labels = (philox_uniform(0, numbers, 1, Purpose.STANDING + Purpose.CHOICES)[:, 0] * 3).to(torch.int64)
        other(philox_normal(0, numbers, 8, Purpose.STANDING), one_hot(labels, 3))
    assert len(found) == 2 * len(inputs) == 14
    for name, batches in inputs.items():
        means, variances = zip(*((x.mean((0, 2, 3)), x.var((0, 2, 3))) for x in batches), strict=True)
        assert len(batches) == 3
        assert torch.allclose(found[f"{name}.stored_mean"], torch.stack(means).mean(0), atol=1e-5)
        assert torch.allclose(found[f"{name}.stored_var"], torch.stack(variances).mean(0), atol=1e-5)


def test_a_new_sampler_sees_weights_that_have_moved(g: Generator) -> None:
    z, c = torch.randn(2, 8), torch.eye(3)[:2]
    seeds = torch.arange(2)
    first = BigGanSampler(g).images(z, c, seeds, BigGanSampler(g).look)
    with torch.no_grad():
        g.linear.weight.mul_(-1)
    second = BigGanSampler(g).images(z, c, seeds, BigGanSampler(g).look)
    assert not torch.allclose(first, second, atol=1e-3)


def test_truncation_draws_again_what_is_beyond() -> None:
    seeds = torch.arange(4000)
    z = philox_normal(1, seeds, 6, Purpose.SAMPLE)
    found = truncated(z, seeds, 0.8)
    assert found.abs().max() <= 0.8 and torch.equal(found[z.abs() <= 0.8], z[z.abs() <= 0.8])
    assert torch.equal(truncated(z[7:9], seeds[7:9], 0.8), found[7:9])
    drawn = found[z.abs() > 0.8].double()
    normal = torch.distributions.Normal(0.0, 1.0)
    uniform = (normal.cdf(drawn) - normal.cdf(torch.tensor(-0.8))) / (2 * normal.cdf(torch.tensor(0.8)) - 1)
    ordered, count = uniform.sort().values, len(uniform)
    distance = (ordered - torch.arange(count) / count).abs().max() * math.sqrt(count)
    assert count > 9000 and distance < 2.2  # Kolmogorov's statistic: 1 in 8000 is larger


def test_a_path_goes_between_the_truncated_images_of_its_seeds(g: Generator) -> None:
    sampler, seeds, labels, look = (
        BigGanSampler(g),
        torch.tensor([5, 70, 8]),
        torch.tensor([0, 2, 1]),
        Look(threshold=0.5),
    )
    path = draw_path(sampler, seeds, labels, steps=4, loop=True, look=look)
    z = seeded_latents(seeds, sampler.z_shape)
    ends = to_uint8(sampler.images(z, one_hot(labels, 3), seeds, look))
    assert (path[::4].int() - ends.int()).abs().max() <= 1
    plain = draw_path(sampler, seeds, labels, steps=4, loop=True)
    assert not torch.equal(path[::4], plain[::4])
    # Between two seeds nothing is drawn again, which would jump from image to image.
    keys = truncated(z, seeds, 0.5)
    middle = slerp(keys[:1], keys[1:2], torch.tensor([0.5]))
    c = (one_hot(labels, 3)[:1] + one_hot(labels, 3)[1:2]) / 2
    assert (path[2].int() - to_uint8(sampler.images(middle, c, seeds[:1], Look()))[0].int()).abs().max() <= 1


def test_stylegan2_has_no_threshold() -> None:
    sampler = FAMILIES["stylegan2"].sampler(
        StyleGan2(z_dim=4, w_dim=4, c_dim=0, channels=1, resolution=8, channel_base=64)
    )
    with pytest.raises(UserError, match="truncation_threshold 0.5, expected none: StyleGAN2 truncates by psi"):
        sampler.images(torch.randn(1, 4), None, torch.arange(1), Look(threshold=0.5))
    for space in sampler.spaces:
        with pytest.raises(UserError, match="truncation_threshold 0.5, expected none"):
            draw_path(sampler, torch.arange(2), None, steps=2, loop=False, space=space, look=Look(threshold=0.5))
