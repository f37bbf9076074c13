"""Questions have one right answer, the world's own, and the question alone does not give it away."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from ringvision.data.world import (
    AUXILIARY,
    COLOURS,
    HELD_OUT,
    KINDS,
    Question,
    chance,
    make_scene,
    questions,
    retimed,
)


@pytest.fixture(scope="module")
def asked() -> dict[str, list[tuple[int, Question]]]:
    found = defaultdict(list)
    for seed in range(HELD_OUT, HELD_OUT + 1500):
        for question in questions(make_scene(seed)):
            found[question.kind].append((seed, question))
    return found


def test_all_kinds_are_asked_and_there_are_at_least_eight(asked):
    assert len(KINDS) >= 8
    assert set(asked) == set(KINDS) | set(AUXILIARY)
    assert all(len(asked[kind]) > 300 for kind in KINDS)


def test_the_same_seed_asks_the_same(asked):
    assert questions(make_scene(3)) == questions(make_scene(3))


def test_no_question_of_a_video_has_two_answers(asked):
    answers = defaultdict(set)
    for kind in asked:
        for seed, question in asked[kind]:
            answers[seed, question.text].add(question.answer)
    assert all(len(found) == 1 for found in answers.values())


def test_answers_of_a_kind_are_spread(asked):
    """No fixed answer scores much above chance: at most 1.6 times, or 0.1 more."""
    for kind in KINDS:
        if kind in ("order", "after"):
            continue  # their answers are names; the question's own names are tested below
        counts = Counter(question.answer for _, question in asked[kind])
        best = counts.most_common(1)[0][1] / sum(counts.values())
        assert best < max(1.6 * chance(kind), chance(kind) + 0.1), (kind, best)


def test_the_first_named_is_not_the_first_seen_more_often_than_not(asked):
    first = [
        question.text.index(question.answer[4:]) < question.text.index(" or ")
        for _, question in asked["order"]
    ]
    assert 0.45 < np.mean(first) < 0.55


def test_answers_agree_with_the_scene(asked):
    """Checks a few kinds by another road than the one that made the answers: what is visible at each whole
    second.
    """
    for seed, question in asked["time"][:200]:
        scene = make_scene(seed)
        second = int(question.answer.split()[0])
        seen = [
            t
            for t in range(int(scene.duration))
            for thing in scene.things_at(t)
            if f"the {thing.name} " in question.text
        ]
        if "card" in question.text:
            seen = [t for t in range(int(scene.duration)) if scene.cards[0].visible(t)]
        assert seen[0] == second, (question, seen)
    for seed, question in asked["count"][:200]:
        second = next(int(word) for word in question.text.split() if word.isdigit())
        assert len(make_scene(seed).things_at(second)) == int(question.answer)
    for seed, question in asked["after"][:200]:
        names = [thing.name for thing in sorted(make_scene(seed).things, key=lambda thing: thing.appears)]
        earlier = next(name for name in names if f"the {name}" in question.text)
        assert f"the {names[names.index(earlier) + 1]}" == question.answer
    for seed, question in asked["change"][:200]:
        changed = [thing for thing in make_scene(seed).things if f"{thing.name} " in question.text]
        assert changed[0].later_colour == question.answer and question.answer in COLOURS


def test_a_clip_asks_only_about_what_it_shows():
    for seed in range(200):
        scene = make_scene(seed)
        clip = scene.clip(1, int(scene.duration) - 2)
        names = {thing.name for thing in clip.things}
        for question in questions(clip):
            if question.kind in ("after", "order"):
                assert question.answer.removeprefix("the ") in names
            if question.kind == "time":
                assert int(question.answer.split()[0]) in clip.seconds


def test_times_in_words_are_replaced():
    said = "What was there at 1 minute 5 seconds, at 12 minutes, at 1 second or 0 seconds? 3 cards"
    later = "What was there at 2 minutes 5 seconds, at 13 minutes, at 1 minute 1 second or 1 minute? 3 cards"
    assert retimed(said, lambda second: second + 60) == later
