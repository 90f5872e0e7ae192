"""What OpenMP has to be told before torch starts its threads."""

import os

_SPINS = 1000  # tens of microseconds, about what sleeping and waking cost


def sleep_while_waiting() -> None:
    """Let threads that wait for one another sleep soon; nothing where the environment says how long they wait.

    By default they spin for milliseconds, which takes the core from the thread that they wait for wherever other work
    runs beside the training.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": str(_SPINS)}
