"""Batches are the same whoever makes them and wherever they are gone on from; they waste little, and hold
every video once an epoch.
"""

import copy
import dataclasses
import json
import pickle
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ringvision.data.loader import Loader
from ringvision.data.packing import Batch, fill_ratio
from ringvision.data.sources import (
    BadRecord,
    DataConfig,
    DataSource,
    QuestionAnswer,
    SourceConfig,
    TokenizedData,
    VideoExamples,
    WorldData,
    WorldVideos,
)
from ringvision.data.stream import Example, PromptProcessor
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer
from ringvision.errors import UserError


def config(*sources: SourceConfig, **options: Any) -> DataConfig:
    return DataConfig(sources, **{"length": 256, "rows": 4, "text_model": "text.model", **options})


def loader(world: WorldVideos, processor: PromptProcessor, *, seed: int = 3, **options: Any) -> Loader:
    """Of one source, the videos of `world`; options are those of the source or of the data."""
    shape = {name: options.pop(name) for name in ("length", "rows") if name in options}
    source = WorldData(world.name, **options)
    data = config(source, **shape)
    return Loader(data, [VideoExamples(world, processor, source, data.length)], processor, seed=seed)


def first(made: Loader, count: int, state: Any = None) -> list[Batch]:
    with closing(made.batches(state)) as batches:
        return [loaded.batch for loaded in islice(batches, count)]


def same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def asking(world: WorldVideos, ask: Callable[[int], list[QuestionAnswer]]) -> WorldVideos:
    """The same videos, about each of which `ask` of its number is asked."""
    videos = copy.copy(world)
    videos.questions = lambda index, first, count: ask(index)  # type: ignore[method-assign]
    videos.is_asked = lambda index: bool(ask(index))  # type: ignore[method-assign]
    return videos


# ------------------------------------------------------------------- the same whoever makes it, and when


@pytest.fixture(scope="module")
def mixture(world: WorldVideos) -> DataConfig:
    """Two sources, of which one grows, and rows that are shorter than some of the examples."""
    growing = WorldData(world.name, grow_from=2, grow_steps=90, vision_weight=0.5)
    asked = WorldData(world.name, turns_min=6, turns_max=12, question_weight=0.3, weight=0.5)
    return config(growing, asked, length=96, rows=4)


def opened(data: DataConfig, processor: PromptProcessor, rows: list[int] | None = None) -> Loader:
    sources = [source.open(processor, data.length) for source in data.sources]
    return Loader(data, sources, processor, seed=5, rows=rows, max_length=192)


def test_two_hundred_batches_are_the_same_on_any_number_of_processes_and_after_stops(
    mixture: DataConfig, processor: PromptProcessor
) -> None:
    """Processes are loaders of disjoint rows. One run is never stopped, the other at every 17th step, to go
    on with another number of processes from nothing but the JSON of the states.
    """
    straight = first(opened(mixture, processor), 200)
    assert sum(not same(straight[0], batch) for batch in straight) == 199
    for rows in ([0, 1], [2, 3], [1]):
        part = first(opened(mixture, processor, rows), 20)
        expected = [jax.tree.map(lambda array, rows=rows: array[rows], batch) for batch in straight[:20]]
        assert all(same(*pair) for pair in zip(part, expected, strict=True))
    splits = [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]], [[0, 2], [1, 3]]]
    processes = {len(split): [opened(mixture, processor, rows) for rows in split] for split in splits[:3]}
    state: dict[str, Any] | None = None
    found = []
    for turn in range(12):
        count = min(17, 200 - len(found))
        parts = []
        for made in processes[(1, 2, 4)[turn % 3]]:
            with closing(made.batches(state)) as batches:
                parts.append(list(islice(batches, count)))
        found += [stack_parts([loaded.batch for loaded in step]) for step in zip(*parts, strict=True)]
        lanes: dict[str, Any] = {}
        for part in parts:
            lanes |= part[-1].state["lanes"]
        state = json.loads(json.dumps({"step": parts[0][-1].state["step"], "lanes": lanes}))
        assert state["step"] == len(found)
    assert [same(*pair) for pair in zip(found, straight, strict=True)] == [True] * 200
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def stack_parts(parts: list[Batch]) -> Batch:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def test_another_seed_gives_other_batches(world: WorldVideos, processor: PromptProcessor) -> None:
    one, other = (first(loader(world, processor, seed=seed), 1)[0] for seed in (3, 4))
    assert not same(one, other)


def reopened(path: Path, processor: PromptProcessor) -> PromptProcessor:
    return dataclasses.replace(processor, text=LosslessTokenizer(path))


def in_workers(data: DataConfig, processor: PromptProcessor, path: Path, workers: int) -> Loader:
    # the processor's text tokenizer cannot be pickled, the rest of it can
    rest = dataclasses.replace(processor, text=None)  # type: ignore[arg-type]
    reopen = partial(reopened, path, rest)
    data = dataclasses.replace(data, workers=workers)
    sources = [source.open(processor, data.length) for source in data.sources]
    return Loader(data, sources, processor, seed=5, max_length=192, reopen=reopen)


def test_workers_make_the_same_rows_and_leave_nothing_behind(
    mixture: DataConfig, processor: PromptProcessor, text_model: Path
) -> None:
    import multiprocessing

    expected = first(opened(mixture, processor), 5)
    made = in_workers(mixture, processor, text_model, 3)
    with closing(made.batches()) as batches:
        loaded = list(islice(batches, 3))
        assert len(multiprocessing.active_children()) == 3
    assert not multiprocessing.active_children()
    assert all(same(one.batch, batch) for one, batch in zip(loaded, expected[:3], strict=True))
    with closing(in_workers(mixture, processor, text_model, 1).batches(loaded[-1].state)) as batches:
        rest = list(islice(batches, 2))
        assert all(same(one.batch, batch) for one, batch in zip(rest, expected[3:], strict=True))
        (worker,) = multiprocessing.active_children()
        worker.kill()
        with pytest.raises(UserError, match=r"process 1 of 1 that prepare rows has ended \(exit status -9\)"):
            list(islice(batches, 50))
    assert not multiprocessing.active_children()
    with pytest.raises(UserError, match="none: no text model here"):
        first(in_workers(mixture, processor, text_model.with_name("none"), 1), 1)


def test_a_state_of_other_rows_or_sources_is_refused(
    mixture: DataConfig, processor: PromptProcessor, world: WorldVideos
) -> None:
    with closing(opened(mixture, processor, [0, 1]).batches()) as batches:
        state = next(batches).state
    with pytest.raises(UserError, match="has no row 2, it is of 2 rows"):
        first(opened(mixture, processor), 1, state)
    alone = dataclasses.replace(mixture, sources=mixture.sources[:1])
    with pytest.raises(UserError, match="is of 2 sources and the config has 1"):
        first(opened(alone, processor, [0, 1]), 1, state)


# --------------------------------------------------------------------------------------------- what is in it


def test_little_is_wasted(world: WorldVideos, processor: PromptProcessor) -> None:
    for length, rows in ((512, 8), (256, 4)):
        source = loader(world, processor, length=length, rows=rows, turns_max=6)
        assert np.mean([fill_ratio(batch) for batch in first(source, 20)]) > 0.97


def documents(batch: Batch) -> list[list[int]]:
    rows = zip(batch.tokens, batch.segment_ids, strict=True)
    return [
        tokens[segments == one].tolist() for tokens, segments in rows for one in range(1, segments.max() + 1)
    ]


def test_an_epoch_holds_every_video_once(world: WorldVideos, processor: PromptProcessor) -> None:
    """Of one lane, whose epochs do not mix with those of others but for what waits for a row."""
    source = loader(world, processor, rows=1)
    seen = [0] * len(world)
    videos = {tuple(processor.video(*world.video(index))): index for index in range(len(world))}
    for batch in first(source, 160):
        for tokens in documents(batch):
            end = tokens.index(processor.vocabulary.vision_end[0]) + 1
            seen[videos[tuple(tokens[1:end])]] += 1
    assert min(seen) > 3
    assert max(seen) - min(seen) <= 1


def test_lanes_share_out_the_videos_of_an_epoch(world: WorldVideos, processor: PromptProcessor) -> None:
    """Every position of the stream is taken by exactly one lane, so each epoch holds each video once."""
    made = loader(world, processor)
    stream = [made._mixture.index(0, position) for position in range(80)]
    assert sorted(stream[:40]) == sorted(stream[40:]) == list(range(40))
    assert stream[:40] != stream[40:]
    with closing(made.batches()) as batches:
        states = list(islice(batches, 10))[-1].state["lanes"]
    for row, lane in states.items():
        assert lane["feeds"][0][0] % 4 == int(row)
        assert all(position % 4 == int(row) for _, position, _, _ in lane["waiting"])


def test_turns_are_the_scenes_own_questions_and_as_many_as_wanted(
    world: WorldVideos, processor: PromptProcessor
) -> None:
    source = loader(world, processor, turns_min=2, turns_max=3)
    for batch in first(source, 4):
        for tokens in documents(batch):
            turns = tokens.count(processor.vocabulary.eos)
            assert 1 <= turns <= 12
            end = tokens.index(processor.vocabulary.vision_end[0]) + 1
            assert processor.text.decode(tokens[end:]).count("USER:") == turns
            (seed,) = [
                seed for seed in range(40) if tokens[1:end] == processor.video(*world.video(seed)).tolist()
            ]
            asked = {
                tuple(processor.question(one.question)) + tuple(processor.answer(one.answer))
                for one in world.questions(seed, 0, int(world.lengths[seed]))
            }
            rest = tokens[end:]
            while rest:
                stop = rest.index(processor.vocabulary.eos) + 1
                assert tuple(rest[:stop]) in asked
                rest = rest[stop:]


def test_every_answer_counts_the_same(world: WorldVideos, processor: PromptProcessor) -> None:
    (batch,) = first(loader(world, processor), 1)
    assert batch.loss_weights.sum() == pytest.approx(
        (batch.targets == processor.vocabulary.eos).sum(), rel=1e-5
    )


def test_scenes_without_questions_are_left_out(world: WorldVideos, processor: PromptProcessor) -> None:
    def ask(index: int) -> list[QuestionAnswer]:
        return [QuestionAnswer("shape", "What?", "square")] if index % 2 else []

    source = loader(asking(world, ask), processor)
    assert len(source.sources[0]) == 20
    assert source.notices == [
        f"20 of 40 videos in {world.name} have neither a caption nor a question and are left out "
        "(vision_weight is 0)"
    ]
    assert all(
        tokens.count(processor.vocabulary.eos) == 1
        for batch in first(source, 3)
        for tokens in documents(batch)
    )


def test_errors_say_what_to_do(world: WorldVideos, processor: PromptProcessor) -> None:
    with pytest.raises(UserError, match="called 'tme'; there are colour"):
        loader(world, processor, favour=("tme",))
    with pytest.raises(UserError, match="nothing is asked about any video"):
        loader(asking(world, lambda index: []), processor)

    def broken(index: int) -> list[QuestionAnswer]:
        raise RuntimeError("no such scene")

    source = loader(world, processor)
    source.sources[0].videos.questions = lambda *clip: broken(0)  # type: ignore[attr-defined]
    source.sources[0]._turns.cache_clear()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="no such scene"):
        first(source, 1)
    del source.sources[0].videos.questions  # type: ignore[attr-defined]


def test_clips_grow_until_videos_are_whole(world: WorldVideos, processor: PromptProcessor) -> None:
    source = loader(world, processor, grow_from=1, grow_steps=60)
    eof = processor.vocabulary.eof
    eov = processor.vocabulary.eov
    batches = first(source, 70)

    def frames(step: int) -> list[int]:
        return [tokens.count(eof) + tokens.count(eov) for tokens in documents(batches[step])]

    assert set(frames(0)) == {1}
    assert max(frames(20)) < 8 < max(frames(59))
    whole = {tuple(processor.video(*world.video(index))) for index in range(len(world))}
    # What was drawn before the last step of growth may still come after it.
    for tokens in documents(batches[-1]):
        assert tuple(tokens[1 : tokens.index(processor.vocabulary.vision_end[0]) + 1]) in whole


def test_predicting_questions_and_codes_can_count_too(world: WorldVideos, processor: PromptProcessor) -> None:
    (plain,) = first(loader(world, processor), 1)
    (more,) = first(loader(world, processor, question_weight=0.5, vision_weight=2.0), 1)
    assert np.array_equal(plain.tokens, more.tokens)
    assert more.loss_weights.sum() == pytest.approx(plain.loss_weights.sum(), rel=1e-5)
    assert (more.loss_weights > 0).mean() > 3 * (plain.loss_weights > 0).mean()


def test_what_tells_most_is_asked_last(world: WorldVideos, processor: PromptProcessor) -> None:
    source = loader(world, processor, length=512, turns_min=8, turns_max=12)
    telling = {"What was there", "What appeared"}
    mixed = 0
    for batch in first(source, 3):
        for tokens in documents(batch):
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
            for batch in first(source, 3)
            for tokens in documents(batch)
        ]
        return sum(asked) / len(asked)

    assert share() < 1 == share("time")


def test_codes_can_be_all_that_counts(world: WorldVideos, processor: PromptProcessor) -> None:
    """Videos about which nothing is asked are shown where predicting their codes counts."""
    (batch,) = first(loader(asking(world, lambda index: []), processor, vision_weight=1.0), 1)
    assert batch.loss_weights.sum() == pytest.approx(len(documents(batch)))
    assert processor.vocabulary.is_vision(batch.targets[batch.loss_weights > 0]).all()


def test_a_video_longer_than_a_row_is_cut_and_said(world: WorldVideos, processor: PromptProcessor) -> None:
    source = loader(world, processor, length=48, rows=2)
    (notice,) = source.notices
    assert "do not fit into rows of 48" in notice and "longer rows show them whole" in notice
    codes = loader(world, processor, length=48, rows=2, vision_weight=1.0)
    with closing(codes.batches()) as batches:
        segments = [
            batch.positions[row][batch.segment_ids[row] == one]
            for batch, _ in islice(batches, 6) for row in (0, 1)
            for one in range(1, batch.segment_ids[row].max() + 1)
        ]  # fmt: skip
    assert {int(positions[0]) for positions in segments} == {0}  # max_length is 48: they start anew
    # Without codes that count, only pieces with an answer have something to learn.
    assert all(batch.loss_weights.any(axis=1).all() for batch in first(source, 4))


# ------------------------------------------------------------------------------------------------- mixtures


@dataclasses.dataclass(frozen=True)
class Numbers(SourceConfig):
    """Documents of one token over and over: of number n, as many as `sizes` says."""

    token: int = 1
    sizes: tuple[int, ...] = (5, 9, 13)
    weight_by_token: bool = True
    bad: tuple[int, ...] = ()

    def open(self, processor: PromptProcessor, length: int) -> DataSource:
        return NumberSource(self)


class NumberSource:
    vision = None
    notices = ()

    def __init__(self, config: Numbers) -> None:
        self.config = config
        self.name = f"numbers of {config.token}"

    def __len__(self) -> int:
        return len(self.config.sizes)

    def example(self, index: int, random: np.random.Generator, step: int) -> Example:
        if index in self.config.bad:
            raise BadRecord(f"number {index} is bad")
        size = self.config.sizes[index]
        mask = np.ones(size, np.float32) if self.config.weight_by_token else np.zeros(size, np.float32)
        return Example(np.full(size, self.config.token, np.int32), mask, float(size - 1))


def shares(processor: PromptProcessor, data: DataConfig, steps: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and examples of tokens 1, 2, ... in the batches of so many steps."""
    counts = np.zeros((2, 10))
    for batch in first(opened(data, processor), steps):
        counts[0] += np.bincount(batch.tokens.ravel(), minlength=10)[:10]
        counts[1] += np.bincount(batch.tokens[batch.positions == 0].ravel(), minlength=10)[:10]
    return counts[0, 1:] / counts[0, 1:].sum(), counts[1, 1:] / counts[1, 1:].sum()


def test_weights_count_tokens_or_examples(processor: PromptProcessor) -> None:
    sizes = tuple(np.random.default_rng(0).integers(2, 120, 50).tolist())
    sources = (
        Numbers(weight=5.0),
        Numbers(weight=3.0, token=2, sizes=sizes),
        Numbers(weight=0.0, token=3),
        Numbers(weight=2.0, token=4, sizes=(700, 300, 4)),  # longer than a row
    )
    tokens, _ = shares(processor, config(*sources, length=128, rows=3))
    np.testing.assert_allclose(tokens[:4], [0.5, 0.3, 0.0, 0.2], atol=0.01)
    short = (sources[0], sources[1])
    _, examples = shares(processor, config(*short, length=128, rows=3, weights_by="examples"))
    np.testing.assert_allclose(examples[:2], [0.625, 0.375], atol=0.01)


def test_text_alone_fills_its_rows_too(processor: PromptProcessor) -> None:
    sizes = tuple(np.random.default_rng(1).lognormal(4.5, 0.8, 300).astype(int).clip(2).tolist())
    batches = first(opened(config(Numbers(sizes=sizes), length=512, rows=2), processor), 100)
    assert np.mean([fill_ratio(batch) for batch in batches]) > 0.97


def test_long_documents_are_cut_and_nothing_of_them_is_lost(processor: PromptProcessor) -> None:
    """Every piece but the last fills a row; positions go on, and start anew before they reach max_length."""
    data = config(Numbers(sizes=(1000,)), length=96, rows=1)
    made = opened(data, processor)  # max_length=192
    batches = first(made, 110)
    seen = sum(int((batch.segment_ids > 0).sum()) for batch in batches)
    assert seen >= 10 * 1000 - 3 * 96
    whole = [batch for batch in batches if (batch.segment_ids == 1).all()]
    assert len(whole) > 100
    assert [int(batch.positions[0, 0]) for batch in whole[:6]] == [0, 96] * 3
    for batch in whole:
        assert (batch.targets == 1).all()  # across the cut too
        np.testing.assert_allclose(batch.loss_weights, 1.0, rtol=1e-5)


def test_bad_records_are_counted_and_named_and_too_many_stop_the_run(processor: PromptProcessor) -> None:
    few = Numbers(sizes=(9,) * 200, bad=(3,))
    made = opened(config(few, length=128, rows=2, bad_records=0.02), processor)
    first(made, 30)
    assert made.drawn > 200 and 0 < made.bad <= 0.02 * made.drawn
    assert set(made.named) == {"number 3 is bad"}
    many = Numbers(sizes=(9,) * 10, bad=(3, 7))
    made = opened(config(many, length=128, rows=2), processor)
    with pytest.raises(
        UserError, match=r"\d+ of \d+ records cannot be read, .*number [37] is bad; number [37] is bad;"
    ):
        first(made, 30)


def test_a_source_that_teaches_nothing_is_an_error(processor: PromptProcessor) -> None:
    with pytest.raises(UserError, match="numbers of 1: nothing can be learned of 1000 documents"):
        first(opened(config(Numbers(weight_by_token=False), length=64, rows=1), processor), 1)


def test_where_every_record_is_bad_the_error_says_why(processor: PromptProcessor) -> None:
    with pytest.raises(
        UserError, match=r"numbers of 1: 1000 records .* cannot be read, .* number [01] is bad;"
    ):
        first(opened(config(Numbers(sizes=(9, 9), bad=(0, 1)), length=64, rows=1), processor), 1)


def test_a_config_of_sources_goes_through_a_pipe(mixture: DataConfig) -> None:
    other = pickle.loads(pickle.dumps(dataclasses.replace(mixture, sources=(TokenizedData("a"), Numbers()))))
    assert other.sources == (TokenizedData("a"), Numbers())
