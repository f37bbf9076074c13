"""How well an assistant answers questions about held-out scenes, which it gets as real video files through
its own `ask`.

In: an assistant, a number of examples, a seed. Out: by kind of question, the share of exactly right answers,
and beside it what guessing evenly (`chance`) and a model that never sees a video (`blind`) score on the same
examples.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from ringvision.data.world import (
    COLOURS,
    HELD_OUT,
    KINDS,
    SHAPES,
    Question,
    Scene,
    chance,
    make_scene,
    questions,
)
from ringvision.errors import UserError
from ringvision.evaluate.video_tasks import QuestionAnswerer, normalise, written_ahead

SEED_STRIDE = 1 << 24  # scenes that one evaluation seed may use before it meets the next seed's
BLIND_SCENES = 4000
_NAME = re.compile(rf"\b(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})\b")


@dataclass(frozen=True)
class WorldExample:
    """A question about the video of one held-out scene."""

    scene: Scene
    question: Question


def evaluate_world(
    assistant: QuestionAnswerer,
    examples: int = 800,
    seed: int = 0,
    *,
    fps: float = 1.0,
    kinds: Sequence[str] = KINDS,
    blind_scenes: int = BLIND_SCENES,
    progress: TextIO | None = sys.stderr,
    wrong: list[tuple[WorldExample, str]] | None = None,
) -> dict[str, Any]:
    """Asks the assistant about held-out scenes, and scores its answers.

    A scene is written as H.264 into a temporary folder and asked all its questions in turn.

    Args:
        assistant: what is evaluated.
        examples: how many questions to ask, spread evenly over `kinds`, at most one of a kind about a scene.
        seed: which scenes.
        fps: frames a second that the assistant is to read.
        kinds: of questions.
        blind_scenes: how many scenes of training the blind model learns from.
        progress: where the score so far is printed (None: nowhere).
        wrong: a list that receives each example that was answered wrongly, with the answer given.

    Returns:
        {"overall": accuracy, "examples", "chance", "blind", "kinds": {kind: {"accuracy", "examples",
        "chance", "blind"}}}. Scores are in [0, 1]; "overall", "chance" and "blind" are means over examples.

    Raises:
        UserError: there are fewer examples than kinds.
    """
    chosen = choose_examples(examples, seed, kinds)
    blind = BlindModel(question for scene in range(blind_scenes) for question in questions(make_scene(scene)))
    right: dict[str, list[bool]] = defaultdict(list)
    blind_right: dict[str, list[bool]] = defaultdict(list)
    for done, (example, path) in enumerate(_with_files(chosen), start=1):
        question = example.question
        answer = assistant.ask([path], question.text, fps=fps).text
        right[question.kind].append(_is_right(answer, question))
        blind_right[question.kind].append(_is_right(blind.answer(question), question))
        if wrong is not None and not right[question.kind][-1]:
            wrong.append((example, answer))
        if progress is not None and (done % 50 == 0 or done == len(chosen)):
            score = sum(map(sum, right.values())) / done
            print(f"{done} of {len(chosen)} examples, {score:.1%} right so far", file=progress, flush=True)
    return scores_of(kinds, right, blind_right, {kind: chance(kind) for kind in kinds})


def _is_right(answer: str, question: Question) -> bool:
    return normalise(answer) == normalise(question.answer)


def scores_of(
    kinds: Sequence[str],
    right: Mapping[str, list[bool]],
    blind_right: Mapping[str, list[bool]],
    chances: Mapping[str, float],
) -> dict[str, Any]:
    """The scores of each kind, and their means over examples.

    Args:
        kinds: of questions, in order, at least one example of each.
        right: by kind, for each example, whether it was answered rightly.
        blind_right: the same of the blind model.
        chances: by kind, the score of guessing evenly.

    Returns:
        As evaluate_world.
    """
    scores = {
        kind: {
            "accuracy": _mean(right[kind]),
            "examples": len(right[kind]),
            "chance": chances[kind],
            "blind": _mean(blind_right[kind]),
        }
        for kind in kinds
    }
    examples = sum(len(answers) for answers in right.values())
    accuracy, even, blindly = (
        sum(score[name] * score["examples"] for score in scores.values()) / examples
        for name in ("accuracy", "chance", "blind")
    )
    return {"overall": accuracy, "examples": examples, "chance": even, "blind": blindly, "kinds": scores}


def choose_examples(examples: int, seed: int, kinds: Sequence[str] = KINDS) -> list[WorldExample]:
    """Chooses `examples` questions about held-out scenes, spread evenly over `kinds`, scene by scene. Another
    seed gives other scenes. UserError for fewer examples than kinds, or a negative seed.
    """
    if examples < len(kinds):
        raise UserError(
            f"{examples} examples were asked for; give at least {len(kinds)}, one for each kind of question"
        )
    if seed < 0:
        raise UserError(f"seed {seed} was given; expected a whole number from 0 upward")
    wanted = {
        kind: examples // len(kinds) + (index < examples % len(kinds)) for index, kind in enumerate(kinds)
    }
    chosen: list[WorldExample] = []
    number = HELD_OUT + seed * SEED_STRIDE
    while any(wanted.values()):
        scene = make_scene(number)
        number += 1
        seen: set[str] = set()
        for question in questions(scene):
            if wanted.get(question.kind, 0) and question.kind not in seen:
                seen.add(question.kind)
                wanted[question.kind] -= 1
                chosen.append(WorldExample(scene, question))
    return chosen


class BlindModel:
    """Answers without a video: by the most frequent answer to the same text, else to the same form of text,
    else to the same kind of question.

    A form is a question in which names are replaced by their numbers ("Which came first, {0} or {1}?"). Names
    in its answers are replaced in the same way, so that "always the first one named" can be learned.
    """

    LEAST = 5  # answers to the same text, from which on those are used rather than answers to the same form

    def __init__(self, seen: Iterable[Question]) -> None:
        self._by_text: dict[str, Counter[str]] = defaultdict(Counter)
        self._by_form: dict[str, Counter[str]] = defaultdict(Counter)
        self._by_kind: dict[str, Counter[str]] = defaultdict(Counter)
        for question in seen:
            names = _NAME.findall(question.text)
            self._by_text[question.text][question.answer] += 1
            self._by_form[_mask(question.text, names)][_mask(question.answer, names)] += 1
            self._by_kind[question.kind][question.answer] += 1

    def answer(self, question: Question) -> str:
        same = self._by_text.get(question.text, Counter())
        if same.total() >= self.LEAST:
            return same.most_common(1)[0][0]
        names = _NAME.findall(question.text)
        alike = self._by_form.get(_mask(question.text, names)) or self._by_kind.get(question.kind)
        answer = alike.most_common(1)[0][0] if alike else ""
        for number, name in enumerate(names):
            answer = answer.replace(f"{{{number}}}", name)
        return answer


def _mask(text: str, names: Sequence[str]) -> str:
    """The text with each name replaced by {its number}."""
    for number, name in enumerate(names):
        text = text.replace(name, f"{{{number}}}")
    return text


def _with_files(chosen: Sequence[WorldExample]) -> Iterator[tuple[WorldExample, Path]]:
    """Each example with the video of its scene."""
    scenes = {str(example.scene.seed): partial(make_scene, example.scene.seed) for example in chosen}
    by_scene = groupby(chosen, lambda example: example.scene.seed)
    with closing(written_ahead(scenes, fps=8)) as files:
        for (_, examples), path in zip(by_scene, files, strict=True):
            yield from ((example, path) for example in examples)


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
