"""Which seconds an answer attended to.

    Prefix, question, answer ─attended_frames→ shares [layers, N, 2, frames] ─frame_weights→ [frames]
                                                                             ─find_spans→ Span, Span, …

When an answer is complete, its question and its tokens are read once more behind the prefix, and every head
says how much of its attention is on each frame: that of the tokens from which the answer was predicted, and
beside it that of the question's own tokens. What the answer attends to no more than the question did is of no
account: a head that looks at the first or the last frame whatever is asked would otherwise hide the few that
look something up. What is left is squared, so that a head that looks at one frame counts more than one that
looks at all, and added up over all heads of all layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from ringvision.data.stream import PromptProcessor
from ringvision.infer.engine import Engine, Prefix
from ringvision.models.cache import Cache
from ringvision.models.transformer import Transformer
from ringvision.video_tokenizer import VideoTokenizer
from ringvision.vocabulary import Vocabulary

FEWEST_GROUPS = 64
"""Numbers of frames are rounded up to this times a power of two, so that another video compiles nothing."""
LEAST = 0.25
"""Of the weight of the heaviest frame: what a frame of a span weighs at least."""
ENOUGH = 0.5
"""Of all weight: when the spans hold so much, there are no more of them."""
MOST_SPANS = 3


class Span(NamedTuple):
    """A stretch of a video, in seconds, and which one of several it is, from 0 on."""

    start: float
    end: float
    video: int = 0


@dataclass(frozen=True)
class Evidence:
    """What an answer attended to: its frames, float64 [n] each but video int [n]. start, end: when a frame is
    shown, in seconds of its video; video: of which one, from 0 on; weights: how much it was attended to, 1
    over all frames, or all 0 where the answer looked at nothing that the question had not.
    """

    start: np.ndarray
    end: np.ndarray
    video: np.ndarray
    weights: np.ndarray

    @property
    def spans(self) -> list[Span]:
        """The few stretches that hold most of the weight, the heaviest first.

        A stretch is one or more neighbouring frames, each of at least LEAST of the heaviest frame's weight.
        The heaviest stretches are taken until they hold ENOUGH of all weight, and MOST_SPANS at most.
        """
        if not self.weights.any():
            return []
        heavy = self.weights >= LEAST * self.weights.max()
        # a number for every run of frames that are alike in this and of one video
        changes = (heavy[1:] != heavy[:-1]) | (self.video[1:] != self.video[:-1])
        run = np.append(0, np.cumsum(changes))
        found = []
        for number in np.unique(run[heavy]).tolist():
            frames = np.flatnonzero(run == number)
            first = frames[0]
            span = Span(float(self.start[first]), float(self.end[frames[-1]]), int(self.video[first]))
            found.append((float(self.weights[frames].sum()), span))
        found.sort(key=lambda one: -one[0])
        held = np.cumsum([weight for weight, _ in found])
        enough = int(np.searchsorted(held, ENOUGH)) + 1
        return [span for _, span in found[: min(enough, MOST_SPANS)]]


@dataclass(frozen=True)
class Viewing:
    """What an answer could attend to: a prefix with videos in it, and a question behind that.

    engine: that read the prefix. prompts, tokenizer: by which videos became tokens. asked: int32 [n], what
    stands between the prefix and the answer. times: of so many frames of a video when each begins and ends to
    be shown, float64 [n] in seconds.
    """

    engine: Engine
    prompts: PromptProcessor
    tokenizer: VideoTokenizer
    prefix: Prefix
    asked: np.ndarray
    times: Callable[[int], tuple[np.ndarray, np.ndarray]]

    def evidence(self, answer: Sequence[int]) -> Evidence:
        """What an answer attended to. answer: its tokens; without the eos, where it has others: where that
        is predicted, the model has ended looking.
        """
        words = [token for token in answer if token != self.prompts.vocabulary.eos] or answer
        frame_of, video = frames_of_tokens(self.prefix.tokens, self.prompts, self.tokenizer.grid)
        shares = attended_frames(self.engine, self.prefix, self.asked, words, frame_of)
        shown = [self.times(count) for count in np.bincount(video).tolist()]
        start = np.concatenate([begins for begins, _ in shown])
        end = np.concatenate([ends for _, ends in shown])
        return Evidence(start, end, video, frame_weights(shares))

    def pictures(self, frames: Sequence[int]) -> np.ndarray:
        """The numbers of some frames, from 0 on over all videos -> uint8 [n, H, W, 3], what their codes say:
        as the model saw them. UserError where the tokenizer cannot decode.
        """
        tokens = self.prefix.tokens
        vocabulary = self.prompts.vocabulary
        codes = vocabulary.tokens_to_codes(tokens[_is_code(tokens, vocabulary)])
        return self.tokenizer.decode(codes.reshape(-1, *self.tokenizer.grid)[list(frames)], np.uint8)


def frame_weights(shares: np.ndarray) -> np.ndarray:
    """How much an answer attended to each frame.

    shares: float32 [layers, N, 2, frames], what `attended_frames` gave -> float64 [frames], of sum 1, or
    zeros: the squares of what each head of each layer attends to more than it did for the question, added up.
    """
    answer, question = np.moveaxis(shares.astype(np.float64), 2, 0)  # (layers, N, frames)
    weights = (np.maximum(answer - question, 0) ** 2).sum((0, 1))
    return weights / (weights.sum() or 1.0)


def attended_frames(
    engine: Engine, prefix: Prefix, asked: np.ndarray, answer: Sequence[int], frame_of: np.ndarray
) -> np.ndarray:
    """How much of the attention of an answer and of its question is on each frame, head by head.

    Args:
        engine: that read the prefix and gave the answer.
        prefix: with the video in it.
        asked: int32 [n], what stands between the prefix and the answer.
        answer: its tokens, at least one.
        frame_of: int32 [len(prefix)], the number of each token's frame; -1: of none.

    Returns:
        float32 [layers, N, 2, frames]: means of the attention probabilities on the tokens of each frame; over
        the tokens from which those of the answer were predicted, and over the others of the question.
    """
    frames = int(frame_of.max()) + 1
    groups = FEWEST_GROUPS
    while groups < frames:
        groups *= 2
    read = np.concatenate([asked, np.asarray(answer[:-1], np.int32)])
    block = next((size for size in reversed(engine.row_blocks) if size >= len(read)), engine.row_blocks[0])
    length = -(-len(read) // block) * block
    tokens, positions, segment_ids = np.zeros((3, engine.shares, length), np.int32)
    tokens[:, : len(read)] = read
    positions[:, : len(read)] = len(prefix) + np.arange(len(read))
    segment_ids[:, : len(read)] = 1
    weights = np.zeros((engine.shares, 2, length), np.float32)
    before = len(asked) - 1  # the last token of the question predicts the first one of the answer
    weights[:, 0, before : len(read)] = 1 / (len(read) - before)
    weights[:, 1, :before] = 1 / max(1, before)
    of_position = np.full(prefix.cache.length, -1, np.int32)
    of_position[: len(frame_of)] = frame_of
    compute = engine.of_cache(
        _attended,
        "w",
        donate=False,
        graphdef=engine.model.graphdef,
        mesh=engine.model.mesh,
        num_groups=groups,
    )
    inputs = {
        "tokens": tokens,
        "positions": positions,
        "segment_ids": segment_ids,
        "weights": weights,
        "groups": of_position,
        "shared": np.array(len(prefix), np.int32),
    }
    placed = {name: engine.everywhere(value) for name, value in inputs.items()}
    with engine.lock:
        found = compute(engine.model.params, prefix=prefix.cache, **placed)
    return np.asarray(found)[..., :frames]


def _attended(
    params: Any,
    *,
    prefix: Cache,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    weights: jax.Array,
    groups: jax.Array,
    shared: jax.Array,
    graphdef: Any,
    mesh: Mesh,
    num_groups: int,
) -> jax.Array:
    """See `attended_frames`; rows are alike -> float32 [layers, N, 2, num_groups] of the first."""
    model: Transformer = nnx.merge(graphdef, params)
    shares = model.attended(
        tokens, positions, segment_ids, weights, prefix, groups, num_groups, mesh=mesh, shared=shared
    )
    return shares[:, 0]


def frames_of_tokens(
    tokens: np.ndarray, prompts: PromptProcessor, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Which frame each token belongs to; a frame's time stamp and its end belong to it.

    Args:
        tokens: int32 [n], of a prefix.
        prompts: which made them.
        grid: (h, w) of a frame's codes.

    Returns:
        int32 [n], the number of each token's frame, from 0 on over all videos, -1 for none; int [frames], of
        which video each is. Where every frame is a picture of its own, all are of one.
    """
    vocabulary = prompts.vocabulary
    codes = np.flatnonzero(_is_code(tokens, vocabulary))
    by_frame = codes.reshape(-1, grid[0] * grid[1])  # (frames, codes)
    frame_of = np.full(len(tokens), -1, np.int32)
    video = np.searchsorted(np.flatnonzero(tokens == vocabulary.eov), by_frame[:, 0])
    if prompts.format.picture:
        video = np.zeros_like(video)
    before = len(prompts.before(grid, 0.0))
    after = len(prompts.row_end) + len(prompts.after(0.0, last=False))
    end = 0
    for number, (first, last) in enumerate(by_frame[:, [0, -1]].tolist()):
        follows = number > 0 and video[number] == video[number - 1]
        begin = end if follows else first - before
        end = last + 1 + after
        frame_of[begin:end] = number
    return frame_of, video


def _is_code(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """int32 [n] -> bool [n]."""
    return (tokens >= vocabulary.code_offset) & (tokens < vocabulary.code_offset + vocabulary.num_codes)
