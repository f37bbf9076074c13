"""Batches depend on seed and step alone, waste little, and hold every video once an epoch."""

import dataclasses
import itertools
import threading

import jax
import numpy as np
import pytest

from ringvision.data.loader import Loader, Piece, ask_world
from ringvision.data.packing import Batch, fill_ratio
from ringvision.data.shards import Shards
from ringvision.data.stream import PromptProcessor
from ringvision.data.world import Question, make_scene
from ringvision.errors import UserError


def same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def loader(shards: Shards, processor: PromptProcessor, **options: int) -> Loader:
    return Loader(shards, processor, **{"length": 256, "rows": 4, "seed": 3, **options})


def test_a_batch_is_the_same_whatever_was_asked_before(shards: Shards, processor: PromptProcessor) -> None:
    one = loader(shards, processor)
    other = loader(shards, processor)
    in_order = [one.batch(step) for step in range(6)]
    assert all(same(other.batch(step), in_order[step]) for step in (5, 0, 3))
    assert not same(in_order[0], in_order[1])
    assert not same(loader(shards, processor, seed=4).batch(0), in_order[0])
    ahead = one.batches(2)
    assert all(
        same(batch, expected)
        for batch, expected in zip(itertools.islice(ahead, 4), in_order[2:], strict=True)
    )
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_little_is_wasted(shards: Shards, processor: PromptProcessor) -> None:
    for length, rows in ((512, 8), (256, 4)):
        source = loader(shards, processor, length=length, rows=rows, turns_max=6)
        assert np.mean([fill_ratio(source.batch(step)) for step in range(8)]) > 0.97


def documents(batch: Batch) -> list[list[int]]:
    rows = zip(batch.tokens, batch.segment_ids, strict=True)
    return [
        tokens[segments == one].tolist() for tokens, segments in rows for one in range(1, segments.max() + 1)
    ]


def test_an_epoch_holds_every_video_once(shards: Shards, processor: PromptProcessor) -> None:
    source = loader(shards, processor)
    seen = [0] * len(shards)
    videos = {tuple(processor.video(*shards.video(index))): index for index in range(len(shards))}
    for step in range(40):
        for tokens in documents(source.batch(step)):
            end = tokens.index(processor.vocabulary.vision_end[0]) + 1
            seen[videos[tuple(tokens[1:end])]] += 1
    assert min(seen) > 3
    assert max(seen) - min(seen) <= 1


def test_turns_are_the_scenes_own_questions_and_as_many_as_wanted(
    shards: Shards, processor: PromptProcessor
) -> None:
    source = loader(shards, processor, turns_min=2, turns_max=3)
    asked = {
        tuple(processor.question(q.text))
        for seed in range(40)
        for q in ask_world(seed, 0, int(make_scene(seed).duration))
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
        for turn in source.turns(Piece(0, 0, int(shards.lengths[0])))
    )


def test_every_answer_counts_the_same(shards: Shards, processor: PromptProcessor) -> None:
    batch = loader(shards, processor).batch(0)
    assert batch.loss_weights.sum() == pytest.approx(
        (batch.targets == processor.vocabulary.eos).sum(), rel=1e-5
    )


def test_exams_ask_every_kind(shards: Shards, processor: PromptProcessor) -> None:
    eval_batches = loader(shards, processor).eval_batches(50)
    kinds = [kind for eval_batch in eval_batches for kind in eval_batch.kinds]
    assert len(kinds) == 50
    assert max(map(kinds.count, set(kinds))) <= 2 + min(map(kinds.count, set(kinds)))
    for eval_batch in eval_batches:
        for number in range(len(eval_batch.kinds)):
            here = eval_batch.answers == number
            assert eval_batch.batch.targets[here][-1] == processor.vocabulary.eos
            assert eval_batch.batch.loss_weights[here].sum() == pytest.approx(1)
    again = loader(shards, processor).eval_batches(50)
    assert all(same(one.batch, other.batch) for one, other in zip(eval_batches, again, strict=True))


def test_scenes_without_questions_are_left_out(shards: Shards, processor: PromptProcessor) -> None:
    def ask(seed: int, first: int, count: int) -> list[Question]:
        return [Question("shape", "What?", "square")] if seed % 2 else []

    source = Loader(shards, processor, length=256, rows=4, ask=ask)
    assert all(
        tokens.count(processor.vocabulary.eos) == 1
        for step in range(3)
        for tokens in documents(source.batch(step))
    )


def test_errors_say_what_to_do(shards: Shards, processor: PromptProcessor) -> None:
    with pytest.raises(UserError, match="make rows longer"):
        loader(shards, processor, length=64)
    with pytest.raises(UserError, match="give 1 <= turns_min"):
        loader(shards, processor, turns_min=3, turns_max=2)
    with pytest.raises(UserError, match="called 'tme'; there are colour"):
        loader(shards, processor, favour=("tme",))

    def broken(video: Piece) -> list[Question]:
        raise RuntimeError("no such scene")

    source = loader(shards, processor)
    source.turns = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="no such scene"):
        next(source.batches(0))


def test_stampless_videos_are_measured_too(shards: Shards, processor: PromptProcessor) -> None:
    plain = dataclasses.replace(processor, format=dataclasses.replace(processor.format, stamps=False))
    for one in (processor, plain):
        source = loader(shards, one)
        for index in range(len(shards)):
            codes, times = shards.video(index)
            assert source._size(Piece(index, 0, len(codes))) == len(one.videos([(codes, times)]))
            assert source._size(Piece(index, 1, 2)) == len(one.videos([(codes[1:3], times[1:3])]))


def test_pieces_grow_until_videos_are_whole(shards: Shards, processor: PromptProcessor) -> None:
    source = loader(shards, processor, grow_from=1, grow_steps=60)
    eof = processor.vocabulary.eof
    eov = processor.vocabulary.eov

    def frames(step: int) -> list[int]:
        return [tokens.count(eof) + tokens.count(eov) for tokens in documents(source.batch(step))]

    assert set(frames(0)) == {1}
    assert max(frames(20)) < 8 < max(frames(59))
    whole = {tuple(processor.video(*shards.video(index))) for index in range(len(shards))}
    # What was planned before the last step of growth may still come after it.
    for tokens in documents(source.batch(64)):
        assert tuple(tokens[1 : tokens.index(processor.vocabulary.vision_end[0]) + 1]) in whole
    again = loader(shards, processor, grow_from=1, grow_steps=60)
    assert same(again.batch(20), source.batch(20))


def test_predicting_questions_and_codes_can_count_too(shards: Shards, processor: PromptProcessor) -> None:
    plain = loader(shards, processor).batch(0)
    more = loader(shards, processor, question_weight=0.5, vision_weight=2.0).batch(0)
    assert np.array_equal(plain.tokens, more.tokens)
    assert more.loss_weights.sum() == pytest.approx(plain.loss_weights.sum(), rel=1e-5)
    assert (more.loss_weights > 0).mean() > 3 * (plain.loss_weights > 0).mean()


def test_what_tells_most_is_asked_last(shards: Shards, processor: PromptProcessor) -> None:
    source = loader(shards, processor, length=512, turns_min=8, turns_max=12)
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


def test_favoured_kinds_are_asked_before_others(shards: Shards, processor: PromptProcessor) -> None:
    def ask(seed: int, first: int, count: int) -> list[Question]:
        shapes = [Question("shape", f"What {word}?", "square") for word in ("now", "then", "here", "there")]
        return [*shapes, Question("time", "When?", "3")]

    def share(*favour: str) -> float:
        source = Loader(shards, processor, length=256, rows=4, turns_max=1, favour=favour, ask=ask)
        asked = [
            "When?" in processor.text.decode(tokens)
            for step in range(3)
            for tokens in documents(source.batch(step))
        ]
        return sum(asked) / len(asked)

    assert share() < 1 == share("time")
