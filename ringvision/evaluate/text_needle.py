"""A needle in a haystack of text: sentences that say a city's magic number, among others that do not.

    one needle      "The magic number of Oslo is 7421." at a depth -> "What is the magic number of Oslo?"
    several         four such sentences in one text -> the numbers of two of the cities, both or it is wrong
    counting        from one to six of them -> how many there are

Texts are made here, of sentences of a few forms. Lengths are in tokens of the model's own tokenizer.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TextIO

import numpy as np

from ringvision.errors import UserError
from ringvision.evaluate import filler
from ringvision.evaluate.length_and_depth import (
    by_length,
    cells_of,
    depths_of,
    draw_cells,
    percent,
    rows_with,
    share_right,
    table_lines,
)
from ringvision.evaluate.progress import TimeLeft
from ringvision.evaluate.result_log import ResultLog, Row
from ringvision.evaluate.whole_numbers import check_least

LENGTHS = (1000, 2000, 4000)
LEAST_TOKENS = 200
"""The shortest text: six needles fit with something between them."""
SEVERAL = 4
ASKED_OF_SEVERAL = 2
MOST_COUNTED = 6
ANSWER_TOKENS = 32
AROUND = 200
"""Tokens that a chat template, the question and the answer take, at most."""
CITIES = (
    "Oslo", "Lima", "Cairo", "Quito", "Dakar", "Hanoi", "Perth", "Turin", "Kyoto", "Accra", "Bergen", "Porto",
)  # fmt: skip
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TASK = "Read this text. It may tell the magic numbers of some cities."


class TextAnswerer(Protocol):
    """What is evaluated: anything with the `say` and `clear` of infer/chat.py, and its text tokenizer."""

    text: Any

    def say(self, text: str) -> Iterator[str]: ...

    def clear(self) -> None: ...


@dataclass(frozen=True)
class TextNeedleSettings:
    """What is asked.

    lengths: of the texts, in tokens. depths: how many, evenly from the first sentence to the last one; a
    single one is the middle. seeds: texts of each length and depth, and of each length texts with several
    needles. seed: which texts. UserError for what cannot be asked.
    """

    lengths: tuple[int, ...] = LENGTHS
    depths: int = 5
    seeds: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for tokens in self.lengths:
            if tokens < LEAST_TOKENS:
                raise UserError(f"a length of {tokens} tokens was given; expected at least {LEAST_TOKENS}")
        if not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise UserError(f"lengths {list(self.lengths)} were given; expected at least one, each once")
        check_least(self, depths=1, seeds=1, seed=0)


@dataclass(frozen=True)
class TextQuestion:
    """A question about a text of a `kind`: single, several or counting. numbers: all that the answer has to
    say; cities: whose they are, where there are several; others: numbers that the answer may not say.
    """

    kind: str
    text: str
    numbers: tuple[int, ...]
    cities: tuple[str, ...] = ()
    others: tuple[int, ...] = ()

    def is_right(self, answer: str) -> bool:
        """Whether the answer says all of the numbers, in digits or, up to ten, in a word, and no other one
        of the text. Several have to come in the order of their cities: as the answer names them, or as the
        question does.
        """
        words = re.findall(r"\d+|[a-z]+", answer.casefold().replace(",", ""))
        said = [
            int(word) if word.isdecimal() else NUMBER_WORDS.index(word)
            for word in words
            if word.isdecimal() or word in NUMBER_WORDS
        ]
        if self.kind == "counting":
            return said[:1] == list(self.numbers)
        if set(self.others) & set(said):
            return False
        found = [number for number in dict.fromkeys(said) if number in self.numbers]
        named = [answer.find(city) for city in self.cities]
        order = sorted(range(len(named)), key=lambda index: named[index]) if -1 not in named else None
        expected = self.numbers if not order else [self.numbers[index] for index in order]
        return found == list(expected)


@dataclass(frozen=True)
class TextTask:
    """A text of about `tokens` tokens and its questions. needles: (city, number, depth) of each."""

    name: str
    tokens: int
    depth: float | None
    seed: int
    needles: tuple[tuple[str, int, float], ...]
    questions: tuple[TextQuestion, ...]

    def key(self, question: TextQuestion) -> str:
        """That of the row of one of its questions."""
        return f"{self.name}/{question.kind}"


def evaluate_text_needle(
    chat: TextAnswerer,
    settings: TextNeedleSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    progress: TextIO | None = sys.stderr,
) -> dict[str, Any]:
    """Asks a text model about magic numbers in long texts; each text begins a new conversation.

    Args:
        chat: what is evaluated; its sampler should take the likeliest token.
        settings: what is asked (None: the defaults).
        out: a folder for what is found, as evaluate_needle has it (None: nothing is written).
        command: that was given, for the record.
        progress: where it is printed how far it is (None: nowhere).

    Returns:
        {"accuracy", "cells": [{"tokens", "depth", "accuracy", "examples"}], "several", "several_cells":
        [{"tokens", "accuracy", "examples"}], "counting", "counting_cells", "record"}, scores in [0, 1].

    Raises:
        UserError: a text is longer than the model reads; for `out` as ResultLog.
    """
    settings = settings or TextNeedleSettings()
    _check_length(chat, max(settings.lengths))
    tasks = text_tasks(settings)
    model = getattr(getattr(chat, "model", None), "hash", None)
    with ResultLog(out, {"kind": "text needle", **asdict(settings), "model": model}, command) as log:
        waiting = [task for task in tasks if any(task.key(asked) not in log for asked in task.questions)]
        questions = sum(len(task.questions) for task in tasks)
        time_left = TimeLeft(progress, log, questions, sum(task.tokens for task in waiting))
        for task in waiting:
            haystack, tokens = make_text(task, chat.text)
            for asked in task.questions:
                if task.key(asked) not in log:
                    log.add(_ask(chat, task, asked, haystack, tokens))
            time_left.done(task.tokens)
        result = _scores(settings, log)
        log.finish(result, text_needle_text(result))
        if log.folder is not None:
            draw_cells(
                log.folder / "heatmap.png",
                result["cells"],
                "tokens",
                str,
                title=f"A number in a text: {percent(result['accuracy'])}",
                across="tokens of text",
                down="depth of the number",
            )
    return result


def _check_length(chat: Any, tokens: int) -> None:
    """UserError where a chat with a model cannot read so much and a question: better said before hours of
    shorter texts.
    """
    config = getattr(getattr(chat, "model", None), "config", None)
    if config is not None and tokens + AROUND > config.max_length:
        raise UserError(
            f"a text of {tokens} tokens does not fit the {config.max_length} that the model reads, of which "
            f"{AROUND} are kept for the question and the answer; give shorter --lengths"
        )


def text_tasks(settings: TextNeedleSettings) -> list[TextTask]:
    """The texts, by length: those with one needle by depth, then those with several, then those to count."""
    tasks = []
    for tokens in settings.lengths:
        for place, depth in enumerate(depths_of(settings.depths)):
            for number in range(settings.seeds):
                random = np.random.default_rng([settings.seed, 11, tokens, place, number])
                needle = _needles(random, [depth])
                name = f"{tokens}-{depth:g}-{number}"
                tasks.append(TextTask(name, tokens, depth, _seed(random), needle, (_single(needle),)))
        for number in range(settings.seeds):
            random = np.random.default_rng([settings.seed, 12, tokens, number])
            needles = _needles(random, random.uniform(0, 1, SEVERAL).tolist())
            asked = (_several(needles),)
            tasks.append(TextTask(f"{tokens}-several-{number}", tokens, None, _seed(random), needles, asked))
        for number in range(settings.seeds):
            random = np.random.default_rng([settings.seed, 13, tokens, number])
            count = 1 + (number + int(random.integers(MOST_COUNTED))) % MOST_COUNTED
            needles = _needles(random, random.uniform(0, 1, count).tolist())
            asked = (_counting(needles),)
            tasks.append(TextTask(f"{tokens}-counting-{number}", tokens, None, _seed(random), needles, asked))
    return tasks


def make_text(task: TextTask, tokenizer: Any) -> tuple[str, int]:
    """The text of a task and its tokens, by a tokenizer's `encode`: as many sentences as fit into
    task.tokens.
    """
    random = np.random.default_rng([task.seed, 14])
    hidden = [f"The magic number of {city} is {number}." for city, number, _ in task.needles]
    used = sum(len(tokenizer.encode(" " + sentence)) for sentence in hidden)
    sentences: list[str] = []
    for sentence in filler.sentences(random):
        used += len(tokenizer.encode(" " + sentence))
        if used > task.tokens:
            break
        sentences.append(sentence)
    # from the last one on, so that none moves those that stand where they should
    order = sorted(range(len(hidden)), key=lambda index: -task.needles[index][2])
    places = [round(task.needles[index][2] * len(sentences)) for index in order]
    for index, place in zip(order, places, strict=True):
        sentences.insert(place, hidden[index])
    text = " ".join(sentences)
    return text, len(tokenizer.encode(text))


def _needles(random: np.random.Generator, depths: Sequence[float]) -> tuple[tuple[str, int, float], ...]:
    """One for each depth, of cities and numbers of four digits that all differ."""
    cities = random.permutation(CITIES)[: len(depths)].tolist()
    numbers = (1000 + random.choice(9000, len(depths), replace=False)).tolist()
    return tuple(zip(cities, numbers, depths))


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(1 << 31))


def _single(needles: Sequence[tuple[str, int, float]]) -> TextQuestion:
    ((city, number, _),) = needles
    return TextQuestion(
        "single", f"What is the magic number of {city}? Answer with the number alone.", (number,)
    )


def _several(needles: Sequence[tuple[str, int, float]]) -> TextQuestion:
    asked = needles[:ASKED_OF_SEVERAL]
    cities = " and ".join(city for city, _, _ in asked)
    return TextQuestion(
        "several",
        f"What are the magic numbers of {cities}? Answer with the numbers alone.",
        tuple(number for _, number, _ in asked),
        tuple(city for city, _, _ in asked),
        tuple(number for _, number, _ in needles[ASKED_OF_SEVERAL:]),
    )


def _counting(needles: Sequence[tuple[str, int, float]]) -> TextQuestion:
    text = "Of how many cities does the text tell the magic number? Answer with a number alone."
    return TextQuestion("counting", text, (len(needles),))


def _ask(chat: TextAnswerer, task: TextTask, asked: TextQuestion, haystack: str, tokens: int) -> Row:
    chat.clear()
    answer = "".join(chat.say(f"{TASK}\n\n{haystack}\n\n{asked.text}")).strip()
    return {
        "key": task.key(asked),
        "tokens": task.tokens,
        "depth": task.depth,
        "seed": task.seed,
        "kind": asked.kind,
        "question": asked.text,
        "expected": ", ".join(map(str, asked.numbers)),
        "answer": answer,
        "right": asked.is_right(answer),
        "text_tokens": tokens,
    }


def _scores(settings: TextNeedleSettings, log: ResultLog) -> dict[str, Any]:
    rows = list(log.rows.values())
    single, several, counting = (rows_with(rows, kind=kind) for kind in ("single", "several", "counting"))
    return {
        "accuracy": share_right(single),
        "cells": cells_of(single, "tokens", settings.lengths, depths_of(settings.depths)),
        "several": share_right(several),
        "several_cells": by_length(several, "tokens", settings.lengths),
        "counting": share_right(counting),
        "counting_cells": by_length(counting, "tokens", settings.lengths),
        "record": {**log.settings, "runs": log.runs},
    }


def text_needle_text(result: dict[str, Any]) -> str:
    """The scores for people, in markdown."""
    further = {
        f"{ASKED_OF_SEVERAL} of {SEVERAL}": result["several_cells"],
        "counting": result["counting_cells"],
    }
    lines = table_lines(result["cells"], "tokens", str, further)
    lines += [
        "",
        f"One number: {percent(result['accuracy'])}. {ASKED_OF_SEVERAL} of {SEVERAL} numbers: "
        f"{percent(result['several'])}. How many there are: {percent(result['counting'])}.",
    ]
    if command := result["record"]["runs"][-1]["command"]:
        lines += ["", f"`{command}`"]
    return "\n".join(lines) + "\n"
