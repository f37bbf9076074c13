"""Parts of scenes, joined, show at every second what the scenes showed."""

import numpy as np
import pytest

from ringvision.data.world import make_scene
from ringvision.data.world.joined_scene import Part, joined_scene


def parts_of(seed: int) -> list[Part]:
    """Random parts of scenes, and quiet ones between."""
    random = np.random.default_rng(seed)
    parts = []
    for number in range(12):
        scene = make_scene(100 * seed + number)
        first = int(random.integers(len(scene.seconds)))
        parts.append(Part(scene, first, int(random.integers(1, len(scene.seconds) - first + 1))))
        parts.append(Part(None, 0, int(random.integers(1, 4))))
    return parts


def seen(scene, second):
    """What is there: the card, or the things' names and places."""
    card = scene.card_at(second)
    if card is not None:
        return card.digit, card.colour
    return [
        (thing.colour_at(second), thing.shape, *np.round(thing.centre(second), 6))
        for thing in scene.things_at(second)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_every_second_shows_what_it_showed(seed):
    parts = parts_of(seed)
    joined = joined_scene(seed, parts)
    assert joined.seconds == range(sum(part.seconds for part in parts))
    at = 0
    for part in parts:
        for second in range(part.seconds):
            there = [] if part.scene is None else seen(part.scene, part.first + second)
            assert seen(joined, at + second) == there
        at += part.seconds


def test_what_a_part_begins_or_ends_with_appears_and_leaves_there():
    scene = next(
        scene
        for scene in map(make_scene, range(100))
        if any(thing.leaves - thing.appears > 4 and thing.direction for thing in scene.things)
    )
    thing = next(one for one in scene.things if one.leaves - one.appears > 4 and one.direction)
    first = int(np.ceil(thing.appears)) + 1
    joined = joined_scene(0, [Part(None, 0, 3), Part(scene, first, 2), Part(None, 0, 2)])
    (same,) = [one for one in joined.things if one.shape == thing.shape and one.colour == thing.colour]
    assert [second for second in joined.seconds if same.visible(second)] == [3, 4]
    assert joined.first_seen(same) == 3
