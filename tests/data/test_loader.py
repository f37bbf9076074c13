"""Batches depend on seed and step alone, waste little, and hold every video once an epoch."""

import copy
import dataclasses
import itertools
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from ringvision.data.loader import Clip, Loader
from ringvision.data.packing import Batch, fill_ratio
from ringvision.data.sources import DataSource, QuestionAnswer, WorldData, WorldVideos
from ringvision.data.stream import PromptProcessor
from ringvision.errors import UserError


def same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def loader(source: DataSource, processor: PromptProcessor, *, seed: int = 3, **options: Any) -> Loader:
    data = WorldData(source.name, "text.model", "none", **{"length": 256, "rows": 4, **options})
    return Loader(source, processor, data, seed=seed)


def asking(world: WorldVideos, ask: Callable[[int], list[QuestionAnswer]]) -> DataSource:
    """The same videos, about each of which `ask` of its number is asked."""
    source = copy.copy(world)
    source.questions = lambda index, first, count: ask(index)  # type: ignore[method-assign]
    return source


def test_a_batch_is_the_same_whatever_was_asked_before(
    world: WorldVideos, processor: PromptProcessor
) -> None:
    one = loader(world, processor)
    other = loader(world, processor)
    in_order = [one.batch(step) for step in range(6)]
    assert all(same(other.batch(step), in_order[step]) for step in (5, 0, 3))
    assert not same(in_order[0], in_order[1])
    assert not same(loader(world, processor, seed=4).batch(0), in_order[0])
    ahead = one.batches(2)
    assert all(
        same(batch, expected)
        for batch, expected in zip(itertools.islice(ahead, 4), in_order[2:], strict=True)
    )
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_little_is_wasted(world: WorldVideos, processor: PromptProcessor) -> None:
    for length, rows in ((512, 8), (256, 4)):
        source = loader(world, processor, length=length, rows=rows, turns_max=6)
        assert np.mean([fill_ratio(source.batch(step)) for step in range(8)]) > 0.97


def documents(batch: Batch) -> list[list[int]]:
    rows = zip(batch.tokens, batch.segment_ids, strict=True)
    return [
        tokens[segments == one].tolist() for tokens, segments in rows for one in range(1, segments.max() + 1)
    ]


def test_an_epoch_holds_every_video_once(world: WorldVideos, processor: PromptProcessor) -> None:
    source = loader(world, processor)
    seen = [0] * len(world)
    videos = {tuple(processor.video(*world.video(index))): index for index in range(len(world))}
    for step in range(40):
        for tokens in documents(source.batch(step)):
            end = tokens.index(processor.vocabulary.vision_end[0]) + 1
            seen[videos[tuple(tokens[1:end])]] += 1
    assert min(seen) > 3
    assert max(seen) - min(seen) <= 1


def test_turns_are_the_scenes_own_questions_and_as_many_as_wanted(
    world: WorldVideos, processor: PromptProcessor
) -> None:
    source = loader(world, processor, turns_min=2, turns_max=3)
    asked = {
        tuple(processor.question(q.question))
        for seed in range(40)
        for q in world.questions(seed, 0, int(world.lengths[seed]))
    }
    for step in range(4):
        batch = source.batch(step)
        for tokens in documents(batch):
            turns = tokens.count(processor.vocabulary.eos)
            assert 1 <= turns <= 10
            parts = processor.text.decode(tokens[tokens.index(processor.vocabulary.vision_end[0]) + 1 :])
            assert parts.count("USER:") == turns
    assert all(
        len(turn.question) and tuple(turn.question) in asked
        for turn in source.turns(Clip(0, 0, int(world.lengths[0])))
    )


def test_every_answer_counts_the_same(world: WorldVideos, processor: PromptProcessor) -> None:
    batch = loader(world, processor).batch(0)
    assert batch.loss_weights.sum() == pytest.approx(
        (batch.targets == processor.vocabulary.eos).sum(), rel=1e-5
    )


def test_evaluation_asks_every_kind(world: WorldVideos, processor: PromptProcessor) -> None:
    eval_batches = loader(world, processor).eval_batches(50)
    kinds = [kind for eval_batch in eval_batches for kind in eval_batch.kinds]
    assert len(kinds) == 50
    assert max(map(kinds.count, set(kinds))) <= 2 + min(map(kinds.count, set(kinds)))
    for eval_batch in eval_batches:
        for number in range(len(eval_batch.kinds)):
            here = eval_batch.answers == number
            assert eval_batch.batch.targets[here][-1] == processor.vocabulary.eos
            assert eval_batch.batch.loss_weights[here].sum() == pytest.approx(1)
    again = loader(world, processor).eval_batches(50)
    assert all(same(one.batch, other.batch) for one, other in zip(eval_batches, again, strict=True))


def test_scenes_without_questions_are_left_out(world: WorldVideos, processor: PromptProcessor) -> None:
    def ask(index: int) -> list[QuestionAnswer]:
        return [QuestionAnswer("shape", "What?", "square")] if index % 2 else []

    source = loader(asking(world, ask), processor)
    assert all(
        tokens.count(processor.vocabulary.eos) == 1
        for step in range(3)
        for tokens in documents(source.batch(step))
    )


def test_errors_say_what_to_do(world: WorldVideos, processor: PromptProcessor) -> None:
    with pytest.raises(UserError, match="make rows longer"):
        loader(world, processor, length=64)
    with pytest.raises(UserError, match="called 'tme'; there are colour"):
        loader(world, processor, favour=("tme",))
    with pytest.raises(UserError, match="nothing is asked about any video"):
        loader(asking(world, lambda index: []), processor)

    def broken(clip: Clip) -> list[QuestionAnswer]:
        raise RuntimeError("no such scene")

    source = loader(world, processor)
    source.turns = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="no such scene"):
        next(source.batches(0))


def test_stampless_videos_are_measured_too(world: WorldVideos, processor: PromptProcessor) -> None:
    plain = dataclasses.replace(processor, format=dataclasses.replace(processor.format, stamps=False))
    for one in (processor, plain):
        source = loader(world, one)
        for index in range(len(world)):
            codes, times = world.video(index)
            assert source._size(Clip(index, 0, len(codes))) == len(one.videos([(codes, times)]))
            assert source._size(Clip(index, 1, 2)) == len(one.videos([(codes[1:3], times[1:3])]))


def test_clips_grow_until_videos_are_whole(world: WorldVideos, processor: PromptProcessor) -> None:
    source = loader(world, processor, grow_from=1, grow_steps=60)
    eof = processor.vocabulary.eof
    eov = processor.vocabulary.eov

    def frames(step: int) -> list[int]:
        return [tokens.count(eof) + tokens.count(eov) for tokens in documents(source.batch(step))]

    assert set(frames(0)) == {1}
    assert max(frames(20)) < 8 < max(frames(59))
    whole = {tuple(processor.video(*world.video(index))) for index in range(len(world))}
    # What was planned before the last step of growth may still come after it.
    for tokens in documents(source.batch(64)):
        assert tuple(tokens[1 : tokens.index(processor.vocabulary.vision_end[0]) + 1]) in whole
    again = loader(world, processor, grow_from=1, grow_steps=60)
    assert same(again.batch(20), source.batch(20))


def test_predicting_questions_and_codes_can_count_too(world: WorldVideos, processor: PromptProcessor) -> None:
    plain = loader(world, processor).batch(0)
    more = loader(world, processor, question_weight=0.5, vision_weight=2.0).batch(0)
    assert np.array_equal(plain.tokens, more.tokens)
    assert more.loss_weights.sum() == pytest.approx(plain.loss_weights.sum(), rel=1e-5)
    assert (more.loss_weights > 0).mean() > 3 * (plain.loss_weights > 0).mean()


def test_what_tells_most_is_asked_last(world: WorldVideos, processor: PromptProcessor) -> None:
    source = loader(world, processor, length=512, turns_min=8, turns_max=12)
    telling = {"What was there", "What appeared"}
    mixed = 0
    for step in range(3):
        for tokens in documents(source.batch(step)):
            asked = processor.text.decode(
                tokens[tokens.index(processor.vocabulary.vision_end[0]) + 1 :]
            ).split("USER: ")[1:]
            tells = [any(question.startswith(words) for words in telling) for question in asked]
            assert tells == sorted(tells)
            mixed += 0 < sum(tells) < len(tells)
    assert mixed > 5


def test_favoured_kinds_are_asked_before_others(world: WorldVideos, processor: PromptProcessor) -> None:
    def ask(index: int) -> list[QuestionAnswer]:
        words = ("now", "then", "here", "there")
        shapes = [QuestionAnswer("shape", f"What {word}?", "square") for word in words]
        return [*shapes, QuestionAnswer("time", "When?", "3")]

    def share(*favour: str) -> float:
        source = loader(asking(world, ask), processor, turns_max=1, favour=favour, seed=0)
        asked = [
            "When?" in processor.text.decode(tokens)
            for step in range(3)
            for tokens in documents(source.batch(step))
        ]
        return sum(asked) / len(asked)

    assert share() < 1 == share("time")


def test_codes_can_be_all_that_counts(world: WorldVideos, processor: PromptProcessor) -> None:
    """Videos about which nothing is asked are shown where predicting their codes counts."""
    batch = loader(asking(world, lambda index: []), processor, vision_weight=1.0).batch(0)
    assert batch.loss_weights.sum() == pytest.approx(len(documents(batch)))
    assert processor.vocabulary.is_vision(batch.targets[batch.loss_weights > 0]).all()
