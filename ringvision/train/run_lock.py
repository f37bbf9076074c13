"""A run's folder is written by one run at a time."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from ringvision.distributed import failing_together, is_main
from ringvision.errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Holds the folder of a run, which is made where it is missing, until the end of the block or of the
    process. UserError, on every process of this run, where another one holds it: two would write each other's
    checkpoints.
    """
    with contextlib.ExitStack() as held:
        with failing_together("looking whether another run writes there"):
            if is_main():
                held.enter_context(_locked(out))
        yield


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / LOCK, "w")  # noqa: SIM115 (held until the block ends)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror}); give a folder that can as out"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another run is being trained in {out}; wait for it, stop it, or give another folder as out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
