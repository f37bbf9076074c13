"""Evaluation asks one question an example, every kind alike, and the same ones whenever it is asked."""

import dataclasses

import jax
import numpy as np
import pytest

from ringvision.data.evaluation_batches import evaluation_batches
from ringvision.data.sources import VideoExamples, WorldData, WorldVideos
from ringvision.data.stream import PromptProcessor, StreamFormat


def source(world: WorldVideos, processor: PromptProcessor) -> VideoExamples:
    return VideoExamples(world, processor, WorldData(world.name), 256)


def test_evaluation_asks_every_kind(world: WorldVideos, processor: PromptProcessor) -> None:
    batches = evaluation_batches(source(world, processor), 256, 4, 50)
    kinds = [kind for batch in batches for kind in batch.kinds]
    assert len(kinds) == 50
    assert max(map(kinds.count, set(kinds))) <= 2 + min(map(kinds.count, set(kinds)))
    for batch in batches:
        for number in range(len(batch.kinds)):
            here = batch.answers == number
            assert batch.batch.targets[here][-1] == processor.vocabulary.eos
            assert batch.batch.loss_weights[here].sum() == pytest.approx(1)
    again = evaluation_batches(source(world, processor), 256, 4, 50)
    for one, other in zip(*(jax.tree.leaves([b.batch for b in bs]) for bs in (batches, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_videos_that_are_too_long_are_left_out(world: WorldVideos, processor: PromptProcessor) -> None:
    made = source(world, processor)
    assert sum(len(one.kinds) for one in evaluation_batches(made, 60, 4, 40)) < 40


def test_a_question_can_stand_before_its_video(world: WorldVideos, processor: PromptProcessor) -> None:
    """The example is then made for one question; training asks one a video, too."""
    asks_first = StreamFormat(question="USER: {question} {video} ASSISTANT:", in_step=False)
    first = dataclasses.replace(processor, format=asks_first)
    made = VideoExamples(world, first, WorldData(world.name, vision_weight=0.5), 256)
    (batch, *_) = evaluation_batches(made, 256, 4, 12)
    document = batch.batch.tokens[0][batch.batch.segment_ids[0] == 1]
    (start,) = np.flatnonzero(document == processor.vocabulary.vision_start[0])
    assert processor.text.decode(document[:start].tolist()).startswith("USER: ")
    example = made.example(3, np.random.default_rng(0), 0)
    assert len(example.answers) == 1 and not example.spare
    said = processor.text.decode(example.tokens.tolist())
    assert said.count("USER:") == said.count("ASSISTANT:") == 1
    assert example.loss_mask.sum() == pytest.approx(1.5)
