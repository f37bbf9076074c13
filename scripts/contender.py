"""A contender of a benchmark: a process that sleeps until it is told to run a round, in lines of JSON.

In: the command of a process that writes a line `{"ready": versions, …}` when it can begin, and then for every
line that it reads one with what it measured. Out: those lines as dictionaries; `failed` says why there are no
more.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE = 3600.0
"""Seconds to wait for an answer: a machine that others use too may compile for long."""


def alternate(
    contenders: Sequence["Contender"],
    rounds: int,
    request: Callable[[int], Any],
    about: str = "",
    hidden: Collection[str] = (),
) -> None:
    """Asks all contenders in turn, so many `rounds` and one more at first, which compiles and does not count;
    all of them are closed at the end.

    Args:
        contenders: who is asked.
        rounds: that count.
        request: what is asked in a round, 0 and up.
        about: what the lines on stderr begin with.
        hidden: what of an answer is not shown there.

    Raises:
        SystemExit: where one has failed.
    """
    try:
        for turn in range(rounds + 1):
            for contender in contenders:
                answer = contender.ask(request(turn))
                if contender.failed:
                    raise SystemExit(f"{about}{contender.name} failed: {contender.failed}")
                shown = {name: value for name, value in answer.items() if name not in hidden}
                print(f"{about}round {turn}, {contender.name}: {shown}", file=sys.stderr, flush=True)
                if turn:
                    contender.rounds.append(answer)
    finally:
        for contender in contenders:
            contender.close()


class Contender:
    """A process of its own. name: what it is called in tables. ready: its first line. rounds: those of its
    answers that count.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.failed = ""
        self.rounds: list[dict[str, Any]] = []
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        self.child = subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", **(environment or {})},
            text=True,
        )
        self.ready = self._answer()

    def ask(self, request: Any) -> dict[str, Any]:
        """One round: what it measured, or nothing where it has failed."""
        if self.failed:
            return {}
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps(request) + "\n")
            self.child.stdin.flush()
        except OSError:
            pass  # it is gone, and the answer says why
        return self._answer()

    def median(self, key: str) -> float:
        """Of the rounds that count."""
        return median([answer[key] for answer in self.rounds])

    def close(self) -> None:
        self.child.kill()
        self.child.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        ready, _, _ = select.select([self.child.stdout], [], [], PATIENCE)
        line = self.child.stdout.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        self.close()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        self.failed = said[-1] if said else f"no answer within {PATIENCE:g} s"
        return {}


def median(values: Sequence[float]) -> float:
    """Of an even number, the mean of the middle two."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
