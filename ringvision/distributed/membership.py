"""How a process becomes one of several: `start`, from flags, the environment, or a cluster that jax knows.

    HOST:PORT of process 0, how many, which one  --start-->  jax.distributed, or one line why not

jax aborts a process that cannot connect. So whether somebody listens is found out before it is asked, and it
connects in a thread that is waited for only so long.
"""

import os
import socket
import threading
import time
from typing import NamedTuple

import jax

from ringvision.errors import UserError

_CONNECT = 5.0
_FOREVER = 1_000_000
"""Seconds for a single attempt to reach the coordinator; and the limit that jax is given for its own
connecting, at which it would abort the process: ours is below it."""


class Membership(NamedTuple):
    """Where the coordinator is (HOST:PORT, of process 0), how many processes there are, which one this is."""

    coordinator: str
    processes: int
    process: int


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    seconds: float = 300.0,
) -> None:
    """Make this process one of several, as the arguments, the environment variables RINGVISION_COORDINATOR,
    RINGVISION_PROCESSES and RINGVISION_PROCESS, or what jax recognises (SLURM, Open MPI, a TPU pod) say; do
    nothing where there is one process. To be called before jax is used.

    Args:
        coordinator: HOST:PORT on which process 0 listens.
        processes: how many there are.
        process: which one this is, from 0.
        seconds: for how long to wait until all have come.

    Raises:
        UserError: the three do not belong together, the coordinator cannot be reached, or not all processes
            came in time. jax cannot be started in this process any more after the latter two.
    """
    given = _given(coordinator, processes, process) or _recognised()
    if given is None or given.processes == 1 or jax.distributed.is_initialized():
        return
    deadline = time.monotonic() + seconds
    if given.process > 0:
        _reach(given.coordinator, deadline, seconds)
    _initialize(given, deadline, seconds)


def _given(coordinator: str | None, processes: int | None, process: int | None) -> Membership | None:
    """What arguments and environment variables say; None where they say nothing."""
    found = {
        "coordinator": coordinator or os.environ.get("RINGVISION_COORDINATOR") or None,
        "processes": _number("RINGVISION_PROCESSES", processes),
        "process": _number("RINGVISION_PROCESS", process),
    }
    missing = [f"--{name} (RINGVISION_{name.upper()})" for name, value in found.items() if value is None]
    if len(missing) == len(found):
        return None
    if missing:
        raise UserError(
            f"{' and '.join(missing)} is missing: several processes need the coordinator's HOST:PORT, how "
            "many processes there are, and which one this is"
        )
    member = Membership(**found)  # type: ignore[arg-type]
    host, colon, port = member.coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(
            f"the coordinator is {member.coordinator!r}, expected HOST:PORT of process 0, as in 10.0.0.1:8476"
        )
    if not 0 <= member.process < member.processes:
        raise UserError(
            f"process {member.process} of {member.processes} was given; they count from 0 to "
            f"{member.processes - 1}"
        )
    return member


def _number(variable: str, given: int | None) -> int | None:
    text = os.environ.get(variable)
    if given is not None or not text:
        return given
    if not text.isdecimal():
        raise UserError(f"{variable} is {text!r}, expected a whole number")
    return int(text)


def _recognised() -> Membership | None:
    """What jax finds out about a cluster that it knows; None where there is none."""
    from jax._src import clusters

    address, count, index, _ = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 60
    )
    return None if address is None or count is None or index is None else Membership(address, count, index)


def _reach(coordinator: str, deadline: float, seconds: float) -> None:
    """Returns when something listens there: jax, which would abort the process where nothing does, comes
    after it.
    """
    host, _, port = coordinator.rpartition(":")
    reason: OSError | None = None
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((host.strip("[]"), int(port)), min(_CONNECT, left)).close()
            return
        except OSError as error:
            reason = error
            time.sleep(min(0.5, left))
    raise UserError(
        f"the coordinator {coordinator} could not be reached within {seconds:g} s ({reason}); check the "
        "address, that process 0 runs there, and that no firewall is between"
    )


def _initialize(given: Membership, deadline: float, seconds: float) -> None:
    """jax.distributed.initialize in a thread: where others do not come it does not return, and would end the
    process at its own time limit.
    """
    # on a CPU the processes' devices exchange arrays by gloo; other platforms do not read this
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # it would take SIGTERM, which then ended no process any more
    jax.config.update("jax_enable_preemption_service", False)
    failure: list[Exception] = []

    def connect() -> None:
        try:
            jax.distributed.initialize(*given, initialization_timeout=_FOREVER)
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=connect, name="connect", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if thread.is_alive():
        raise UserError(
            f"not all {given.processes} processes came to the coordinator {given.coordinator} within "
            f"{seconds:g} s; start each with its own number from 0 to {given.processes - 1}"
        )
    if failure:
        raise UserError(
            f"process {given.process} could not begin at the coordinator {given.coordinator} ({failure[0]}); "
            "is its port taken by another program?"
        ) from failure[0]
