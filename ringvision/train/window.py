"""The steps between two lines of the record.

    metrics of each step, on the devices  --Window.add-->  --Window.close-->  {"loss": …,
    "tokens_per_second": …}

Metrics are fetched one step late: while the devices compute a step, those of the step before are read, so
that nothing waits but for what is needed anyway.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ringvision.train.metrics import Metrics, averages


class Report(NamedTuple):
    """What the loop must know of a step. signal: the largest of all processes'. refused: how many steps in a
    row were not sound. loss, gradient_norm: of this step, whatever they are.
    """

    signal: int
    refused: int
    loss: float
    gradient_norm: float


class Window:
    """Gathers what steps say of themselves.

    Args:
        slots: how many tokens a batch has room for.
        flops_per_token: of this model; None: unknown.
        peak_flops: what all devices together could do a second; None: unknown.
        clock: gives seconds.
    """

    def __init__(
        self,
        slots: int,
        *,
        flops_per_token: float | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._flops = flops_per_token
        self._peak = peak_flops
        self._clock = clock
        self._steps: list[Metrics] = []
        self._newest: Metrics | None = None
        self._refused = 0
        self._tokens = 0
        self.restart()

    def restart(self) -> None:
        """Start the clock anew, so that what is not training does not count as training."""
        self._began = self._clock()
        self._timed = 0

    def forget(self) -> None:
        """Leave out the steps since the last `close`, and the newest, which nobody has read yet: a run that
        goes back did them in vain. How many were refused stays.
        """
        self._steps = []
        self._newest = None
        self._tokens = 0
        self.restart()

    def add(self, metrics: Metrics, *, wait: bool) -> list[Report]:
        """A step was begun.

        Args:
            metrics: of it, on the devices.
            wait: until it is done; else for the step before it alone.

        Returns:
            What the steps say that were waited for and not returned before.
        """
        known = self.settle()
        self._newest = metrics
        self._timed += 1
        return known + (self.settle() if wait else [])

    def settle(self) -> list[Report]:
        """What the newest step says, after waiting for it; nothing where that was returned before."""
        if self._newest is None:
            return []
        metrics: dict[str, Any] = jax.device_get(self._newest)
        self._newest = None
        self._steps.append(metrics)
        self._tokens += int(metrics["tokens"])
        self._refused += 1 - int(metrics["applied"])
        loss, gradient_norm = metrics["judged"].tolist()
        return [Report(int(metrics["signal"]), int(metrics["refused"]), loss, gradient_norm)]

    def close(self) -> dict[str, float]:
        """The means of the steps since the last call that are settled, and how fast they went."""
        values = averages(self._steps)
        tokens = self._tokens
        seconds = self._clock() - self._began
        if self._timed and seconds > 0:
            speed = self._timed / max(1, len(self._steps)) * tokens / seconds
            values |= {"seconds_per_step": seconds / self._timed, "tokens_per_second": speed}
            if self._flops and self._peak:
                values["mfu"] = speed * self._flops / self._peak
        if self._steps:
            values["fill"] = tokens / (self._slots * len(self._steps))
        if self._refused:
            values["refused"] = self._refused
        self._steps = []
        self._refused = 0
        self._tokens = 0
        self.restart()
        return values
