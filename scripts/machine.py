"""The machine that a benchmark ran on and the versions of what it measured, for the head of its report."""

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def machine(modules: Iterable[str]) -> dict[str, Any]:
    """Processor, cores, memory, load, ringvision's commit, Python, and the version of each module."""

    def reading(path: str, key: str) -> str:
        lines = Path(path).read_text().splitlines() if Path(path).exists() else []
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "unknown")

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=package, capture_output=True, text=True).stdout.strip()

    found = importlib.util.find_spec("ringvision")
    package = Path(found.origin).parent if found and found.origin else Path(__file__).parent
    return {
        "processor": reading("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory": reading("/proc/meminfo", "MemTotal"),
        "load at the start": round(os.getloadavg()[0], 2),
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown")
        + (" and changes" if git("status", "--porcelain", "--", ".") else ""),
        "python": platform.python_version(),
    } | {module: version(module) for module in modules}


def version(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version" if importlib.util.find_spec(module) else "not installed"
