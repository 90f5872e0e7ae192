"""The comparison of the score term's switches: gradients whose differences are known, and FLOPs of the digits' term."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.base.jobs import job_config, open_job
from bench.proofs.score_switches import FULL, Variant, compare, costs, rounds
from smartfast.scorers import load_scorer


def test_numbers_of_known_gradients() -> None:
    adversarial = torch.tensor([[1.0, 1.0], [2.0, -1.0]]).double()
    whole = torch.tensor([[3.0, 4.0], [4.0, 3.0]]).double()
    term = torch.tensor([[4.0, 3.0], [8.0, 6.0]]).double()
    found = compare("x", (1, 2), adversarial + term, adversarial + whole, adversarial)
    cosines = 24 / 25, 1.0
    assert found.cosine == pytest.approx((sum(cosines) / 2, (1 - 24 / 25) / math.sqrt(2)))
    assert found.norm_ratio == pytest.approx((1.5, math.sqrt(0.5)))
    assert found.cosine_of_mean == pytest.approx((12 * 7 + 9 * 7) / math.sqrt((12**2 + 9**2) * (7**2 + 7**2)))
    steps = (5 * 4 + 4 * 5) / 41, (10 * 6 + 5 * 2) / math.sqrt((10**2 + 5**2) * (6**2 + 2**2))
    assert found.cosine_of_step[0] == pytest.approx(sum(steps) / 2)


def test_cost_is_that_of_the_scorer_alone() -> None:
    scorer = load_scorer("digits")
    job = open_job(job_config("digits", ["--optim.batch=8", "--perf.cpu_threads=1"]), device=torch.device("cpu"))
    training = job.training(compile=False)
    ways = [
        Variant(FULL, scorer),
        Variant("half", scorer, {"batch_fraction": 0.5}),
        Variant("past", scorer, {"through_network": False}),
    ]
    prices = {cost.variant: cost for cost in costs(training, ways, rounds(job, training, 1)[0], repeats=1)}
    images, index = torch.zeros(1, 1, 16, 16), torch.zeros(1, dtype=torch.int64)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        scorer.network(images, index, index)
    forward = counter.get_total_flops()
    # The time and class layers, 0.15 % of the whole, have no backward pass.
    assert prices[FULL].flops == pytest.approx(2 * forward, rel=2e-3)
    assert prices["half"].flops == prices[FULL].flops / 2
    assert prices["past"].flops == pytest.approx(forward)
