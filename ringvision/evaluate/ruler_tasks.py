"""The tasks of RULER (Hsieh et al., 2024, arXiv 2404.06654) that need no download, at any size.

    niah_*   magic numbers (or UUIDs) of names, hidden in a text     -> one of them, or four
    vt       VAR A = 12345, VAR B = VAR A, … among other lines        -> every variable of that value
    cwe      a list of words, ten of them ten times as frequent       -> the ten
    fwe      coded words whose frequencies fall with their rank       -> the three most frequent

Numbers of needles, hops and words, lengths of answers, and the worked example before vt and cwe are RULER's
(scripts/synthetic.yaml of its repository); the words of prompts and texts are our own, and where RULER hides
something in essays, these are sentences made by filler.py. Its two tasks of questions over documents (SQuAD,
HotpotQA) are not here: they need those data sets.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np

from ringvision.evaluate import filler, ruler_words

NOISE = "The river is wide. The hill is steep. The lamp is lit. We went out. We came home again."
"""What RULER calls noise: the same few sentences again and again."""
HOPS = 4
COMMON = 10
FREQUENT = 3
SHORT = 4096
"""Tokens below which the words of cwe come less often, as in RULER."""
EXAMPLE_LINES = 12
"""Lines of noise in the worked example of vt."""


@dataclass(frozen=True)
class RulerExample:
    """What a model reads, the first words of its answer, and all that the answer has to say."""

    prompt: str
    opening: str
    answers: tuple[str, ...]

    def score(self, answer: str) -> float:
        """The share of what has to be said that the answer says somewhere, whatever its case (RULER's string
        match).
        """
        said = answer.lower()
        return sum(word.lower() in said for word in self.answers) / len(self.answers)


@dataclass(frozen=True)
class RulerTask:
    """A task at any size.

    name: RULER's. answer_tokens: the longest answer. least: the smallest size. make: (random, size, length)
    -> an example, where size is lines, sentences or words, and length the tokens that it should have.
    """

    name: str
    answer_tokens: int
    least: int
    make: Callable[[np.random.Generator, int, int], RulerExample]


def _needles(
    where: str,
    names: Callable[[np.random.Generator], str] = ruler_words.name,
    values: Callable[[np.random.Generator], str] = ruler_words.number,
    *,
    keys: int = 1,
    each: int = 1,
    asked: int = 1,
) -> Callable[[np.random.Generator, int, int], RulerExample]:
    """Needles in a haystack.

    Args:
        where: what they are hidden in: "noise", "essay", or "needles", others of their kind.
        names: draws a name.
        values: draws what is hidden under a name.
        keys: how many names.
        each: how many values a name has.
        asked: how many names are asked for.

    Returns:
        What makes an example.
    """
    what = "number" if values is ruler_words.number else "identifier"

    def line(name: str, value: str) -> str:
        return f"Remember that a magic {what} of {name} is {value}."

    def make(random: np.random.Generator, size: int, length: int) -> RulerExample:
        held: dict[str, list[str]] = {}
        while len(held) < keys:
            held[names(random)] = [values(random) for _ in range(each)]
        hidden = [line(name, value) for name, found in held.items() for value in found]
        if where == "essay":
            lines = list(islice(filler.sentences(random), size))
        elif where == "noise":
            lines = [NOISE] * size
        else:
            others = (name for name in _endless(names, random) if name not in held)
            lines = [line(name, values(random)) for name in islice(others, size)]
        text = _hide([hidden[index] for index in random.permutation(len(hidden))], lines, random)
        queries = [list(held)[index] for index in random.permutation(keys)[:asked]]
        answers = tuple(value for name in queries for value in held[name])
        those = ", ".join(queries[:-1]) + f" and {queries[-1]}" if asked > 1 else queries[0]
        several = len(answers) > 1
        context = (" " if where == "essay" else "\n").join(text)
        ask = f"What are all the magic {what}s" if several else f"What is the magic {what}"
        return RulerExample(
            f"Magic {what}s are hidden in this text. Keep them in mind, because I will ask for "
            f"{'some' if several else 'one'} of them.\n{context}\n{ask} of {those} in the text above?",
            f"The magic {what}{'s' * several} of {those} in the text {'are' if several else 'is'}",
            answers,
        )

    return make


def _endless(draw: Callable[[np.random.Generator], str], random: np.random.Generator) -> Iterator[str]:
    while True:
        yield draw(random)


def _hide(hidden: Sequence[str], lines: list[str], random: np.random.Generator) -> list[str]:
    """The lines with each hidden one at a random place among them, in this order."""
    places = np.sort(random.integers(0, len(lines) + 1, len(hidden)))
    for place, one in zip(places[::-1], hidden[::-1]):
        lines.insert(int(place), one)
    return lines


def _variables(random: np.random.Generator, size: int, length: int) -> RulerExample:
    shown = _chain(random, EXAMPLE_LINES)
    asked = _chain(random, size)
    worked = f"{shown.prompt}\n{shown.opening} {' '.join(shown.answers)}"
    return RulerExample(f"{worked}\n\n{asked.prompt}", asked.opening, asked.answers)


def _chain(random: np.random.Generator, size: int) -> RulerExample:
    """One chain of HOPS assignments among so many lines of noise."""
    found = dict[str, None]()
    while len(found) <= HOPS:
        found[ruler_words.variable(random)] = None
    variables = tuple(found)
    value = random.integers(10000, 100000)
    hidden = [f"VAR {variables[0]} = {value}"]
    hidden += [f"VAR {after} = VAR {before}" for before, after in pairwise(variables)]
    context = "\n".join(_hide(hidden, [NOISE] * size, random))
    return RulerExample(
        "Variables are assigned in this text, to a number or to each other. Follow the assignments."
        f"\n\n{context}\n\nQuestion: Which variables have the value {value} in the text above?",
        f"Answer: In the text above these {len(variables)} variables have the value {value}:",
        variables,
    )


def _common_words(random: np.random.Generator, size: int, length: int) -> RulerExample:
    short = length < SHORT
    shown = _word_list(random, *((20, 3, 1) if short else (40, 10, 3)))
    asked = _word_list(random, size, *((6, 1) if short else (30, 3)))
    words = " ".join(f"{index}. {word}" for index, word in enumerate(shown.answers, start=1))
    worked = f"{shown.prompt}\n{shown.opening} {words}"
    return RulerExample(f"{worked}\n\n{asked.prompt}", asked.opening, asked.answers)


def _word_list(random: np.random.Generator, different: int, often: int, seldom: int) -> RulerExample:
    """So many different words, of which COMMON come often and the others seldom."""
    words = ruler_words.different(random, different)
    listed = words[:COMMON] * often + words[COMMON:] * seldom
    order = random.permutation(len(listed))
    numbered = " ".join(f"{place}. {listed[index]}" for place, index in enumerate(order, start=1))
    return RulerExample(
        "Some words of this numbered list come more often than the others. Keep those in mind."
        f"\n{numbered}\n\nQuestion: Which {COMMON} words come most often in the list above?",
        f"Answer: The {COMMON} words that come most often in the list are:",
        tuple(words[:COMMON]),
    )


def _frequent_words(random: np.random.Generator, size: int, length: int) -> RulerExample:
    """Coded words, of rank k about size / k² / zeta(2) times; the first rank is dots, which do not count."""
    words = ["...", *ruler_words.coded(random, max(length // 50, FREQUENT + 1))]
    share = np.arange(1, len(words) + 1, dtype=np.float64) ** -2 / (math.pi**2 / 6)
    listed = [word for word, times in zip(words, (size * share).astype(int)) for _ in range(times)]
    context = " ".join(listed[index] for index in random.permutation(len(listed)))
    return RulerExample(
        f"This is a text in code. Count its words; the dots are no word.\n{context}\n\nQuestion: Which "
        f"{FREQUENT} coded words come most often in the text above? Answer with the words alone.",
        f"Answer: The {FREQUENT} coded words that come most often are:",
        tuple(words[1 : 1 + FREQUENT]),
    )


TASKS = {
    task.name: task
    for task in (
        RulerTask("niah_single_1", 128, 1, _needles("noise")),
        RulerTask("niah_single_2", 128, 1, _needles("essay")),
        RulerTask("niah_single_3", 128, 1, _needles("essay", values=ruler_words.identifier)),
        RulerTask("niah_multikey_1", 128, 1, _needles("essay", keys=4)),
        RulerTask("niah_multikey_2", 128, 1, _needles("needles")),
        RulerTask(
            "niah_multikey_3", 128, 1, _needles("needles", ruler_words.identifier, ruler_words.identifier)
        ),
        RulerTask("niah_multivalue", 128, 1, _needles("essay", each=4)),
        RulerTask("niah_multiquery", 128, 1, _needles("essay", keys=4, asked=4)),
        RulerTask("vt", 30, HOPS, _variables),
        RulerTask("cwe", 120, 2 * COMMON, _common_words),
        RulerTask("fwe", 50, 100, _frequent_words),
    )
}


def fit(task: RulerTask, seed: Sequence[int], length: int, measure: Callable[[RulerExample], int]) -> int:
    """The size at which an example just fits.

    Args:
        task: what is made.
        seed: of the random numbers of the example that is tried.
        length: tokens of prompt and answer.
        measure: tokens of an example's prompt and opening.

    Returns:
        The largest size that was found to fit, within about a hundredth; the smallest where none does.
    """

    def tokens(size: int) -> int:
        return measure(task.make(np.random.default_rng(seed), size, length)) + task.answer_tokens

    fits = task.least
    used = least = tokens(fits)
    if least > length:
        return fits
    beyond: int | None = None
    size = 2 * fits + 8
    while beyond is None or beyond - fits > max(1, fits // 100):
        found = tokens(size)
        if found > length:
            beyond = size
        else:
            fits = size
            used = found
        if beyond is None:  # as many more as would fill it by what the last ones took
            rate = max((used - least) / (fits - task.least), 1e-3)
            size = fits + min(max(1, math.ceil(1.02 * (length - used) / rate)), 7 * fits)
        else:
            size = (fits + beyond) // 2
    return fits
