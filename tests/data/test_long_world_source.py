"""Long videos that are put together from short ones: their codes, times and questions belong together."""

import re
from itertools import pairwise

import numpy as np
import pytest

from ringvision.data.sources import LongWorldData, LongWorldVideos, VideoExamples, WorldVideos
from ringvision.data.world import LONG_KINDS, make_scene, read_time


@pytest.fixture(scope="module")
def videos(world: WorldVideos) -> LongWorldVideos:
    return LongWorldVideos(LongWorldData(folder=world.name, shortest=20, longest=60))


def test_lengths_are_within_bounds_and_differ(videos):
    assert len(videos) == len(videos.lengths) == 100_000
    assert (videos.lengths.min(), videos.lengths.max()) == (20, 60)
    assert np.median(videos.lengths) == pytest.approx(np.sqrt(20 * 60), rel=0.05)  # even in the logarithm


@pytest.mark.parametrize("index", range(12))
def test_codes_are_those_of_frames_that_show_what_is_asked(videos, world, index):
    """Each frame is found again among the short videos', whose scenes say what it shows."""
    codes, times = videos.video(index)
    count = int(videos.lengths[index])
    assert codes.shape == (count, 2, 2)
    np.testing.assert_array_equal(times, times[0] + np.arange(count))
    shows: dict[bytes, set[str]] = {}
    for number in range(len(world)):
        scene = make_scene(number)
        for second, frame in enumerate(world.video(number)[0]):
            card = scene.card_at(second)
            names = [f"{thing.colour_at(second)} {thing.shape}" for thing in scene.things_at(second)]
            said = f"a {card.colour} card with a {card.digit}" if card else ", ".join(names) or "nothing"
            shows.setdefault(frame.tobytes(), set()).add(said)
    asked = videos.questions(index, 0, count)
    glances = [one for one in asked if one.kind == "glance"]
    assert glances
    for one in glances:
        words = one.question.removeprefix("What was there at ").removesuffix("?").split()
        numbers = dict(zip(words[1::2], map(int, words[::2])))
        second = sum(
            number * (60 if unit.startswith("minute") else 1) for unit, number in numbers.items()
        ) - int(times[0])
        assert one.answer in shows[codes[second].tobytes()]


def test_all_kinds_are_asked_and_the_same_video_comes_again(videos):
    asked = [videos.questions(index, 0, int(videos.lengths[index])) for index in range(60)]
    assert {one.kind for some in asked for one in some} == set(LONG_KINDS)
    again = LongWorldVideos(videos._config)
    assert again.questions(7, 0, int(again.lengths[7])) == asked[7]
    np.testing.assert_array_equal(again.video(7)[0], videos.video(7)[0])


def test_half_of_them_begin_later_within_an_hour(videos):
    begins = np.array([videos.video(index)[1][0] for index in range(100)])
    assert 30 < (begins == 0).sum() < 70
    ends = [videos.video(index)[1][-1] for index in range(100)]
    assert max(ends) < 3600 and np.median(begins[begins > 0]) > 600


@pytest.fixture(scope="module")
def leaping(world: WorldVideos) -> LongWorldVideos:
    return LongWorldVideos(LongWorldData(folder=world.name, shortest=20, longest=60, leaps=1.0))


def test_leaps_spread_the_parts_over_an_hour(leaping):
    times = [leaping.video(index)[1] for index in range(40)]
    assert all((np.diff(some) >= 1).all() and some[-1] < 3600 for some in times)
    assert np.median([some[-1] - some[0] for some in times]) > 1200
    for index, some in enumerate(times):
        starts = np.cumsum([part.shown for part in leaping._plan(index)[1]])[:-1]
        leapt = 1 + np.flatnonzero(np.diff(some) > 1)
        assert set(leapt) <= set(starts)  # time leaps between parts alone


def test_short_parts_and_many_glances(world):
    config = LongWorldData(
        folder=world.name, shortest=12, longest=24, longest_part=3, glances=9, whens=5, looks=4,
        seconds_a_card=3,
    )  # fmt: skip
    videos = LongWorldVideos(config)
    parts = [part for index in range(20) for part in videos._plan(index)[1]]
    assert {part.frames for part in parts if not part.quiet} == {1, 2, 3}
    asked = [videos.questions(index, 0, int(videos.lengths[index])) for index in range(20)]
    glances = [[one.question for one in some if one.kind == "glance"] for some in asked]
    assert max(map(len, glances)) == 9
    assert all(len(set(some)) == len(some) for some in glances)
    assert max(sum(one.kind == "when" for one in some) for some in asked) == 5
    assert max(sum(one.kind == "count" for one in some) for some in asked) == 4


def test_parts_at_the_same_second_of_different_minutes(world):
    config = LongWorldData(
        folder=world.name, shortest=20, longest=30, leaps=1.0, same_second=1.0, longest_part=4
    )
    videos = LongWorldVideos(config)
    for index in range(20):
        times = videos.video(index)[1].astype(int)
        starts = times[np.cumsum([0, *(part.shown for part in videos._plan(index)[1])])[:-1]]
        assert len(set(starts % 60)) == 1 and len(set(starts // 60)) == len(starts)
        assert (np.diff(times) >= 1).all() and times[-1] < 3600


@pytest.mark.parametrize("index", range(6))
def test_times_in_questions_are_those_at_which_it_is_shown(leaping, index):
    """Each second that is asked about is one of the video's, or after its end, which the answer then says."""
    times = leaping.video(index)[1].astype(int)
    for one in leaping.questions(index, 0, len(times)):
        if " at " in one.question:
            second = read_time(one.question.removesuffix("?").split(" at ")[1])
            assert (second in times) != (one.answer == "the video was over" and second > times[-1])
        if one.kind == "when":
            assert read_time(one.answer) in times


def test_cards_stand_apart(videos):
    for index in range(60):
        _, parts = videos._plan(index)
        are_cards = [
            not part.quiet and make_scene(part.video).card_at(part.first) is not None for part in parts
        ]
        assert not any(one and other for one, other in pairwise(are_cards))


def test_a_part_of_a_video_has_questions_about_itself(videos):
    asked = videos.questions(3, 4, 9)
    assert asked and asked != videos.questions(3, 0, int(videos.lengths[3]))


def test_they_are_examples_like_others(videos, processor):
    config = LongWorldData(folder=videos._short.name, shortest=20, longest=60, turns_min=4, turns_max=4)
    examples = VideoExamples(config.open_videos(), processor, config, 512)
    made = examples.example(5, np.random.default_rng(0), 0)
    assert len(made.answers) == 4 and made.loss_mask.sum() == pytest.approx(4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"longest_part": 0}, "longest_part is 0"),
        ({"whens": -1}, "whens is -1"),
        ({"seconds_a_card": 0}, "seconds_a_card is 0"),
        ({"looks": 0}, "looks is 0"),
        ({"glances": -1}, "glances is -1"),
        ({"same_second": -0.1}, r"same_second is -0\.1, expected a share"),
        ({"leaps": 1.5}, r"leaps is 1\.5, expected a share"),
        ({"shortest": 1}, "shortest is 1"),
        ({"longest": 3601}, r"longest is 3601, expected shortest \(15\) to 3600"),
        ({"shortest": 200}, "longest is 100"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_be(values, said):
    problems = LongWorldData(folder="there", **values).problems()
    assert len(problems) == 1 and re.search(said, problems[0])
