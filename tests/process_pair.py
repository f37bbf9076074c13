"""Two processes that run one script together: what tests of several processes have in common."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def run_both(script: Path, *arguments: str | Path, seconds: float) -> list[tuple[int, str]]:
    """Exit status and stderr of both processes; each is told a port, its number and the arguments."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(port), str(process), *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        said = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [(process.returncode, text) for process, text in zip(processes, said)]
