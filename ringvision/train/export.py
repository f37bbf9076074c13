"""What a run leaves behind: a model folder that `ringvision ask --model` reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringvision.config import TrainConfig
from ringvision.data.sources import VideosInfo
from ringvision.data.stream import PromptProcessor
from ringvision.model_folder import read_config
from ringvision.train.gathered_model import save_gathered
from ringvision.train.model_files import model_files, video_tokenizer
from ringvision.train.part import Part
from ringvision.train.state import TrainState
from ringvision.tree import flatten

OF_WEIGHTS = ("source", "trained", "grown", "knows")
"""What the config.json of the model that a run starts from says of its weights, which a run changes: where
they came from, what they were trained and measured for. All else that it says stays, but for what the run
itself says.
"""


def exported(state: TrainState, part: Part) -> Any:
    """The parameters that go into the model folder: the whole model, of the average where there is one."""
    return part.whole(state.params if state.average is None else state.average, state.frozen)


def model_settings(
    config: TrainConfig, processor: PromptProcessor, info: VideosInfo | None
) -> dict[str, Any]:
    """What the config.json of a run's model says, but for how long it was trained.

    Args:
        config: of the run, or of its stage.
        processor: its vocabulary and stream format are the model's.
        info: of the videos that are trained on; None: there are none.

    Returns:
        Plain values that JSON can hold.
    """
    before = {} if config.init_from is None else read_config(config.init_from)
    text_alone = processor.vocabulary.text_alone
    settings: dict[str, Any] = {name: value for name, value in before.items() if name not in OF_WEIGHTS}
    settings |= {
        "kind": before.get("kind", "transformer" if text_alone else "assistant"),
        "name": config.name,
        "transformer": config.transformer.to_dict(),
    }
    if config.data.text_model not in (None, config.init_from):
        settings.pop("text", None)  # ids of another text tokenizer
    if not text_alone:
        settings |= {"vocabulary": processor.vocabulary.to_dict(), "stream": processor.format.to_dict()}
        settings |= _video_settings(config, info)
    if isinstance(source := before.get("source"), Mapping):
        settings["base"] = {"name": before.get("name"), "license": source.get("license")}
    questions = (source.frame_question for source in config.data.sources if source.weight > 0)
    if question := next(filter(None, questions), ""):
        settings.setdefault("generation", {"question": question, "candidates": 64})
    return settings


def export(folder: Path, settings: Mapping[str, Any], part: Part, state: TrainState) -> None:
    """Write the model folder that `ringvision ask --model` reads; every process of the run must call it.

    Args:
        folder: is made where it is missing; a model in it is replaced.
        settings: as `model_settings` gives them.
        part: which parameters are trained, and by which config.
        state: what was trained.

    Raises:
        UserError: on every process where the disk of process 0 does not take it.
    """
    config = part.config
    tokens = int(state.step) * config.data.rows * config.data.length
    settings = {**settings, "trained": {"steps": int(state.step), "tokens": tokens}}
    save_gathered(folder, settings, flatten(exported(state, part)), model_files(config))


def _video_settings(config: TrainConfig, info: VideosInfo | None) -> dict[str, Any]:
    """Which video tokenizer the model works with, and at how many frames a second."""
    name, _ = video_tokenizer(config)
    named = {} if name is None else {"video_tokenizer": name}
    return named if info is None else named | {"video_tokenizer_hash": info.tokenizer, "fps": info.fps}
