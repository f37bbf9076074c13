"""How an answer ends: at a string that stops it, or in a loop.

In: pieces of text, or ids, as they are generated. Out: the text before the first stop string, and whether the
last ids say the same again and again.
"""

from collections.abc import Collection, Sequence

LAST = 32
FEWEST = 14
"""Ids at the end of an answer that are looked at for a loop, and how many there must be."""


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
    """Whether ids end in a loop, or nearly in one: of the sequences of three among the last ones more than
    half have been said just before (seq-rep-3: Welleck et al., 2020).
    """
    last = list(tokens[-LAST:])
    threes = list(zip(last, last[1:], last[2:]))
    return len(last) >= FEWEST and 2 * len(set(threes)) < len(threes)
