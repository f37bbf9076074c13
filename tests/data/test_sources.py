"""Folders of tokenized videos as something to train on: what records say becomes questions, in any format."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringvision.data.loader import Loader
from ringvision.data.sources import (
    BadRecord,
    DataConfig,
    QuestionAnswer,
    TokenizedData,
    TokenizedVideos,
    VideosInfo,
    WorldData,
    WorldVideos,
)
from ringvision.data.sources.world import read_source
from ringvision.data.stream import PromptProcessor
from ringvision.data.tokenized import FORMATS, FolderMetadata, TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.data.world import (
    long_questions,
    make_long_scene,
    make_scene,
    questions,
    with_more_colours,
)
from ringvision.errors import UserError


def a_video(number: int, frames: int = 3, **changes: Any) -> TokenizedVideo:
    known: dict[str, Any] = {
        "source": f"/videos/{number}.mp4",
        "sha256": "",
        "codes": np.random.default_rng(number).integers(0, 32, (frames, 2, 2)),
        "times": np.arange(frames) / 2,
        "fps": 2.0,
        "size": 64,
        "tokenizer": "abc",
    }
    return TokenizedVideo(**known | changes)


def write(folder: Path, *shards: list[TokenizedVideo], format: str = "array_record") -> Path:
    with TokenizedWriter(folder, num_codes=32, format=format) as writer:
        for videos in shards:
            writer.add(videos)
    return folder


@pytest.mark.parametrize("format", sorted(FORMATS))
@pytest.mark.parametrize("kept_bytes", [1 << 20, 0])
def test_videos_come_by_number(tmp_path: Path, format: str, kept_bytes: int) -> None:
    """In the order of the shards, whether their codes stay in memory or are read again."""
    videos = [a_video(number, frames=1 + number % 3) for number in range(7)]
    folder = write(tmp_path, videos[:4], [], videos[4:], format=format)
    source = TokenizedVideos(folder, kept_bytes=kept_bytes)
    assert (len(source), source.lengths.tolist()) == (7, [len(video.codes) for video in videos])
    assert (source.info.grid, source.info.num_codes, source.info.fps) == ((2, 2), 32, 2.0)
    for index in (6, 0, 3, 4):
        codes, times = source.video(index)
        np.testing.assert_array_equal(codes, videos[index].codes)
        np.testing.assert_array_equal(times, videos[index].times)
    with pytest.raises(IndexError):
        source.video(7)


def test_captions_and_pairs_become_questions(tmp_path: Path) -> None:
    asked = a_video(0, caption="a red ball", qa=(("What colour?", "red"), ("What shape?", "round")))
    folder = write(tmp_path, [asked, a_video(1)])
    source = TokenizedData(str(folder), caption_question="What is it?").open_videos()
    assert (source.is_asked(0), source.is_asked(1)) == (True, False)
    assert source.questions(0, 0, 3) == (
        QuestionAnswer("question", "What colour?", "red"),
        QuestionAnswer("question", "What shape?", "round"),
        QuestionAnswer("caption", "What is it?", "a red ball"),
    )
    assert source.questions(0, 0, 2) == ()  # of a part of a video nothing is known
    assert source.questions(1, 0, 3) == ()


def test_batches_hold_what_records_say(tmp_path: Path, processor: PromptProcessor) -> None:
    """Every video with its own questions, the caption after them."""
    videos = [a_video(n, qa=((f"Which number is {n}?", f"{n}"),), caption=f"video {n}") for n in range(4)]
    source = TokenizedData(str(write(tmp_path, videos)), turns_max=2)
    loader = Loader(DataConfig((source,), 256, 2), [source.open(processor, 256)], processor)
    with closing(loader.batches()) as batches:
        batch = next(batches).batch
    seen = []
    for row in range(2):
        for segment in range(1, int(batch.segment_ids[row].max()) + 1):
            tokens = batch.tokens[row][batch.segment_ids[row] == segment].tolist()
            end = tokens.index(processor.vocabulary.vision_end[0]) + 1
            (number,) = [
                n for n, video in enumerate(videos)
                if tokens[1:end] == processor.video(video.codes, video.times).tolist()
            ]  # fmt: skip
            said = processor.text.decode(tokens[end:])
            pair = said.find(f"Which number is {number}? ASSISTANT: {number}")
            caption = said.find(f"ASSISTANT: video {number}")
            assert pair >= 0 or caption >= 0
            seen.append((pair, caption))
    both = [(pair, caption) for pair, caption in seen if min(pair, caption) >= 0]
    assert len(both) >= 2 and all(pair < caption for pair, caption in both)


def test_a_question_whose_answer_was_said_can_be_left_out(tmp_path: Path, processor: PromptProcessor) -> None:
    pairs = {"What colour was it?": "red", "What shape was the red one?": "circle", "Was it red?": "Red"}
    video = a_video(0, qa=tuple(pairs.items()))
    folder = str(write(tmp_path, [video]))

    def turns(apart: bool) -> set[tuple[str, ...]]:
        """The orders in which questions are asked."""
        source = TokenizedData(folder, turns_min=3, turns_max=3, turns_apart=apart).open(processor, 512)
        shown = len(processor.videos([(video.codes, video.times)]))
        orders = set()
        for seed in range(60):
            example = source.example(0, np.random.default_rng(seed), 0)
            assert not apart or example.spare == ()
            text = processor.text.decode(example.tokens[shown:].tolist())
            orders.add(tuple(sorted((one for one in pairs if one in text), key=text.index)))
        return orders

    colour, shape, whether = pairs
    assert all(len(order) == 3 for order in turns(False)) and len(turns(False)) == 6
    # whether it was red says so itself, and which shape the red one had, too
    assert turns(True) == {(colour, shape), (shape,), (whether, shape)}


def test_the_worlds_questions_are_made_anew(world: WorldVideos) -> None:
    scene = make_scene(*world.scenes[5][1])
    whole = world.questions(5, 0, int(world.lengths[5]))
    assert [tuple(asked) for asked in whole] == [(q.kind, q.text, q.answer) for q in questions(scene)]
    part = world.questions(5, 1, 3)
    assert [tuple(a) for a in part] == [(q.kind, q.text, q.answer) for q in questions(scene.clip(1, 3))]
    assert WorldData(world.name, grow_from=2, grow_steps=9).growth == (2, 9)


def test_scenes_in_more_colours_are_told_by_their_source(tmp_path: Path) -> None:
    seed = next(seed for seed in range(50) if with_more_colours(make_scene(seed)) != make_scene(seed))
    frames = int(make_scene(seed).duration)
    videos = [
        a_video(number, frames, source=f"{kind}:{seed}", fps=1.0)
        for number, kind in enumerate(("world", "more-colours"))
    ]
    found = WorldVideos(write(tmp_path / "both", videos))
    for index, scene in enumerate((make_scene(seed), with_more_colours(make_scene(seed)))):
        asked = found.questions(index, 0, frames)
        assert [tuple(one) for one in asked] == [(q.kind, q.text, q.answer) for q in questions(scene)]
    for source in ("colours:1", "more-colours:", "more-colours:x", "world", "/videos/1.mp4"):
        with pytest.raises(UserError, match="no video of the world"):
            WorldVideos(write(tmp_path / source.strip("/:x"), [a_video(0, source=source)]))


def test_long_scenes_are_told_by_their_length_and_seed(tmp_path: Path) -> None:
    scene = make_long_scene(7, 60)
    found = WorldVideos(write(tmp_path / "long", [a_video(0, 60, source="long:60:7", fps=1.0)]))
    whole = found.questions(0, 0, 60)
    assert [tuple(one) for one in whole] == [(q.kind, q.text, q.answer) for q in long_questions(scene)]
    part = found.questions(0, 20, 30)
    assert [tuple(one) for one in part] == [
        (q.kind, q.text, q.answer) for q in long_questions(scene.clip(20, 30))
    ]
    assert {one.kind for one in (*whole, *part)} <= set(found.kinds)
    for source in ("long:7", "long:60:", "long:60:x", "long:-60:7", "long:60:7:8"):
        with pytest.raises(UserError, match="no video of the world .*long:SECONDS:SEED"):
            read_source(source)
    for source in ("long:14:7", "long:7201:7"):
        with pytest.raises(UserError, match="15 to 7200 seconds"):
            read_source(source)


def test_what_videos_share_is_known_before_they_are_read(tmp_path: Path, world: WorldVideos) -> None:
    folder = write(tmp_path, [a_video(0, caption="a ball")])
    assert TokenizedData(str(folder)).vision() == VideosInfo("abc", (2, 2), 32, 2.0)
    assert WorldData(world.name).vision() == world.info
    with pytest.raises(UserError, match="holds no videos"):
        TokenizedData(str(_with_metadata(write(tmp_path / "empty", [])))).vision()


def test_a_record_that_cannot_be_read_is_a_bad_one_and_no_more(
    tmp_path: Path, processor: PromptProcessor
) -> None:
    """One is no record of a video, of another the bytes on disk were changed: array_record notices."""
    form = FORMATS["array_record"]
    folder = write(tmp_path, [a_video(n, caption=f"video {n}") for n in range(3)])
    good = form.read(folder / form.file_name(0))
    form.write(folder / form.file_name(1), [b"no record", *good[:2]])
    random = np.random.default_rng(5)
    noise = [random.integers(0, 32, (40, 2, 2)).astype(np.uint16) for _ in range(3)]
    records = [form.encode(a_video(n, frames=40, codes=codes, caption="x")) for n, codes in enumerate(noise)]
    form.write(folder / form.file_name(2), records)
    held = bytearray((folder / form.file_name(2)).read_bytes())
    held[997] ^= 0xFF  # in the second record: a block of records is padded to 64 KiB
    (folder / form.file_name(2)).write_bytes(bytes(held))
    videos = TokenizedVideos(folder, kept_bytes=0)
    assert len(videos) == 9 and len(videos.bad) == 2
    assert "array_record-00001, record 0: a record is damaged" in videos.bad[3]
    assert "array_record-00002, record 1: " in videos.bad[7]
    source = TokenizedData(str(folder)).open(processor, 256)
    for index in range(9):
        if index in videos.bad:
            with pytest.raises(BadRecord, match="damaged"):
                source.example(index, np.random.default_rng(0), 0)
        else:
            assert len(source.example(index, np.random.default_rng(0), 0).answers) == 1


def test_what_cannot_be_trained_on_is_said(tmp_path: Path) -> None:
    for name, videos, says in (
        ("tokenizers", [a_video(0), a_video(1, tokenizer="other")], "tokenizer"),
        ("rates", [a_video(0), a_video(1, fps=1.0)], "frames a second"),
        ("grids", [a_video(0), a_video(1, codes=np.zeros((3, 4, 4), int))], "grid"),
        ("codes", [a_video(0, codes=np.full((3, 2, 2), 32))], "the tokenizer has 32"),
    ):
        with pytest.raises(UserError, match=says):
            write(tmp_path / name, videos)
    for path, says in (("none", "cannot be read"), (".", "no shard")):
        with pytest.raises(UserError, match=says):
            TokenizedVideos(tmp_path / path)
    with pytest.raises(UserError, match="holds no videos"):
        TokenizedVideos(_with_metadata(write(tmp_path / "empty", [])))
    folder = write(tmp_path / "good", [a_video(0), a_video(1)])
    with pytest.raises(UserError, match=r"good: /videos/0.mp4 is no video of the world"):
        WorldVideos(folder)
    form = FORMATS["array_record"]
    mixed = [form.encode(a_video(n, codes=np.full((3, 2, 2), 31, np.uint16), fps=n + 1.0)) for n in range(2)]
    form.write(folder / form.file_name(1), mixed)
    with pytest.raises(UserError, match="has the frames a second 1.0, /videos/0.mp4 has 2.0"):
        TokenizedVideos(folder)
    (folder / form.file_name(1)).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"array_record-00001 is damaged"):
        TokenizedVideos(folder)
    (folder / "features.json").unlink()
    with pytest.raises(UserError, match="does not say how many codes"):
        TokenizedVideos(folder)


def _with_metadata(folder: Path) -> Path:
    FORMATS["array_record"].write_metadata(folder, FolderMetadata([0], (2, 2), 32))
    return folder


def test_codes_beyond_the_tokenizers_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path, [a_video(0)])
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["codes"]["tensor"]["maximum"] = "8"
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match="expected below 9"):
        TokenizedVideos(folder)
