"""Long scenes keep the promises that questions rely on, and are made, cut and looked up quickly."""

import time
from itertools import pairwise

import numpy as np
import pytest

from ringvision.data.world import (
    HELD_OUT,
    MAX_LONG_SECONDS,
    MIN_LONG_SECONDS,
    SHAPES,
    Scene,
    encoded_frames,
    make_long_scene,
    one_second_card,
    render,
)
from ringvision.data.world.long_scene import MAX_CARDS
from ringvision.data.world.scene import COLOURS, MAX_TOGETHER
from ringvision.errors import UserError

LENGTHS = [15, 16, 29, 60, 200, 900]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [
        make_long_scene(seed, seconds)
        for seconds in LENGTHS
        for seed in (*range(25), *range(HELD_OUT, HELD_OUT + 5))
    ]


def test_a_seed_and_a_length_always_make_the_same_scene() -> None:
    assert make_long_scene(7, 60) == make_long_scene(7, 60)
    assert make_long_scene(7, 60) != make_long_scene(8, 60)
    assert make_long_scene(7, 60).things != make_long_scene(7, 61).things
    assert make_long_scene(7, 60) != make_long_scene(HELD_OUT + 7, 60)


def test_backgrounds_follow_each_other_without_a_gap(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.shots[0].begins == 0.0 and scene.shots[-1].ends == scene.duration
        for shot, later in zip(scene.shots, scene.shots[1:], strict=False):
            assert shot.begins < shot.ends == later.begins


def test_cards_differ_and_stand_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert len({card.digit for card in scene.cards}) == len(scene.cards)
        assert len({card.colour for card in scene.cards}) == len(scene.cards)
        shown = [[s for s in scene.seconds if card.visible(s)] for card in scene.cards]
        assert all(len(seconds) in (1, 2) for seconds in shown)
        assert all(later[0] - one[-1] > 3 for one, later in pairwise(shown))
    counts = [len(scene.cards) for scene in scenes if scene.duration >= 60]
    assert set(counts) == set(range(MAX_CARDS + 1))


def test_no_card_hides_a_thing_and_no_name_is_seen_twice_at_once(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.things or scene.duration < 30
        for second in scene.seconds:
            visible = [thing for thing in scene.things if thing.visible(second)]
            assert not (visible and scene.card_at(second))
            assert visible == scene.drawn_at(second) and len(visible) <= MAX_TOGETHER
            names = [(thing.colour_at(second), thing.shape) for thing in visible]
            assert len(set(names)) == len(names)


def test_most_of_an_hour_is_eventful_and_some_of_it_quiet() -> None:
    empty = []
    for seed in range(10):
        scene = make_long_scene(seed, 1800)
        empty.append(np.mean([not scene.things_at(second) for second in scene.seconds]))
    assert 0.3 < np.mean(empty) < 0.6 and np.ptp(empty) > 0.1


def test_some_names_are_kept_for_one_thing() -> None:
    """Of 24 names, in a video in which each would be seen twenty times."""
    for seed in range(5):
        names = [
            (colour, thing.shape)
            for thing in make_long_scene(seed, 1800).things
            for colour in (thing.colour, thing.later_colour)
            if colour is not None
        ]
        counts = [names.count((colour, shape)) for colour in COLOURS for shape in SHAPES]
        assert sorted(counts)[2] <= 1 < 5 < sorted(counts)[3]


def test_cards_can_be_given() -> None:
    for second in (0, 40, 119):
        card = one_second_card(7, "red", second)
        scene = make_long_scene(3, 120, [card])
        assert [s for s in scene.seconds if scene.card_at(s)] == [second]
        assert scene.cards == (card,) and scene.things
    assert make_long_scene(3, 120, []).cards == ()


def test_a_part_of_a_long_scene_shows_what_the_whole_does() -> None:
    random = np.random.default_rng(1)
    for seed in range(20):
        scene = make_long_scene(seed, 200)
        first = int(random.integers(150))
        part = scene.clip(first, 40)
        assert list(part.seconds) == list(range(first, first + 40))
        for second in part.seconds:
            assert part.card_at(second) == scene.card_at(second)
            assert [(thing.colour_at(second), thing.shape) for thing in part.things_at(second)] == [
                (thing.colour_at(second), thing.shape) for thing in scene.things_at(second)
            ]
        assert scene.clip(0, 200) == scene


def test_an_hour_is_made_and_looked_up_quickly() -> None:
    began = time.process_time()
    scene = make_long_scene(1, 3600)
    for second in scene.seconds:
        scene.things_at(second)
        scene.shot_at(second)
    scene.clip(1000, 1600)
    assert time.process_time() - began < 3  # 0.3 s on one core that does nothing else


def test_frames_of_a_long_scene_are_drawn_one_by_one() -> None:
    scene = make_long_scene(2, 20)
    assert np.array_equal(render(scene, [3.0, 17.0])[1], render(scene, [17.0])[0])
    assert encoded_frames(scene, size=16, video_size=32).shape == (20, 16, 16, 3)


@pytest.mark.parametrize("seconds", [0, MIN_LONG_SECONDS - 1, MAX_LONG_SECONDS + 1])
def test_other_lengths_are_refused(seconds: int) -> None:
    with pytest.raises(UserError, match=f"{seconds} seconds .*expected 15 to 7200"):
        make_long_scene(0, seconds)
