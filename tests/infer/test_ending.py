"""Stop strings end a text wherever its pieces part; loops are told from lists."""

import pytest

from ringvision.infer.ending import StopStrings, repeats


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("red circle. USER: why", ["USER:"], "red circle. "),
        ("red circle", ["USER:"], "red circle"),
        ("a US", ["USER:"], "a US"),
        ("aab", ["ab"], "a"),
        ("one, two", ["two", "one"], ""),
        ("one", [], "one"),
        ("one", [""], "one"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_text_ends_before_the_first_stop_string(
    text: str, stops: list[str], expected: str, size: int
) -> None:
    stop = StopStrings(stops)
    said = "".join(stop.push(text[at : at + size]) for at in range(0, len(text), size)) + stop.finish()
    assert said == expected
    assert stop.found == (expected != text)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stop = StopStrings(["END"])
    assert [stop.push(piece) for piece in ("a E", "N", "x", "EN", "D b", "c")] == [
        "a ",
        "",
        "ENx",
        "",
        "",
        "",
    ]
    assert stop.finish() == ""


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2] + [7] * 12, True),
        ([1, 2] + [7] * 11, False),
        ([9] + [1, 2, 3] * 5, True),
        (list(range(8)) * 4, True),
        (list(range(8)) * 2, False),
        ([7] * 12 + [1] + [7] * 12 + [2, 7, 7], True),
        (list(range(40)) + [7] * 9, False),
        ([1, 2, 3, 4, 1, 2, 5, 4, 1, 2, 6, 4, 1, 2, 7, 4, 1, 2, 8, 4], False),
        ([], False),
    ],
)
def test_a_loop_is_the_same_again_and_again_at_the_end(tokens: list[int], expected: bool) -> None:
    assert repeats(tokens) == expected
