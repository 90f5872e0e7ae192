"""Random numbers of a run: pure functions of seed, purpose and image number."""

import pytest
import torch

from smartfast.core.draws import Purpose, batch_positions, draw_timesteps
from smartfast.families.stylegan2.latents import LatentSampler
from smartfast.networks.stylegan2.discriminator import minibatch_std


def sampler(mixing: float = 0.5, labels: bool = True) -> LatentSampler:
    return LatentSampler(
        seed=3,
        z_dim=5,
        num_ws=6,
        noise_shapes=[(4, 4), (8, 8)],
        data_labels=torch.tensor([0, 0, 0, 2]) if labels else None,
        num_classes=3,
        style_mixing_prob=mixing,
    )


def test_latents_do_not_depend_on_the_batch_they_are_drawn_in() -> None:
    stream = torch.tensor([7, 100_000_000_000, 8])
    whole = sampler()(Purpose.D_MAIN, stream)
    for i in range(3):
        one = sampler()(Purpose.D_MAIN, stream[i : i + 1])
        for a, b in [(one.z, whole.z), (one.z_mix, whole.z_mix), (one.c, whole.c), (one.noise[1], whole.noise[1])]:
            assert torch.equal(a[0], b[i])


def test_purposes_share_no_number() -> None:
    stream = torch.arange(4)
    a, b = sampler()(Purpose.D_MAIN, stream), sampler()(Purpose.G_MAIN, stream)
    assert not (a.z == b.z).any() and not (a.z == a.z_mix).any()


def test_labels_follow_the_data_and_mixing_follows_its_probability() -> None:
    latents = sampler(mixing=0.25)(Purpose.G_MAIN, torch.arange(20_000))
    share = latents.labels.bincount(minlength=3) / 20_000
    assert share[1] == 0 and share[0] == pytest.approx(0.75, abs=0.01)
    mixed = latents.cutoff < 6
    assert mixed.float().mean() == pytest.approx(0.25, abs=0.01)
    assert set(latents.cutoff[mixed].tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    plain = sampler(mixing=0.0, labels=False)(Purpose.G_MAIN, torch.arange(3))
    assert plain.z_mix is None and plain.cutoff is None and plain.labels is None and plain.c is None


def test_labels_can_be_given() -> None:
    given = torch.tensor([2, 1, 0])
    latents = sampler()(Purpose.G_MAIN, torch.arange(3), given)
    assert torch.equal(latents.labels, given) and torch.equal(latents.c, torch.eye(3)[given])
    assert torch.equal(latents.z, sampler()(Purpose.G_MAIN, torch.arange(3)).z)


def test_timesteps_are_uniform_over_both_ends() -> None:
    t = draw_timesteps(1, torch.arange(30_000), 40, 44)
    share = t.bincount(minlength=45)[40:] / 30_000
    assert t.min() == 40 and t.max() == 44
    assert torch.allclose(share, torch.full((5,), 0.2), atol=0.01)


@pytest.mark.parametrize(
    ("batch", "parts", "group"), [(32, 2, 4), (32, 4, 4), (16, 1, 4), (24, 3, 2), (8, 4, 1), (8, 4, 4)]
)
def test_parts_cover_the_batch(batch: int, parts: int, group: int) -> None:
    pieces = batch_positions(batch, parts, group)
    assert len(pieces) == parts and all(len(p) == batch // parts for p in pieces)
    assert torch.equal(torch.cat(pieces).sort().values, torch.arange(batch))


@pytest.mark.parametrize(("batch", "parts", "group"), [(32, 2, 4), (32, 4, 4), (24, 3, 2)])
def test_parts_form_the_minibatch_std_groups_of_the_batch(batch: int, parts: int, group: int) -> None:
    x = torch.randn(batch, 3, 2, 2, dtype=torch.float64)
    whole = minibatch_std(x, group, 1)
    for places in batch_positions(batch, parts, group):
        assert torch.allclose(minibatch_std(x[places], group, 1), whole[places], rtol=0, atol=1e-14)


def test_half_of_every_part_is_in_the_first_half_of_the_batch() -> None:
    """The path-length step takes the first half of each part; over all parts that is the first half of the batch."""
    halves = [places[: len(places) // 2] for places in batch_positions(32, 4, 4)]
    assert torch.equal(torch.cat(halves).sort().values, torch.arange(16))
