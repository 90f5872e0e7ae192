"""The counter-based generator against Random123's known answers, and as a source of random numbers."""

import pytest
import torch

from smartfast.kernels import philox_normal, philox_uniform, philox_words

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def random123(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 in Python integers, after the paper."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p2 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p2 >> 32) ^ c1 ^ k0, p2 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_python_twin_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    assert random123(counter, key) == answer


def test_first_words_are_the_known_answer() -> None:
    words = philox_words(seed=0, stream=torch.tensor([0]), count=4)
    assert tuple(words[0].tolist()) == KNOWN_ANSWERS[0][2]


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1, 0x299F31D0A4093822])
@pytest.mark.parametrize("stream", [0, 5, 2**32 + 3, 2**63 - 1])
def test_words_follow_the_documented_counter(seed: int, stream: int) -> None:
    purpose, count = 0xFEDCBA98, 11
    words = philox_words(seed, torch.tensor([stream]), count, purpose)[0].tolist()
    key = (seed & 0xFFFFFFFF, seed >> 32)
    blocks = [random123((i, stream & 0xFFFFFFFF, stream >> 32, purpose), key) for i in range(3)]
    assert words == [word for block in blocks for word in block][:count]


def test_a_row_depends_only_on_its_stream() -> None:
    streams = torch.tensor([4, 9, 2**40, 0, 7])
    together = philox_normal(3, streams, 10, purpose=2)
    apart = torch.cat([philox_normal(3, part, 10, purpose=2) for part in streams.split([2, 0, 3])])
    assert torch.equal(together, apart)
    assert torch.equal(together[:, :7], philox_normal(3, streams, 7, purpose=2))


def test_seeds_streams_and_purposes_share_nothing() -> None:
    streams = torch.tensor([0, 1])
    rows = [philox_words(seed, streams, 64, purpose) for seed in (0, 1) for purpose in (0, 1)]
    assert torch.cat(rows).unique().numel() == 8 * 64


def test_uniform_distribution() -> None:
    u = philox_uniform(1, torch.arange(50), 2000).double().flatten()
    assert u.min() >= 0 and u.max() < 1
    ranks = (torch.arange(len(u)) + 0.5) / len(u)
    assert (u.sort().values - ranks).abs().max() < 1.63 / len(u) ** 0.5  # Kolmogorov-Smirnov, 1 %


def test_normal_distribution() -> None:
    z = philox_normal(1, torch.arange(50), 2000).double()
    n = z.numel()
    ranks = (torch.arange(n) + 0.5) / n
    assert (torch.special.ndtr(z.flatten().sort().values) - ranks).abs().max() < 1.63 / n**0.5
    assert abs(z.mean()) < 3 / n**0.5
    assert abs(z.var() - 1) < 3 * (2 / n) ** 0.5
    neighbours = (z[:, :-1] * z[:, 1:]).mean()
    assert abs(neighbours) < 3 / n**0.5


def test_normal_is_box_muller_of_the_words() -> None:
    words = philox_words(6, torch.tensor([2]), 4)[0].double()
    u = (words // 256) / 2**24
    radius = (-2 * torch.log1p(-u[::2])).sqrt()
    angle = 2 * torch.pi * u[1::2]
    expected = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).flatten()
    assert torch.allclose(philox_normal(6, torch.tensor([2]), 4)[0].double(), expected, atol=1e-6)
