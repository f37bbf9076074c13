"""Tokens back to what people can look at: words, with what counts in the loss marked, and the frames' codes.

bos <vision> c c c c eof c c c c eov </vision> USER: what? ASSISTANT: this eos
  --words-->   "<s>[video of 2 frames]USER: what? ASSISTANT:« this</s>»"
  --frames-->  codes int32 [2, 2, 2]
"""

import math
from collections.abc import Iterator

import numpy as np

from ringvision.data.stream import Example, PromptProcessor

OPEN = "«"
CLOSE = "»"
LONGEST = 1200
"""Characters of a transcript; of a longer one the beginning and the end are given."""


def words(processor: PromptProcessor, example: Example) -> str:
    """What an example says, for people.

    Args:
        processor: what made it.
        example: its tokens int32 [n] and loss_mask float32 [n].

    Returns:
        Text in which « and » enclose what is predicted and counts, and a video is named in brackets.
    """
    pieces = []
    marked = False
    for counts, text in _parts(processor, example):
        if counts != marked:
            pieces.append(OPEN if counts else CLOSE)
        marked = counts
        pieces.append(text)
    whole = "".join([*pieces, CLOSE * marked])
    left_out = len(whole) - LONGEST
    if left_out <= 0:
        return whole
    half = LONGEST // 2
    return f"{whole[:half]} [{left_out} characters] {whole[-half:]}"


def frames(processor: PromptProcessor, tokens: np.ndarray, grid: tuple[int, int] | None) -> np.ndarray | None:
    """The codes of all frames in a stream of tokens.

    Args:
        processor: what made them.
        tokens: int32 [n].
        grid: (h, w) of a frame's codes; None: frames are squares between eof and eov.

    Returns:
        int32 [T, h, w]; None where there is no frame, or frames are no such grid.
    """
    vocabulary = processor.vocabulary
    vision = tokens[vocabulary.is_vision(tokens)]
    is_code = vision < vocabulary.eof
    codes = vision[is_code] - vocabulary.code_offset
    if grid is None:
        ends = np.flatnonzero(~is_code)
        side = math.isqrt(int(ends[0])) if len(ends) else 0
        grid = side, side
    size = grid[0] * grid[1]
    if not len(codes) or not size or len(codes) % size:
        return None
    return codes.reshape(-1, *grid).astype(np.int32)


def _parts(processor: PromptProcessor, example: Example) -> Iterator[tuple[bool, str]]:
    """Whether each part of an example counts in the loss, and what it says."""
    tokens = example.tokens.tolist()
    counts = (example.loss_mask > 0).tolist()
    start = 0
    while start < len(tokens):
        stop = _end_of_video(processor, tokens, start)
        if stop > start:
            yield any(counts[start:stop]), _video(processor, example.tokens[start:stop])
            start = stop
            continue
        stop = start + 1
        while (
            stop < len(tokens)
            and counts[stop] == counts[start]
            and _end_of_video(processor, tokens, stop) == stop
        ):
            stop += 1
        yield counts[start], _said(processor, tokens[start:stop])
        start = stop


def _end_of_video(processor: PromptProcessor, tokens: list[int], start: int) -> int:
    """Where the video ends that begins at `start` with its marker; `start` where none does."""
    opening = list(processor.vocabulary.vision_start)
    closing = list(processor.vocabulary.vision_end)
    if not opening or tokens[start : start + len(opening)] != opening:
        return start
    for stop in range(start + len(opening), len(tokens) + 1 - len(closing)):
        if tokens[stop : stop + len(closing)] == closing:
            return stop + len(closing)
    return len(tokens)


def _video(processor: PromptProcessor, tokens: np.ndarray) -> str:
    vocabulary = processor.vocabulary
    ends = int(((tokens == vocabulary.eof) | (tokens == vocabulary.eov)).sum())
    count = ends or 1  # a picture of its own has neither
    return f"[video of {count} frame{'s' * (count != 1)}]"


def _said(processor: PromptProcessor, tokens: list[int]) -> str:
    """Text, special tokens by their names."""
    text = processor.text
    vocabulary = processor.vocabulary
    names = {vocabulary.bos: "<bos>", vocabulary.eos: "<eos>"} | {
        id: name for name, id in text.specials.items()
    }
    surfaces = (names[token].encode() if token in names else text.surface(token) for token in tokens)
    return b"".join(surfaces).decode("utf-8", errors="replace")
