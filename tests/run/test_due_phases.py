"""Which phases an iteration runs."""

from collections.abc import Callable

from smartfast.data import RealBatch
from smartfast.run.training import Training


def test_a_penalty_of_weight_zero_is_not_computed(
    tiny_training: Callable[..., Training], tiny_reals: Callable[..., RealBatch]
) -> None:
    training = tiny_training(loss__r1_gamma=0, loss__path_length_weight=0, loss__r1_interval=1)
    training.run_iteration(tiny_reals())
    assert {name for name in training.timer.read() if name.startswith("count/")} == {"count/g_score", "count/d_main"}
