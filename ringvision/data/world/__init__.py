"""Synthetic videos of a small world of coloured shapes, with questions whose answers are known.

    scene.py        a seed -> a `Scene`: what is shown, and when
    draw.py         a scene -> frames
    video.py        a scene -> an H.264 file, or the frames that a reader of such a file gets
    questions.py    a scene -> questions and answers

Training uses seeds below `HELD_OUT` and evaluation those from there on, so that no scene is in both.
"""

from ringvision.data.world.draw import render
from ringvision.data.world.questions import AUXILIARY, KINDS, Question, chance, questions
from ringvision.data.world.scene import (
    COLOURS,
    DIGITS,
    DIRECTIONS,
    HELD_OUT,
    MORE_COLOURS,
    OTHER,
    SHAPES,
    Card,
    Scene,
    Shot,
    Thing,
    make_scene,
    with_more_colours,
)
from ringvision.data.world.video import encoded_frames, write_video

__all__ = [
    "AUXILIARY", "COLOURS", "DIGITS", "DIRECTIONS", "HELD_OUT", "KINDS", "MORE_COLOURS", "OTHER", "SHAPES",
    "Card", "Question", "Scene", "Shot", "Thing",
    "chance", "encoded_frames", "make_scene", "questions", "render", "with_more_colours", "write_video",
]  # fmt: skip
