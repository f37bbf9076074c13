"""Videos and words become the tokens that the model was trained on, once; and whether they fit is said before
anything is decoded.
"""

from pathlib import Path

import numpy as np
import pytest
from tiny_assistant import write_assistant

from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.video import probe, sample_times
from ringvision.errors import UserError
from ringvision.infer import processor as module
from ringvision.infer.processor import Processor
from ringvision.model_folder import read_config
from ringvision.models.transformer import TransformerConfig
from ringvision.video_tokenizer import load_video_tokenizer
from ringvision.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def processor(folder: Path) -> Processor:
    return _of(folder)


def _of(folder: Path) -> Processor:
    settings = read_config(folder)
    return Processor(
        TransformerConfig.from_dict(settings["transformer"]),
        Vocabulary.from_dict(settings["vocabulary"]),
        load_text_tokenizer(folder),
        load_video_tokenizer(folder / "video_tokenizer"),
    )


def test_a_video_is_decoded_once(
    processor: Processor, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int]] = []
    timings = {"decode": 0.0, "tokenize": 0.0}
    codes, times = processor.read_video(
        clips[0], 1.0, expected=7, timings=timings, progress=lambda *step: seen.append(step)
    )
    assert codes.shape == (len(times), *processor.tokenizer.grid)
    assert seen[-1] == ("frames", len(times), max(7, len(times)))
    assert min(timings.values()) > 0
    monkeypatch.setattr(module, "sample", lambda *_, **__: pytest.fail("the video was decoded again"))
    assert processor.read_video(clips[0], 1.0)[0] is codes
    assert processor.key(clips[0], 1.0) != processor.key(clips[0], 2.0) != processor.key(clips[1], 2.0)


def test_tokens_are_counted_as_they_will_be(processor: Processor, clips: list[Path]) -> None:
    for fps in (0.5, 1.0, 2.0):
        times = [sample_times(probe(clip).duration, fps) for clip in clips]
        videos = [(np.zeros((len(one), *processor.tokenizer.grid), np.int32), one) for one in times]
        opening = len(processor.prompts.opening())
        assert processor.video_tokens(times) == len(processor.prompts.videos(videos)) - opening


def test_what_fits_is_decided_beforehand(processor: Processor, clips: list[Path]) -> None:
    durations = [60.0]
    with pytest.raises(
        UserError, match=r"60 frames at 1 a second do not fit .* ask with --fps ([\d.]+)"
    ) as raised:
        processor.check_videos([clips[0]], durations, "what?", 1.0)
    fitting = float(str(raised.value).split("--fps ")[1].split()[0])
    processor.check_videos([clips[0]], durations, "what?", fitting)
    with pytest.raises(UserError, match="give fewer videos"):
        processor.check_videos([clips[0]] * 40, [10.0] * 40, "what?", 1.0)
    for given, said in (
        ((0, "what?", 1.0, 1), "no video"),
        ((1, " ", 1.0, 1), "the question is empty"),
        ((1, "what?", 0.0, 1), "--fps 0"),
        ((1, "what?", 1.0, 0), "max_tokens 0"),
        ((1, "why? " * 400, 1.0, 1), "the question has"),
    ):
        with pytest.raises(UserError, match=said):
            processor.check_request(*given)
    assert processor.answer_tokens(600, 30, 128) == processor.max_length - 630
    with pytest.raises(UserError, match="shorten it"):
        processor.answer_tokens(600, processor.max_length - 600, 128)
    with pytest.raises(UserError, match="more than its header said"):
        processor.check_read(processor.max_length, 1)


def test_a_video_beyond_the_time_stamps_is_refused(tmp_path: Path) -> None:
    """Of two minutes, where they have ids of their own; however few frames are read."""
    hours = _of(write_assistant(tmp_path, hours=True))
    hours.check_videos(["short.mp4"], [119.0], "what?", 0.1)
    with pytest.raises(UserError, match="long.mp4: 130 seconds are longer than the 120 for which"):
        hours.check_videos(["short.mp4", "long.mp4"], [10.0, 130.0], "what?", 0.1)


def test_frames_to_be_generated(processor: Processor) -> None:
    grid = processor.tokenizer.grid
    codes = np.arange(2 * grid[0] * grid[1], dtype=np.int32).reshape(2, *grid) % 32
    whole = processor.prompts.videos([(codes, [0.0, 0.5])])
    prompt = processor.frames_prompt("", codes, 2.0)
    assert prompt[:-1].tolist() == whole[: len(prompt) - 1].tolist()  # another frame follows, so eof
    assert prompt[-1] == processor.prompts.vocabulary.eof
    period = processor.prompts.period(grid)
    processor.check_frames(processor.max_length - 2 * period, 1, 1, 1.0)
    with pytest.raises(UserError, match="2 frames beside the 1 of the video do not fit"):
        processor.check_frames(processor.max_length - 2 * period, 1, 2, 1.0)
    with pytest.raises(UserError, match="shorten the prompt"):
        processor.check_frames(processor.max_length - 1, 0, 1, 0.0)
