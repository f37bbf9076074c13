"""Scenes keep the promises that questions rely on."""

import numpy as np
import pytest

from ringvision.data.world import (
    COLOURS,
    HELD_OUT,
    MORE_COLOURS,
    OTHER,
    SHAPES,
    make_scene,
    questions,
    with_more_colours,
)
from ringvision.data.world.scene import FAR, MAX_SECONDS, MAX_TOGETHER, MIN_SECONDS, SHADE, STEP

SEEDS = [*range(150), *range(HELD_OUT, HELD_OUT + 150)]


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(seed) for seed in SEEDS]


def test_a_seed_always_makes_the_same_scene():
    assert make_scene(7) == make_scene(7)
    assert make_scene(7) != make_scene(8)
    assert make_scene(7) != make_scene(HELD_OUT + 7)


def test_lengths_and_shots_cover_the_video(scenes):
    for scene in scenes:
        assert MIN_SECONDS <= scene.duration <= MAX_SECONDS
        assert scene.shots[0].begins == 0.0
        for shot, later in zip(scene.shots, scene.shots[1:], strict=False):
            assert shot.begins < shot.ends
            assert abs(later.begins - shot.ends) < 0.5


def test_no_two_things_share_a_name_or_the_second_they_appear_in(scenes):
    for scene in scenes:
        names = [thing.name for thing in scene.things]
        names += [
            f"{thing.later_colour} {thing.shape}" for thing in scene.things if thing.changes is not None
        ]
        assert len(set(names)) == len(names)
        seconds = [np.ceil(thing.appears) for thing in scene.things]
        assert len(set(seconds)) == len(seconds)


def test_at_most_three_things_at_once_and_each_seen_twice(scenes):
    for scene in scenes:
        seen = dict.fromkeys(scene.things, 0)
        for second in range(int(scene.duration)):
            together = scene.things_at(second)
            assert len(together) <= MAX_TOGETHER
            for thing in together:
                seen[thing] += 1
        assert all(times >= 2 for times in seen.values())


def test_moving_things_cross_most_of_the_picture_in_their_direction(scenes):
    from ringvision.data.world import DIRECTIONS

    for thing in (thing for scene in scenes for thing in scene.things):
        if thing.direction is None:
            assert thing.start == thing.end
            continue
        seconds = range(int(np.ceil(thing.appears)), int(np.ceil(thing.leaves)))
        moved = np.subtract(thing.centre(seconds[-1]), thing.centre(seconds[0]))
        assert np.dot(moved, DIRECTIONS[thing.direction]) >= 2 * STEP - 1e-9


def test_a_change_is_seen_before_and_after(scenes):
    changing = [thing for scene in scenes for thing in scene.things if thing.changes is not None]
    assert len(changing) > 20
    for thing in changing:
        assert thing.colour_at(np.ceil(thing.appears)) == thing.colour
        assert thing.colour_at(np.ceil(thing.leaves) - 1) == thing.later_colour != thing.colour


def test_every_colour_shape_and_event_occurs(scenes):
    things = [thing for scene in scenes for thing in scene.things]
    assert {thing.colour for thing in things} == set(COLOURS)
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {card.digit for scene in scenes for card in scene.cards} == set(range(10))
    assert {len(scene.cards) for scene in scenes} == {0, 1, 2}
    assert max(len(scene.shots) for scene in scenes) >= 4


def test_a_clip_is_what_is_seen_of_it(scenes):
    rng = np.random.default_rng(0)
    for scene in scenes:
        count = int(rng.integers(1, scene.duration + 1))
        clip = scene.clip(int(rng.integers(0, scene.duration - count + 1)), count)
        for second in clip.seconds:
            shown = [(thing.name, thing.colour_at(second)) for thing in scene.things_at(second)]
            assert [colour for _, colour in shown] == [
                thing.colour_at(second) for thing in clip.things_at(second)
            ]
        for thing in clip.things:
            seen = [second for second in clip.seconds if thing.visible(second)]
            assert clip.first_seen(thing) == seen[0]
            assert (thing.changes is not None) == (len({thing.colour_at(second) for second in seen}) == 2)
            assert thing.direction is None or len(seen) > 1


def test_the_whole_is_its_own_clip(scenes):
    for scene in scenes:
        assert scene.clip(0, int(scene.duration)) == scene


def test_more_colours_change_names_and_nothing_else(scenes):
    changed = [with_more_colours(scene) for scene in scenes]
    assert changed == [with_more_colours(scene) for scene in scenes]
    as_they_were = sum(scene == other for scene, other in zip(scenes, changed, strict=True))
    assert 0.25 < as_they_were / len(scenes) < 0.5  # one in three, and those without a thing
    seen = set()
    for scene, other in zip(scenes, changed, strict=True):
        assert (scene.shots, scene.cards, scene.duration) == (other.shots, other.cards, other.duration)
        names = [(thing.colour, thing.shape) for thing in other.things]
        assert len(set(names)) == len(names)
        for before, after in zip(scene.things, other.things, strict=True):
            moved = (after.shape, after.start, after.end, after.appears, after.leaves, after.later_colour)
            assert moved == (
                before.shape, before.start, before.end, before.appears, before.leaves, before.later_colour
            )  # fmt: skip
            assert after.colour in (*MORE_COLOURS, OTHER) or after == before
            assert after.colour == OTHER or all(abs(value) <= SHADE for value in after.shade)
            seen |= {after.colour}
    assert seen == {*COLOURS, *MORE_COLOURS, OTHER}


def test_a_colour_without_a_name_is_far_from_those_that_have_one():
    shown = [
        thing.rgb_at(thing.appears)
        for scene in map(with_more_colours, map(make_scene, range(300)))
        for thing in scene.things
        if thing.colour == OTHER
    ]
    named = np.array([*COLOURS.values(), *MORE_COLOURS.values()])
    apart = np.linalg.norm(np.array(shown)[:, None] - named, axis=2)  # (things, colours)
    assert len(set(shown)) > 100
    assert apart.min() >= FAR
    assert set(apart.argmin(1)) == set(range(len(named)))  # all round, not in one corner


def test_a_thing_of_more_colours_has_its_shade_until_it_changes():
    scene = next(
        scene
        for scene in map(with_more_colours, map(make_scene, range(200)))
        if any(thing.colour in MORE_COLOURS and thing.changes for thing in scene.things)
    )
    thing = next(thing for thing in scene.things if thing.colour in MORE_COLOURS and thing.changes)
    plain = np.add(MORE_COLOURS[thing.colour], thing.shade)
    assert thing.rgb_at(thing.appears) == tuple(np.clip(plain, 0, 255))
    assert thing.rgb_at(thing.changes) == COLOURS[thing.later_colour]


def test_things_in_more_colours_are_asked_about():
    answers = {
        (question.kind, question.answer)
        for seed in range(300)
        for question in questions(with_more_colours(make_scene(seed)))
    }
    assert {("colour", colour) for colour in (*COLOURS, *MORE_COLOURS, OTHER)} <= answers
    texts = {q.text for seed in range(300) for q in questions(with_more_colours(make_scene(seed)))}
    assert {f"What shape was the {colour} thing?" for colour in (*MORE_COLOURS, OTHER)} <= texts
