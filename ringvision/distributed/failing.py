"""A failure on one process ends the run on all of them, instead of leaving the others to wait for it.

    a block that all come through  --failing_together-->  UserError on all, where one fails in it
    the whole run                  --ending_together-->   the others end with a line that says why

The second is for where processes do not come by to hear of it: in a step that cannot finish without the one
that is gone.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax

from ringvision.distributed.agreement import PATIENCE, gathered, process_count, process_index, service_client
from ringvision.errors import Interrupted, UserError

WRONG = 2
"""The exit status, as of the command line."""
_GRACE = 5.0
"""Seconds for a process to come to the same end by itself, before it is ended."""
_PAUSE = 1.0
"""Seconds between two looks at whether another process has ended."""
_ENDED = "ringvision/ended"


@contextlib.contextmanager
def failing_together(what: str, *, seconds: float = PATIENCE) -> Iterator[None]:
    """A block that every process comes through or none: where it raises on one, it raises on all.

    Args:
        what: is done in it, for the message: "opening the data". All processes enter their blocks in the same
            order.
        seconds: for how long to wait for the others' blocks.

    Raises:
        UserError: on those where it went well, while it did not on another; on that one, what was raised
            there.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    reasons = gathered(f"failure in {what}", reason_of(failure) if failure else None, seconds=seconds)
    if failure is not None:
        raise failure
    for process, reason in enumerate(reasons):
        if reason is not None:
            raise UserError(f"process {process} failed in {what}: {reason}")


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Around a run: where it ends by an error on one process, the others, which may be waiting for it on
    their devices, end with its reason on stderr and status 2. `Interrupted` is no error: all end so.
    """
    if process_count() == 1:
        yield
        return
    client = service_client()
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(client, over), name="others", daemon=True)
    watcher.start()
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        text = json.dumps([process_index(), reason_of(error)])
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was first, or all are gone
            client.key_value_set(_ENDED, text)
        raise
    finally:
        over.set()
        watcher.join(_GRACE)


def reason_of(error: BaseException) -> str:
    """What an exception says, in one line: of the system's errors what went wrong, without numbers."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = getattr(error, "strerror", None) or str(error) or repr(error)
    return " ".join(str(text).split())


def _watch(client: Any, over: threading.Event) -> None:
    """Asks, until the run is over, whether a process has said why it ended; then ends this one. Leaving the
    coordinator in order is what lets the other do so too: it waits there for all.

    It does not wait within the client: a thread that is in there when Python ends aborts the process.
    """
    while not over.wait(_PAUSE):
        try:
            process, reason = json.loads(client.key_value_try_get(_ENDED))
        except jax.errors.JaxRuntimeError:  # nobody has, or nobody can be asked
            continue
        break
    if over.wait(_GRACE):
        return
    print(f"ringvision: process {process} ended: {reason}", file=sys.stderr, flush=True)
    with contextlib.suppress(Exception):
        jax.distributed.shutdown()
    os._exit(WRONG)
