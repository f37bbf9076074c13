"""What a run's model folder has beside its weights: text tokenizer, video tokenizer, licences.

TrainConfig  --model_files-->  {"tokenizer.json": path, "video_tokenizer/config.json": path, ...}
             --video_tokenizer-->  what config.json calls the video tokenizer, and the folder that is copied

The model folder can be moved: whatever is no shipped tokenizer is copied into it.
"""

from pathlib import Path

from ringvision import shipped
from ringvision.config import TrainConfig
from ringvision.data.text.folder import text_tokenizer_files
from ringvision.data.text.settings import OWN_FILE
from ringvision.model_folder import licence_files, own_files, read_config

VIDEO_TOKENIZER_FOLDER = "video_tokenizer"


def model_files(config: TrainConfig) -> dict[str, Path]:
    """The files of a run's model folder beside config and weights.

    Args:
        config: of the run.

    Returns:
        Name in the model folder, with a slash where it is in a folder of its own -> the file that is copied.

    Raises:
        UserError: there is no text tokenizer, or one of its files is a link that leads elsewhere.
    """
    text = Path(str(config.data.text_model or config.init_from))
    files = text_tokenizer_files(text) if text.is_dir() else {OWN_FILE: text}
    name, folder = video_tokenizer(config)
    if folder is not None:
        files |= {f"{name}/{path.name}": path for path in own_files(folder)}
    if config.init_from is not None:
        files |= {path.name: path for path in licence_files(Path(config.init_from))}
    return files


def video_tokenizer(config: TrainConfig) -> tuple[str | None, Path | None]:
    """The video tokenizer of a run's model.

    Args:
        config: of the run.

    Returns:
        What the model's config.json calls it: the name of a shipped one, a folder in the model's, or what the
        config says where no such tokenizer is at hand; None where it says nothing. And the folder that is
        copied into the model's under that name; None: nothing is copied.
    """
    given = config.data.tokenizer
    model = Path(config.init_from or ".")
    before = {} if config.init_from is None else read_config(model)
    name = str(given or before.get("video_tokenizer") or "")
    if not name:
        return None, None
    inside = model / name
    if given is None and (inside / "config.json").is_file():
        # the name was written by others: it must not lead out of the folder that is written
        plain = Path(name).name == name and not name.startswith(".")
        return name if plain else VIDEO_TOKENIZER_FOLDER, inside
    if name not in shipped.tokenizers() and (Path(name) / "config.json").is_file():
        return VIDEO_TOKENIZER_FOLDER, Path(name)
    return name, None
