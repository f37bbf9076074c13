"""Whether a model is asked what it was trained for: one line about each thing that it was not.

    Knows (config.json), question, how long the videos are ─warnings→ lines

A question is strange where it has a word that none of the examples of its `Knows` has, numbers and
FUNCTION_WORDS apart: it is about something else, or put in other words than the model has seen. That is all
that is looked at, so that the line can say which words these are. A line is a warning: the question is
answered all the same.
"""

import re
from collections.abc import Sequence

from ringvision.model_folder import Knows

_FUNCTION_WORDS = (
    "a an the this that these those some any all each of in on at to from by with for about into over and or "
    "but if then is are was were be been being am do does did done has have had will would can could shall "
    "should may might must not no it its he she his her him they them their there here i me my we us our you "
    "your so as than please s t"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that say nothing of what a question is about, in English."""
NAMED = 3
"""Words, and questions that could be asked instead, in a line."""
_CLOCK = r"\b(?:(?P<hours>\d{1,2}):)?(?P<minutes>\d{1,3}):(?P<seconds>\d\d)\b"
_TIMES = re.compile(
    _CLOCK
    + r"|\b(?P<number>\d{1,5})(?P<ordinal>st|nd|rd|th)?[ -](?P<unit>hour|minute|second)s?\b"
    + r"|\b(?P<named>hour|minute|second) (?P<count>\d{1,5})\b",
    re.IGNORECASE,
)
_SECONDS = {"hour": 3600, "minute": 60, "second": 1}


def warnings(
    knows: Knows | None,
    question: str,
    *,
    seconds: float,
    videos: int = 1,
    fps: float,
    known_fps: float | None,
) -> list[str]:
    """One line about each thing that a model was not trained for.

    Args:
        knows: what it was trained for; None: nobody says, and what can be said without that is said.
        question: that it is asked.
        seconds: how long the videos are together.
        videos: how many.
        fps: frames that are read of each second.
        known_fps: of the videos that it was trained on; None: nobody says.

    Returns:
        Lines without an end.
    """
    lines = []
    about = latest_time(question)
    if about is not None and about >= seconds:
        lines.append(f"the question is about {_clock(about)}, and the video ends at {_clock(seconds)}")
    if knows is None:
        return lines
    if seconds > knows.seconds:
        what = "the video is" if videos == 1 else "the videos are"
        lines.append(
            f"{what} {seconds:g} seconds long, and how well this model answers was measured up to "
            f"{knows.seconds:g}: do not rely on the answer"
        )
    if known_fps and abs(fps - known_fps) > 1e-6:
        lines.append(
            f"{fps:g} frames a second are read, and this model was trained on {known_fps:g}: do not rely on "
            "the answer"
        )
    if strange := strange_words(knows, question):
        said = ", ".join(f'"{word}"' for word in strange[:NAMED])
        kinds = list(knows.questions.values())
        could = " ".join(f'"{examples[0]}"' for examples in kinds[:: max(1, len(kinds) // NAMED)][:NAMED])
        lines.append(
            f"this model was trained on questions without {said}; it knows {knows.about}, and can be asked "
            f"such as {could}"
        )
    return lines


def strange_words(knows: Knows, question: str) -> list[str]:
    """The words of a question that none of the examples has, in their order, numbers and FUNCTION_WORDS
    apart; of a question that has nothing else, those too. None are strange where there are no examples.
    """
    known = {word for examples in knows.questions.values() for text in examples for word in _words(text)}
    if not known:
        return []
    words = list(dict.fromkeys(_words(question)))
    content = [word for word in words if word not in FUNCTION_WORDS] or words
    return [word for word in content if word not in known]


def latest_time(question: str) -> float | None:
    """The latest time that a question names, in seconds from the start: "70 minutes 5 seconds", "the 70th
    minute" (its beginning), "minute 70", "1:10:05". None where it names none.
    """
    latest = None
    before = None  # where the time before this one ended, what it was, and its unit in seconds
    for found in _TIMES.finditer(question):
        parts = found.groupdict()
        unit = _SECONDS[(parts["unit"] or parts["named"] or "hour").lower()]
        if parts["minutes"] is not None:
            time = 3600 * int(parts["hours"] or 0) + 60 * int(parts["minutes"]) + int(parts["seconds"])
        elif parts["named"] is not None:
            time = int(parts["count"]) * unit
        else:
            time = (int(parts["number"]) - bool(parts["ordinal"])) * unit
        joined = before is not None and re.fullmatch(r",? (and )?", question[before[0] : found.start()])
        if before is not None and joined and unit < before[2]:  # "12 minutes 5 seconds" is one time
            time += before[1]
        before = (found.end(), time, unit)
        latest = time if latest is None else max(latest, time)
    return latest


def _words(text: str) -> Sequence[str]:
    """Lower-case words, without numbers."""
    return re.findall(r"\b[^\W\d_]+\b", text.casefold())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
