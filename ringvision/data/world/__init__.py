"""Synthetic videos of a small world of coloured shapes, with questions whose answers are known.

    scene.py        a seed -> a `Scene`: what is shown, and when
    draw.py         a scene -> frames
    video.py        a scene -> an H.264 file, or the frames that a reader of such a file gets
    questions.py    a scene -> questions and answers
    long_scene.py   a seed and a length -> a scene of up to two hours
    long_questions.py   such a scene, or a part of it -> questions and answers

Training uses seeds below `HELD_OUT` and evaluation those from there on, so that no scene is in both.
"""

from ringvision.data.times import time_words
from ringvision.data.world.draw import render
from ringvision.data.world.examples import example_questions
from ringvision.data.world.long_questions import LONG_KINDS, NO_CARD, long_chance, long_questions
from ringvision.data.world.long_scene import (
    MAX_LONG_SECONDS,
    MIN_LONG_SECONDS,
    make_long_scene,
    one_second_card,
)
from ringvision.data.world.questions import (
    AUXILIARY,
    KINDS,
    Question,
    chance,
    questions,
    read_time,
    retimed,
)
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
    "AUXILIARY", "COLOURS", "DIGITS", "DIRECTIONS", "HELD_OUT", "KINDS", "LONG_KINDS", "MAX_LONG_SECONDS",
    "MIN_LONG_SECONDS", "MORE_COLOURS", "NO_CARD", "OTHER", "SHAPES",
    "Card", "Question", "Scene", "Shot", "Thing",
    "chance", "encoded_frames", "example_questions", "long_chance", "long_questions", "make_long_scene",
    "make_scene", "one_second_card", "questions", "read_time", "render", "retimed", "time_words",
    "with_more_colours", "write_video",
]  # fmt: skip
