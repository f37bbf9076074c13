"""Several processes as one run: how they find each other, what they agree on, and how they stop together.

membership.py  flags or environment -> jax.distributed
host_copies.py arrays that are spread over processes -> the memory of one
agreement.py   small values from all to all; barriers; who is process 0
failing.py     an error on one -> an error on all
compiling.py   compiled by each, entered by all at once
stopping.py    signals to stop -> an input of the step

Everything works on one process too.
"""

from ringvision.distributed.agreement import (
    PATIENCE,
    agreed,
    barrier,
    gathered,
    is_main,
    process_count,
    process_index,
)
from ringvision.distributed.compiling import compiled_together
from ringvision.distributed.failing import ending_together, failing_together, reason_of
from ringvision.distributed.host_copies import host_copy, host_parts
from ringvision.distributed.membership import start
from ringvision.distributed.stopping import StopRequest, signals

__all__ = [
    "PATIENCE",
    "StopRequest",
    "agreed",
    "barrier",
    "compiled_together",
    "ending_together",
    "failing_together",
    "gathered",
    "host_copy",
    "host_parts",
    "is_main",
    "process_count",
    "process_index",
    "reason_of",
    "signals",
    "start",
]
