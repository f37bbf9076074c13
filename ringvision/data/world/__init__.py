"""A small world that draws its own videos and knows the answers to questions about them.

A seed becomes a `Scene` (what is shown and when), a scene becomes frames or an H.264 file, and the same scene
becomes questions with answers. Training draws seeds below `HELD_OUT`, evaluation draws them from there on, so
that no scene is ever on both sides.
"""

from ringvision.data.world.draw import render
from ringvision.data.world.questions import AUXILIARY, KINDS, Question, chance, questions
from ringvision.data.world.scene import (
    COLOURS,
    DIGITS,
    DIRECTIONS,
    HELD_OUT,
    SHAPES,
    Card,
    Scene,
    Shot,
    Thing,
    make_scene,
)
from ringvision.data.world.video import encoded_frames, write_video

__all__ = [
    "AUXILIARY", "COLOURS", "DIGITS", "DIRECTIONS", "HELD_OUT", "KINDS", "SHAPES",
    "Card", "Question", "Scene", "Shot", "Thing",
    "chance", "encoded_frames", "make_scene", "questions", "render", "write_video",
]  # fmt: skip
