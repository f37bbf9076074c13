"""Batches by which answers are scored: one question an example, as even over the kinds of questions as the
videos allow.

VideoExamples  --evaluation_batches-->  [EvaluationBatch, ...], arrays [rows, length]
"""

from dataclasses import dataclass

import numpy as np

from ringvision.data.packing import Batch, assign_slots, fill
from ringvision.data.sources import VideoExamples
from ringvision.data.stream import Example


@dataclass(frozen=True)
class EvaluationBatch:
    """A batch of examples with one question each, whose answers are scored.

    answers: int32 [B, L], the number of the answer that the target here belongs to, -1 for none. kinds:
    of each answer.
    """

    batch: Batch
    answers: np.ndarray
    kinds: tuple[str, ...]


def evaluation_batches(
    source: VideoExamples, length: int, rows: int, examples: int, *, seed: int = 0
) -> list[EvaluationBatch]:
    """Examples of one question each, always the same ones for the same seed.

    Args:
        source: videos and questions; those that are longer than a row are left out.
        length: tokens of a row.
        rows: of a batch.
        examples: how many questions are asked.
        seed: of the choice of questions.

    Returns:
        As many batches as the examples need.
    """
    batches = []
    chosen = _choose(source, length, examples, seed)
    while chosen:
        slots = assign_slots([len(example.tokens) for example, _ in chosen], length, rows)
        taken = [
            (example, kind, slot)
            for (example, kind), slot in zip(chosen, slots, strict=True)
            if slot is not None
        ]
        answers = np.full((rows, length), -1, np.int32)
        for number, (example, _, (row, start)) in enumerate(taken):
            first, stop = example.answers[0]
            # The target of a token is the one after it, hence one earlier than the answer's own tokens.
            answers[row, start + first - 1 : start + stop - 1] = number
        batch = fill([example for example, _, _ in taken], [slot for _, _, slot in taken], length, rows)
        batches.append(EvaluationBatch(batch, answers, tuple(kind for _, kind, _ in taken)))
        chosen = [pair for pair, slot in zip(chosen, slots, strict=True) if slot is None]
    return batches


def _choose(source: VideoExamples, length: int, examples: int, seed: int) -> list[tuple[Example, str]]:
    """Examples of one question each and the kinds of these, the kind that was chosen least before first."""
    random = np.random.default_rng([seed, 2])
    asked: dict[str, int] = {}
    chosen = []
    for index in range(examples):
        video = index % len(source.videos)
        if video in source.videos.bad:
            continue
        clip = source.whole(video)
        turns = source.turns(clip)
        if not turns:
            continue
        order = random.permutation(len(turns))
        turn = turns[min(order, key=lambda i: asked.get(turns[i].kind, 0))]
        example = source.asking(clip, turn)
        if len(example.tokens) <= length:
            asked[turn.kind] = asked.get(turn.kind, 0) + 1
            chosen.append((example, turn.kind))
    return chosen
