"""How an answer ends: at a string that stops it, or in a loop.

In: pieces of text, or ids, as they are generated. Out: the text before the first stop string, and whether the
last ids are one sequence said again and again.
"""

from collections.abc import Collection, Sequence

TIMES = 3
FEWEST = 12
"""A loop is the same sequence so many times at the end, and at least so many tokens of it."""


class StopStrings:
    """Lets a text through up to the first of some strings. What may be the beginning of one is held back
    until that is known.

    found: whether one has come; nothing is let through from then on.
    """

    def __init__(self, strings: Collection[str] = ()) -> None:
        self.strings = [string for string in strings if string]
        self.found = False
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that is certain after one more piece."""
        if self.found:
            return ""
        self._held += piece
        places = [at for string in self.strings if (at := self._held.find(string)) >= 0]
        if places:
            self.found = True
            return self._held[: min(places)]
        begun = [
            length
            for string in self.strings
            for length in range(1, len(string))
            if self._held.endswith(string[:length])
        ]
        certain = len(self._held) - max(begun, default=0)
        text = self._held[:certain]
        self._held = self._held[certain:]
        return text

    def finish(self) -> str:
        """What was held back and began no stop string."""
        return "" if self.found else self._held


def repeats(tokens: Sequence[int]) -> bool:
    """Whether ids end in a loop: TIMES times or more the same sequence, together FEWEST ids or more."""
    tokens = list(tokens)
    for period in range(1, len(tokens) // TIMES + 1):
        times = max(TIMES, -(-FEWEST // period))
        if times * period <= len(tokens) and tokens[-times * period :] == tokens[-period:] * times:
            return True
    return False
