"""How far an evaluation is, and how long the rest of it will take."""

import time
from typing import TextIO

from ringvision.evaluate.result_log import ResultLog
from ringvision.train.progress import clock


class TimeLeft:
    """Prints a line after each thing that was read.

    Args:
        output: where (None: nowhere).
        log: gets the answers.
        questions: how many there will be in all.
        amount: of what is still to be read, in seconds of video or tokens of text: the rest is taken to need
            as long for each as the latest did.
    """

    def __init__(self, output: TextIO | None, log: ResultLog, questions: int, amount: int) -> None:
        self.output = output
        self.log = log
        self.questions = questions
        self.left = amount
        self._marks = [(0, time.monotonic())]  # (how much was read, when)
        if log.rows:
            self._say(f"{len(log.rows)} of {questions} questions were answered before")

    def done(self, amount: int) -> None:
        """So much more was read, and asked about."""
        self.left -= amount
        self._marks.append((self._marks[-1][0] + amount, time.monotonic()))
        # the first one has also waited for compilers
        first, began = self._marks[1 if len(self._marks) > 2 else 0]
        last, ended = self._marks[-1]
        rest = (ended - began) / (last - first) * self.left
        right = sum(bool(row["right"]) for row in self.log.rows.values())
        share = right / max(1, len(self.log.rows))
        self._say(
            f"{len(self.log.rows)} of {self.questions} questions, {share:.1%} right, {clock(rest)} left"
        )

    def _say(self, line: str) -> None:
        if self.output is not None:
            print(line, file=self.output, flush=True)
