"""Collects everything that is wrong with a config, so that one message names it all.

checks = Checks(config); checks.at_least(1, "rows", "length"); ...  ->  checks.problems: list[str]
"""

from typing import Any


class Checks:
    """What was found wrong with the fields of `config`, a sentence each, in `problems`."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.problems = list[str]()

    def that(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.problems.append(otherwise)

    def filled(self, *names: str) -> None:
        for name in names:
            value = getattr(self.config, name)
            self.that(isinstance(value, str) and bool(value), f"{name} is {value!r}, expected some text")

    def at_least(self, least: int, *names: str) -> None:
        """None passes: where a field may be None, that means "not given"."""
        for name in names:
            value = getattr(self.config, name)
            self.that(value is None or value >= least, f"{name} is {value}, expected at least {least}")

    def positive(self, *names: str) -> None:
        """None passes, as in `at_least`."""
        for name in names:
            value = getattr(self.config, name)
            self.that(value is None or value > 0, f"{name} is {value}, expected more than 0")

    def fraction(self, *names: str) -> None:
        for name in names:
            value = getattr(self.config, name)
            self.that(0 <= value < 1, f"{name} is {value}, expected from 0 to below 1")
