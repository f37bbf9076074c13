"""What each of the two processes of test_run_processes.py does: `two_runs.py PORT PROCESS TASK FOLDER`.

FOLDER holds the config of a run, run.json. TASK "whole": train to the end; train in another folder and be
asked to stop, both by a SIGTERM to process 1, and go on; then a run whose data fail on process 1. "other":
the processes have different configs. What was found is written to FOLDER/found-PROCESS.json.
"""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax


def at_batch(number: int, act: Callable[[], None]) -> None:
    """From now on this is done when a batch of this number is made."""
    from ringvision.data.loader import Loaded, Loader

    batches = Loader.batches

    def acting(loader: Loader, state: Any = None) -> Generator[Loaded, None, None]:
        for loaded in batches(loader, state):
            if loaded.state["step"] == number:
                act()
            yield loaded

    Loader.batches = acting  # type: ignore[method-assign]


def fail() -> None:
    from ringvision.errors import UserError

    raise UserError("its videos are gone")


def work(task: str, process: int, folder: Path) -> None:
    from ringvision.config import TrainConfig
    from ringvision.errors import Interrupted
    from ringvision.train.loop import train

    setup = TrainConfig.from_dict(json.loads((folder / "run.json").read_text()))
    if task == "other":
        train(dataclasses.replace(setup, seed=process), quiet=True)
    train(setup, quiet=True)
    setup = dataclasses.replace(setup, out=setup.out + "-stopped")
    if process == 1:
        at_batch(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    found = ""
    try:
        train(setup, quiet=True)
    except Interrupted as stopped:
        found = str(stopped)
    (folder / f"found-{process}.json").write_text(json.dumps(found))
    train(setup, quiet=True)
    if process == 1:
        at_batch(2, fail)
    train(dataclasses.replace(setup, out=setup.out + "-failed"), quiet=True)


def main(port: str, process: int, task: str, folder: Path) -> None:
    from ringvision import distributed
    from ringvision.errors import UserError

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[2] / ".jax_cache"))
    distributed.start(f"127.0.0.1:{port}", 2, process, seconds=60)
    try:
        work(task, process, folder)
    except UserError as error:
        print(f"ringvision: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
