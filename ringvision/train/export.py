"""What a run leaves behind: a model folder that `ringvision ask --model` reads."""

from pathlib import Path
from typing import Any

from ringvision.data.sources import VideosInfo
from ringvision.data.stream import PromptProcessor
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer
from ringvision.train.gathered_model import save_gathered
from ringvision.train.part import Part
from ringvision.train.state import TrainState
from ringvision.tree import flatten


def exported(state: TrainState, part: Part) -> Any:
    """The parameters that go into the model folder: the whole model, of the average where there is one."""
    return part.whole(state.params if state.average is None else state.average, state.frozen)


def export(folder: Path, part: Part, processor: PromptProcessor, info: VideosInfo, state: TrainState) -> None:
    """Write the model folder that `ringvision ask --model` reads; every process of the run must call it.

    Args:
        folder: is made where it is missing; a model in it is replaced.
        part: which parameters are trained, and by which config.
        processor: its text model, vocabulary and stream format go into the folder.
        info: of the videos that were trained on.
        state: what was trained.

    Raises:
        UserError: on every process where the disk of process 0 does not take it.
    """
    config = part.config
    assert isinstance(processor.text, LosslessTokenizer)  # the only kind that a trainer reads
    settings: dict[str, Any] = {
        "kind": "assistant",
        "name": config.name,
        "transformer": config.transformer.to_dict(),
        "vocabulary": processor.vocabulary.to_dict(),
        "stream": processor.format.to_dict(),
        "video_tokenizer": config.data.tokenizer,
        "video_tokenizer_hash": info.tokenizer,
        "fps": info.fps,
        "trained": {
            "steps": int(state.step),
            "tokens": int(state.step) * config.data.rows * config.data.length,
        },
    }
    if config.data.frame_question:
        settings["generation"] = {"question": config.data.frame_question, "candidates": 64}
    files = {"text.model": processor.text.serialized}
    save_gathered(folder, settings, flatten(exported(state, part)), files)
