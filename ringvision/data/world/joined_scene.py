"""Parts of scenes, one after another, as one scene: what a long video shows that was put together from short
ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ringvision.data.world.scene import Card, Scene, Thing


class Part(NamedTuple):
    """The whole seconds `first` to `first + seconds - 1` of a scene; of None: so many in which nothing is
    shown.
    """

    scene: Scene | None
    first: int
    seconds: int


def joined_scene(seed: int, parts: Sequence[Part]) -> Scene:
    """The parts in order, as one scene without shots: it can be asked about and not drawn.

    Args:
        seed: of the scene, which decides what is asked.
        parts: of at least a second in all.

    Returns:
        The scene. What is seen in a part's first second appears in it, and what is seen in its last one
        leaves with it.
    """
    things: list[Thing] = []
    cards: list[Card] = []
    at = 0
    for part in parts:
        if part.scene is not None:
            clip = part.scene.clip(part.first, part.seconds)
            later = at - part.first
            things += [_moved(_within(thing, part), later) for thing in clip.things]
            cards += [
                replace(
                    card,
                    appears=max(card.appears, part.first - 0.5) + later,
                    leaves=min(card.leaves, part.first + part.seconds - 0.5) + later,
                )
                for card in clip.cards
            ]
        at += part.seconds
    return Scene(seed, float(at), (), tuple(things), tuple(cards))


def _within(thing: Thing, part: Part) -> Thing:
    """The thing as the part shows it; where it was there before, it sets out from where it then is."""
    leaves = min(thing.leaves, part.first + part.seconds - 0.5)
    if thing.appears > part.first - 1:
        return replace(thing, leaves=leaves)
    return replace(thing, start=thing.centre(part.first), appears=part.first - 0.5, leaves=leaves)


def _moved(thing: Thing, later: int) -> Thing:
    """The thing so many seconds later."""
    changes = None if thing.changes is None else thing.changes + later
    return replace(thing, appears=thing.appears + later, leaves=thing.leaves + later, changes=changes)
