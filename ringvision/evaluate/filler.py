"""Sentences to hide something among: they say nothing about what is asked, and seldom the same thing twice.

In: a random generator. Out: short sentences about people, things and places; their numbers have at most three
digits.
"""

from collections.abc import Iterator

import numpy as np

PEOPLE = ("Anna", "Boris", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ines", "Jonas")
THINGS = ("ladder", "piano", "basket", "clock", "lamp", "kettle", "bicycle", "carpet", "violin", "map")
PLACES = ("the market", "the harbour", "the library", "the old bridge", "the station", "the garden")
COLOURS = ("red", "blue", "green", "white", "yellow", "grey")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FORMS = (
    "{person} carried a {colour} {thing} to {place}.",
    "On {day} the {thing} of {person} stood at {place}.",
    "{person} and {other} met at {place} on {day}.",
    "There were {number} people at {place} on {day}.",
    "{person} sold the {colour} {thing} for {number} coins.",
    "It rained on {day}, so {person} stayed at {place}.",
    "{person} painted the {thing} {colour}.",
)


def sentences(random: np.random.Generator) -> Iterator[str]:
    """Sentences without end; the same for the same generator."""
    while True:
        one, other = random.permutation(PEOPLE)[:2]
        words = {
            name: str(random.choice(choices))
            for name, choices in (("thing", THINGS), ("place", PLACES), ("colour", COLOURS), ("day", DAYS))
        }
        number = int(random.integers(2, 1000))
        yield str(random.choice(FORMS)).format(person=one, other=other, number=number, **words)
