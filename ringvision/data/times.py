"""Times of a video: seconds <-> minutes and seconds, and the words for them in questions and answers."""

import re

_NAMED = re.compile(
    r"\b(\d{1,5}) minutes?(?: (?:and )?(\d{1,5}) seconds?)?\b|\b(\d{1,5}):(\d\d)\b|\b(\d{1,5}) seconds?\b"
)


def stamp(seconds: float) -> tuple[int, int]:
    """A time as the stream writes it: whole minutes, and the whole seconds beyond them."""
    return divmod(max(0, int(seconds + 1e-6)), 60)


def time_words(second: int) -> str:
    """A time as questions and answers say it: "5 seconds", "1 minute", "12 minutes 5 seconds"."""
    parts = zip(divmod(second, 60), ("minute", "second"))
    words = [f"{number} {unit}" if number == 1 else f"{number} {unit}s" for number, unit in parts if number]
    return " ".join(words) or "0 seconds"


def named_times(words: str) -> list[tuple[int, int]]:
    """The times that are named, as people write them (12 minutes 5 seconds, 12 minutes, 12:05, 5 seconds), in
    order: (minutes, seconds), either of any size.
    """
    return [
        (int(said[1] or said[3] or 0), int(said[2] or said[4] or said[5] or 0))
        for said in _NAMED.finditer(words)
    ]
