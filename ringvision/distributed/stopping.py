"""How a run is asked to stop, and how all of its processes stop at one step.

    SIGTERM or SIGINT on one process  --StopRequest, signals-->  an input of the step, int32 [devices]

The step returns the array's maximum, which is the same on all processes.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def signals(mesh: Mesh, value: int) -> jax.Array:
    """A number of each process as one array for the step, which returns its maximum, so that all processes
    learn at the same step that one of them was asked to stop.

    Args:
        mesh: the step's; each process has devices in it.
        value: of this process.

    Returns:
        int32 [mesh.size], spread over all axes of the mesh: on each device the number of its process.
    """
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    share = np.full(1, value, np.int32)
    return jax.make_array_from_callback((mesh.size,), sharding, lambda index: share)


class StopRequest:
    """Whether somebody asked this process to stop; a context manager, for the main thread.

        with StopRequest() as stop:
            while not stop.asked: …

    SIGTERM and the first SIGINT are noted in `signal`; a second SIGINT raises KeyboardInterrupt as ever. The
    handlers of before are restored at the end. In another thread, where Python takes no signals, nothing is
    ever asked.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None: it was not installed by Python, and Python cannot put it back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
