"""Questions about long videos have one right answer, and the question alone does not give it away."""

import re
from collections import Counter, defaultdict

import pytest

from ringvision import shipped
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.world import (
    HELD_OUT,
    LONG_KINDS,
    NO_CARD,
    Question,
    Scene,
    long_chance,
    long_questions,
    make_long_scene,
    read_time,
    time_words,
)
from ringvision.data.world.long_questions import OVER

TIME = r"(\d+ minutes? \d+ seconds?|\d+ minutes?|\d+ seconds?)"
LENGTHS = (15, 40, 300, 1000)


@pytest.fixture(scope="module")
def asked() -> dict[str, list[tuple[Scene, Question]]]:
    found = defaultdict(list)
    for seconds in LENGTHS:
        for seed in range(HELD_OUT, HELD_OUT + (120 if seconds < 300 else 60 if seconds < 900 else 20)):
            scene = make_long_scene(seed, seconds)
            for question in long_questions(scene):
                found[question.kind].append((scene, question))
    return found


def seen(scene: Scene, second: int) -> list[tuple[str, str, object]]:
    """(colour, shape, thing) of what is visible."""
    return [(thing.colour_at(second), thing.shape, thing) for thing in scene.things_at(second)]


def time_in(text: str) -> int | None:
    found = re.search(f" at {TIME}\\?", text)
    return read_time(found[1]) if found else None


def test_about_a_dozen_questions_of_all_kinds_are_asked_whatever_the_length(asked) -> None:
    assert set(asked) == set(LONG_KINDS)
    for seconds in (15, 60, 900):
        counts = [len(long_questions(make_long_scene(seed, seconds))) for seed in range(20)]
        assert min(counts) >= 7 and 10 < sum(counts) / len(counts) < 20


def test_the_same_scene_asks_the_same() -> None:
    assert long_questions(make_long_scene(3, 300)) == long_questions(make_long_scene(3, 300))


def test_looks_ask_more_about_times_and_nothing_else() -> None:
    scene = make_long_scene(HELD_OUT + 5, 300)
    once, often = (Counter(one.kind for one in long_questions(scene, looks=looks)) for looks in (1, 4))
    assert all(often[kind] > once[kind] for kind in ("colour", "shape", "direction", "count"))
    assert often["change"] >= once["change"] and often["count"] <= 4
    looked = ("colour", "shape", "direction", "change", "count")
    assert all(often[kind] == once[kind] for kind in LONG_KINDS if kind not in looked)
    asked = [one.text for one in long_questions(scene, looks=4)]
    assert len(set(asked)) == len(asked)


def test_no_question_is_asked_twice(asked) -> None:
    texts = Counter((id(scene), question.text) for found in asked.values() for scene, question in found)
    assert max(texts.values()) == 1


def test_cards_are_asked_about_by_names_that_fit_one(asked) -> None:
    for kind in ("needle", "no_card", "when", "absent"):
        for scene, question in asked[kind]:
            if question.answer == OVER:
                continue
            colour = re.search(r"the (\w+) card", question.text)
            fitting = [card for card in scene.cards if not colour or card.colour == colour[1]]
            if kind in ("no_card", "absent"):
                assert not fitting and question.answer == NO_CARD
            else:
                (card,) = fitting
                shown = [second for second in scene.seconds if card.visible(second)]
                right = str(card.digit) if kind == "needle" else time_words(shown[0])
                assert question.answer == right


def test_order_and_number_of_cards(asked) -> None:
    for scene, question in asked["order"]:
        colours = [card.colour for card in sorted(scene.cards, key=lambda card: card.appears)]
        named = re.findall(r"the (\w+) card", question.text)
        assert question.answer == f"the {min(named, key=colours.index)} card"
    first = [q.text.index(q.answer) < q.text.index(" or ") for _, q in asked["order"]]
    assert 0.4 < sum(first) / len(first) < 0.6
    for scene, question in asked["how_many_cards"]:
        assert question.answer == str(len(scene.cards))
    assert {question.answer for _, question in asked["how_many_cards"]} == set("0123456")


def test_times_beyond_the_end_are_over(asked) -> None:
    beyond = [(scene, question) for scene, question in asked["absent"] if question.answer == OVER]
    assert len(beyond) > 50
    assert all(time_in(question.text) > scene.duration for scene, question in beyond)


def test_glances_and_counts_are_what_is_visible(asked) -> None:
    for scene, question in asked["glance"]:
        second = time_in(question.text)
        card = next((card for card in scene.cards if card.visible(second)), None)
        things = ", ".join(f"{colour} {shape}" for colour, shape, _ in seen(scene, second))
        right = f"a {card.colour} card with a {card.digit}" if card else things or "nothing"
        assert question.answer == right and question.answer.count(",") <= 1
    for scene, question in asked["count"]:
        assert question.answer == str(len(seen(scene, time_in(question.text))))


def test_what_is_asked_of_a_thing_fits_one_alone(asked) -> None:
    with_time = Counter()
    for kind in ("colour", "shape", "direction", "change"):
        for scene, question in asked[kind]:
            second = time_in(question.text)
            with_time[kind, second is not None] += 1
            words = question.text.split()
            name = words[words.index("the") + 1 :]
            before = second - 1 if second is not None and kind == "change" else second
            shown = (
                [row for s in scene.seconds for row in seen(scene, s)]
                if before is None
                else seen(scene, before)
            )
            fitting = {
                "colour": lambda row, name=name: row[1] == name[0].strip("?"),
                "shape": lambda row, name=name: row[0] == name[0],
                "direction": lambda row, name=name: [row[0], row[1]] == name[:2],
                "change": lambda row, name=name: [row[0], row[1]] == name[:2],
            }[kind]
            things = {id(row[2]): row for row in shown if fitting(row)}
            ((colour, shape, thing),) = things.values()
            right = {
                "colour": colour,
                "shape": shape,
                "direction": thing.direction,
                "change": thing.later_colour,
            }[kind]
            assert question.answer == right
            if kind == "direction" and second is not None:
                places = [thing.centre(near) for near in (second - 1, second, second + 1)]
                assert len(set(places)) == 3 and thing.visible(second - 1) and thing.visible(second + 1)
            if kind == "change" and second is not None:
                assert thing.visible(second) and thing.colour_at(second) == right != thing.colour
    assert all(with_time[kind, True] > 50 for kind in ("colour", "shape", "direction", "change"))
    assert all(with_time[kind, False] > 20 for kind in ("colour", "shape", "direction", "change"))


def test_answers_of_a_kind_are_spread(asked) -> None:
    for kind in ("needle", "glance", "colour", "shape", "direction", "change", "count", "order"):
        counts = Counter(question.answer for _, question in asked[kind])
        best = counts.most_common(1)[0][1] / counts.total()
        assert best < max(1.6 * long_chance(kind, 60), long_chance(kind, 60) + 0.12), (kind, counts)


def test_chance() -> None:
    assert long_chance("needle", 60) == long_chance("no_card", 3600) == 1 / 11
    assert long_chance("when", 3600) == 1 / 3601
    assert all(0 < long_chance(kind, 15) <= 0.5 for kind in LONG_KINDS)


def test_a_part_asks_about_what_it_shows_in_times_of_the_whole() -> None:
    for seed in range(30):
        part = make_long_scene(seed, 300).clip(100, 60)
        for question in long_questions(part):
            second = time_in(question.text)
            if second is not None and question.answer != OVER:
                assert second in part.seconds
            if question.kind == "when":
                assert read_time(question.answer) in part.seconds
            if question.kind == "needle":
                assert question.answer in {str(card.digit) for card in part.cards}
            if question.answer == OVER:
                assert second > 160


@pytest.mark.parametrize(
    ("second", "words"),
    [(0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (61, "1 minute 1 second"),
     (720, "12 minutes"), (725, "12 minutes 5 seconds"), (7199, "119 minutes 59 seconds")],
)  # fmt: skip
def test_times_are_said_and_read(second: int, words: str) -> None:
    assert time_words(second) == words and read_time(words) == second


@pytest.mark.parametrize("words", ["", "no card", "12", "5 seconds 3 minutes", "minutes", "5 seconds ago"])
def test_what_is_no_time_is_not_read(words: str) -> None:
    assert read_time(words) is None


def test_the_shipped_model_can_write_them(asked) -> None:
    """Its text tokenizer spends no bytes on them, and one piece on each number up to 59."""
    text = load_text_tokenizer(shipped.model())
    for number in range(60):
        assert len(text.encode(str(number))) == 1
    for found in asked.values():
        for _, question in found[:50]:
            for words in (question.text, question.answer):
                assert text.decode(text.encode(" " + words)).strip() == words
                assert len(text.encode(words)) <= 26
