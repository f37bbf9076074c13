"""What the parts of bench_tokenize.py share: a report of claims, and the processes that are measured."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watched import Watched

QUIET = {"JAX_PLATFORMS": "cpu", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass
class Part:
    """A part of the report: Markdown, claims [what, what was found, whether it holds], and all figures for
    the JSON.
    """

    title: str
    text: list[str] = field(default_factory=list)
    claims: list[tuple[str, str, bool]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def claim(self, what: str, found: str, holds: bool) -> None:
        self.claims.append((what, found, bool(holds)))

    def markdown(self) -> str:
        rows = [[what, found, "yes" if holds else "**no**"] for what, found, holds in self.claims]
        return "\n\n".join([f"## {self.title}", *self.text, table(["claim", "found", "holds"], rows)])


def table(head: list[str], rows: list[list[Any]]) -> str:
    return "\n".join(
        f"| {' | '.join(str(cell) for cell in row)} |" for row in [head, ["---"] * len(head), *rows]
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def tokenize(inputs: Path, out: Path, *more: str, every: float = 0.2) -> Watched:
    """The command, as a user gives it.

    Args:
        inputs: a video or a folder of videos.
        out: the folder of codes.
        more: further options.
        every: seconds between two looks at its memory.

    Returns:
        the process, which goes on.
    """
    return Watched(
        [sys.executable, "-m", "ringvision", "tokenize", inputs, "--out", out, "--json", *more], QUIET, every
    )


def contender(who: str, *more: str | Path) -> tuple[dict[str, Any], Watched]:
    """A process of tokenize_contenders.py, run to its end: what it reports, and how it was seen to run."""
    script = Path(__file__).with_name("tokenize_contenders.py")
    run = Watched([sys.executable, script, who, *more], QUIET)
    run.watch()
    return json.loads(finished(run)), run


def finished(run: Watched, *statuses: int) -> str:
    """stdout of a run that ended as it should have (0, or one of these)."""
    out, err = run.read()
    if run.status not in (statuses or (0,)):
        raise SystemExit(f"{' '.join(map(str, run.child.args))}\nended with {run.status}:\n{err[-3000:]}")
    return out
