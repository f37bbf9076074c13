"""Examples of the questions about the world, by kind: a few that together have every word that questions of
the kind are put in. For the config.json of models that were trained on them.
"""

import re
from collections.abc import Iterable

from ringvision.data.world.long_questions import LONG_KINDS, long_questions
from ringvision.data.world.long_scene import make_long_scene
from ringvision.data.world.questions import AUXILIARY, KINDS, Question, questions
from ringvision.data.world.scene import MAX_SECONDS, make_scene, with_more_colours

SCENES = 400
LONG_SCENES = 120
LONG_SECONDS = 300


def example_questions(seconds: float) -> dict[str, list[str]]:
    """kind -> questions that a model is trained on that answers about videos of up to so many seconds; those
    about long videos are among them where it answers about more than clips.
    """
    scenes = (make_scene(seed) for seed in range(SCENES))
    more = (with_more_colours(make_scene(seed)) for seed in range(SCENES))
    found = _examples(
        (*KINDS, *AUXILIARY), (q for pair in zip(scenes, more) for s in pair for q in questions(s))
    )
    if seconds > MAX_SECONDS:
        long = (make_long_scene(seed, LONG_SECONDS) for seed in range(LONG_SCENES))
        for kind, texts in _examples(
            LONG_KINDS, (q for scene in long for q in long_questions(scene))
        ).items():
            found[kind] = list(dict.fromkeys([*found.get(kind, []), *texts]))
    return found


def _examples(kinds: Iterable[str], asked: Iterable[Question]) -> dict[str, list[str]]:
    """Of each kind the first question, and every later one with a word that none before it has."""
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    words: dict[str, set[str]] = {kind: set() for kind in kinds}
    for question in asked:
        new = set(re.findall(r"[a-z]+", question.text.lower()))
        if not new <= words[question.kind]:
            words[question.kind] |= new
            found[question.kind].append(question.text)
    return {kind: texts for kind, texts in found.items() if texts}
