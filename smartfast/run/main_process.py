"""What one process does and all of them have to know."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from smartfast.errors import UserError

T = TypeVar("T")


def on_main_process(accelerator: Accelerator, function: Callable[[], T]) -> T:
    """Call `function` in the main process only; every process gets what it returns, or raises the UserError it raises.

    Args:
        accelerator: The processes, all of which have to call this.
        function: Returns what can be pickled.
    """
    outcome: list[T | UserError | None] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [function()]
        except UserError as error:
            outcome = [error]
    (result,) = broadcast_object_list(outcome)
    if isinstance(result, UserError):
        raise result
    return result  # type: ignore[return-value]
