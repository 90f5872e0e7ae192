"""The counter-based generator, in PyTorch and in a kernel: Random123's known answers, and as a source of numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from smartfast.core.draws import Purpose, batch_positions
from smartfast.kernels import denoise_distance, noise_forward, philox_normal, philox_uniform, philox_words
from smartfast.kernels.philox import aten, spec
from smartfast.kernels.philox.kernels import normal_run, philox_block
from smartfast.kernels.philox.triton import normal_op, uniform_op

DEVICE = torch.get_default_device().type
DRAWS = 2**20

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_spec_gives_the_known_answers(counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]) -> None:
    assert spec.block(counter, key) == answer


def test_first_words_are_the_known_answer() -> None:
    words = philox_words(seed=0, stream=torch.tensor([0]), count=4)
    assert tuple(words[0].tolist()) == KNOWN_ANSWERS[0][2]


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1, 0x299F31D0A4093822])
@pytest.mark.parametrize("stream", [0, 5, 2**32 + 3, 2**63 - 1])
def test_words_follow_the_documented_counter(seed: int, stream: int) -> None:
    purpose, count = 0xFEDCBA98, 11
    words = philox_words(seed, torch.tensor([stream]), count, purpose)[0].tolist()
    assert words == spec.words(seed, stream, count, purpose)


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


@pytest.mark.parametrize("impl", ["aten", "triton"])
@pytest.mark.parametrize("count", [1, 7, 64, 2055])
def test_normal_is_box_muller_of_the_words(count: int, impl: str) -> None:
    for seed, stream in ((6, 2), (2**64 - 1, 2**32 + 3), (3, 2**63 - 1)):
        drawn = philox_normal(seed, torch.tensor([stream]), count, 9, impl=impl)[0]
        assert (drawn.double() - spec.normal(seed, stream, count, 9)).abs().max() <= 6e-6  # as the docstring says


@pytest.mark.parametrize("impl", ["aten", "triton"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(stream=torch.tensor([3], dtype=torch.int32)), r"stream is torch.int32 \(1,\), expected torch.int64"),
        (dict(stream=torch.tensor([3.0])), "stream is torch.float32"),
        (dict(stream=torch.tensor([[3]])), r"stream is torch.int64 \(1, 1\)"),
        (dict(stream=torch.tensor(3)), r"stream is torch.int64 \(\)"),
        (dict(purpose=2**32), r"purpose is 4294967296, expected an integer 0 <= purpose < 2\*\*32"),
        (dict(purpose=-1), "purpose is -1"),
        (dict(seed=2**64), "seed is 18446744073709551616, expected"),
        (dict(seed=-(2**63) - 1), "seed is -9223372036854775809"),
        (dict(count=-1), r"count is -1, expected an integer 0 <= count < 2\*\*31"),
        (dict(count=2**31), "count is 2147483648"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_errors_name_the_argument(change: dict[str, Any], message: str, impl: str) -> None:
    arguments = dict(seed=0, stream=torch.tensor([3]), count=2, purpose=0) | change
    for draw in (philox_uniform, philox_normal):
        with pytest.raises(ValueError, match=message):
            draw(**arguments, impl=impl)
    with pytest.raises(ValueError, match=message):
        philox_words(**arguments)
    if "count" not in change:
        one, count = torch.ones(1), arguments.pop("count")
        with pytest.raises(ValueError, match=message):
            noise_forward(torch.zeros(1, 1, 1, count), one, one, **arguments, impl=impl)
        with pytest.raises(ValueError, match=message):
            denoise_distance(torch.zeros(1, 1, 1, count), **arguments, impl=impl)


def test_the_largest_arguments_are_taken() -> None:
    for seed in (2**64 - 1, -(2**63)):
        draws = [
            philox_uniform(seed, torch.tensor([2**63 - 1]), 5, 2**32 - 1, impl=impl) for impl in ("aten", "triton")
        ]
        assert torch.equal(*draws)


@triton.jit
def words_kernel(stream, words, seed, purpose, first, COUNT: tl.constexpr):
    """One program per stream: the words of COUNT blocks from `first` on, uint32 as int64 [N, COUNT, 4]."""
    n, i = tl.program_id(0), tl.arange(0, COUNT)
    four = philox_block(seed, purpose, tl.load(stream + n), first + i)
    for k in tl.static_range(4):
        tl.store(words + (n * COUNT + i) * 4 + k, four[k].to(tl.int64))


@pytest.mark.parametrize("count", [0, 1, 7, 64, 2055])
def test_triton_draws_the_same_uniform_numbers(count: int) -> None:
    streams = torch.tensor([0, 5, 2**32 + 3, 2**63 - 1])[::2]
    for seed in (3, 2**64 - 1):
        draws = [philox_uniform(seed, streams, count, 9, impl=impl) for impl in ("aten", "triton")]
        assert torch.equal(*draws)
    for draw in (philox_uniform, philox_normal):
        assert draw(1, streams[:0], count, impl="triton").shape == (0, count)


@pytest.mark.parametrize("op", [aten.normal, aten.uniform, normal_op, uniform_op])
def test_ops_follow_the_rules_of_registered_ops(op: Callable[..., torch.Tensor]) -> None:
    torch.library.opcheck(op, (-7, torch.tensor([2, 3]), 5, 1))


@triton.jit
def normal_kernel(stream, y, seed, purpose, COUNT: tl.constexpr):
    """Program (n, i): share i of 4 * COUNT normal numbers of stream n, float32 [N, shares * 4 * COUNT]."""
    n, share = tl.program_id(0), tl.program_id(1)
    eps = normal_run(seed, purpose, tl.load(stream + n), share * COUNT + tl.arange(0, COUNT))
    first = (n * tl.num_programs(1) + share) * 4 * COUNT
    tl.store(y + first + tl.arange(0, 4 * COUNT), eps)


def words_in_a_kernel(seed: int, stream: torch.Tensor, blocks: int, purpose: int, first: int = 0) -> torch.Tensor:
    words = torch.empty(len(stream), blocks, 4, dtype=torch.int64, device=DEVICE)
    words_kernel[(len(stream),)](stream.to(DEVICE), words, seed, purpose, first, COUNT=blocks)
    return words


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_kernel_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    stream = torch.tensor([signed(counter[1] | counter[2] << 32)])
    words = words_in_a_kernel(signed(key[0] | key[1] << 32), stream, 1, counter[3], first=counter[0])
    assert tuple(words[0, 0].tolist()) == answer


@pytest.mark.parametrize("seed", [0, 1, 7, 2**64 - 1, 0x299F31D0A4093822])
@pytest.mark.parametrize("purpose", [0, 1, 0xFEDCBA98])
def test_words_in_a_kernel_are_equal(seed: int, purpose: int) -> None:
    stream = torch.tensor([0, 5, 2**32 + 3, 2**63 - 1])
    words = words_in_a_kernel(signed(seed), stream, 8, purpose)
    assert torch.equal(words.flatten(1), philox_words(seed, stream, 32, purpose))


@pytest.fixture(scope="module", params=["aten", "triton"])
def draws(request: pytest.FixtureRequest) -> torch.Tensor:
    """A million normal numbers, float64 [8 streams, 131072]."""
    stream = torch.tensor([0, 1, 2, 1000, 2**32, 2**32 + 1, 2**40, 2**62])
    if request.param == "aten":
        return philox_normal(3, stream, DRAWS // 8, purpose=8, impl="aten").double()
    y = torch.empty(8, DRAWS // 8, device=DEVICE)
    normal_kernel[(8, 32)](stream.to(DEVICE), y, 3, 8, COUNT=DRAWS // 1024)
    return y.double()


def test_a_million_draws_are_normal(draws: torch.Tensor) -> None:
    ranks = (torch.arange(DRAWS) + 0.5) / DRAWS
    distance = (torch.special.ndtr(draws.flatten().sort().values) - ranks).abs().max()
    assert distance < 1.63 / DRAWS**0.5  # Kolmogorov-Smirnov, 1 %
    moments = [(draws**k).mean() * DRAWS**0.5 for k in (1, 2, 3, 4)]
    expected = [(0, 1), (1, 2), (0, 15), (3, 96)]  # mean and variance of the k-th power
    for moment, (mean, variance) in zip(moments, expected, strict=True):
        assert abs(moment - mean * DRAWS**0.5) < 4 * variance**0.5


def test_a_million_draws_are_uncorrelated(draws: torch.Tensor) -> None:
    """Within a Box-Muller pair, a block, a warp; between images and between channels; numbers and their squares."""
    for values in (draws, (draws**2 - 1) / 2**0.5):
        for lag in (1, 2, 3, 4, 8, 32, 256, 1024, 4096):
            products = values[:, :-lag] * values[:, lag:]
            assert abs(products.mean()) < 4.5 / products.numel() ** 0.5, f"lag {lag}"
        between = values @ values.T / values.shape[1]
        assert (between - torch.diag(between.diag())).abs().max() < 4.5 / values.shape[1] ** 0.5


@pytest.mark.parametrize("place", ["aten", "kernel"])
def test_ranks_steps_elements_and_purposes_share_no_block(place: str) -> None:
    """Blocks have 128 bits, so equal ones are no accident. The streams are the trainer's image numbers."""
    ranks, steps, batch, blocks, purposes = 2, 4, 8, 32, (Purpose.SCORE_NOISE, Purpose.G_MAIN, Purpose.TIMESTEP)
    images = torch.arange(steps)[:, None] * batch + torch.arange(batch)
    parts = [images[:, positions].flatten() for positions in batch_positions(batch, ranks, group=2)]
    drawn = []
    for stream in parts:
        for purpose in purposes:
            if place == "kernel":
                drawn.append(words_in_a_kernel(5, stream, blocks, int(purpose)))
            else:
                drawn.append(philox_words(5, stream, 4 * blocks, purpose).unflatten(1, (-1, 4)))
    every = torch.stack(drawn).flatten(0, 2)
    assert len(every) == steps * batch * blocks * len(purposes)
    assert len(every.unique(dim=0)) == len(every)
