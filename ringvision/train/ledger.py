"""Where the time of a run went: seconds by kind, of all its processes one after another.

    ledger = Ledger(earlier=notes_of_the_checkpoint)
    with ledger.spend("waiting for data"):
        batch = next(batches)

Every second since the ledger was opened is booked once: under the innermost `spend` that is open, or under
"other" where none is. "lost" is what a killed process had done after its last checkpoint.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

KINDS = ("stepping", "compiling", "waiting for data", "evaluating", "saving", "starting", "lost", "other")
COMPILED = "/jax/core/compile/backend_compile_duration"
"""jax reports under this name how long XLA took for a program, or a cache to find it."""


class Ledger:
    """The books of one run, kept by the thread that trains."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, earlier: Mapping[str, Any] | None = None
    ) -> None:
        """Open the books.

        clock: gives seconds.
        earlier: what is added at once.
        """
        self._clock = clock
        self._booked = dict.fromkeys(KINDS, 0.0)
        self._open: list[str] = []
        self._since = clock()
        self.add(earlier or {})

    @property
    def doing(self) -> str:
        """The kind under which this moment is booked."""
        return self._open[-1] if self._open else "other"

    @contextlib.contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        """Books the time inside under `kind`, one of KINDS; within another `spend` it counts here alone."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of time; there are {', '.join(KINDS)}")
        self._book()
        self._open.append(kind)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def add(self, earlier: Mapping[str, Any]) -> None:
        """Add the seconds by kind of the processes before this one, as `to_dict` gave them; what is no such
        thing is left out.
        """
        for kind, seconds in earlier.items():
            if kind in self._booked and type(seconds) in (int, float) and 0 <= seconds < float("inf"):
                self._booked[kind] += seconds

    def lost(self, seconds: float) -> None:
        """Add what is done again because a process was killed (metrics_file.lost_seconds)."""
        self._booked["lost"] += seconds

    @contextlib.contextmanager
    def noticing_compilation(self) -> Iterator[None]:
        """While this is open, what this thread compiles counts as "compiling" wherever it comes up: a step
        that is compiled anew in the middle of a run is seen in the books.
        """
        from jax import monitoring  # the books can be read without jax

        thread = threading.get_ident()

        def listen(event: str, duration_secs: float, **_: Any) -> None:
            if event == COMPILED and threading.get_ident() == thread:
                self._book()
                moved = min(duration_secs, self._booked[self.doing])
                self._booked[self.doing] -= moved
                self._booked["compiling"] += moved

        monitoring.register_event_duration_secs_listener(listen)
        try:
            yield
        finally:
            monitoring.unregister_event_duration_listener(listen)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by kind up to now, in the order of KINDS; kinds that took none are left out."""
        self._book()
        return {kind: seconds for kind, seconds in self._booked.items() if seconds > 0}

    @property
    def total(self) -> float:
        """Seconds in all, "lost" among them."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, float]:
        """What a checkpoint keeps, for `earlier`: plain numbers, to the millisecond."""
        return {kind: round(seconds, 3) for kind, seconds in self.seconds.items()}

    @classmethod
    def from_dict(cls, earlier: Mapping[str, Any], clock: Callable[[], float] = time.monotonic) -> "Ledger":
        """Go on with the books of a checkpoint."""
        return cls(clock, earlier)

    def _book(self) -> None:
        now = self._clock()
        self._booked[self.doing] += now - self._since
        self._since = now


def table(seconds: Mapping[str, float]) -> str:
    """A line for each kind of time: its seconds, and its share of all; the whole below them."""
    whole = sum(seconds.values())
    lines = [
        f"{kind:18}{spent:>12,.1f} s{spent / max(whole, 1e-9):>9.1%}"
        for kind, spent in {**seconds, "in all": whole}.items()
    ]
    return "\n".join(lines)
