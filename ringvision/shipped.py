"""The folders that are shipped with the code: tokenizers/, demos/, configs/, and the models in them.

In a checkout they are beside the package; in an installed wheel they are inside it, under
`ringvision/_shipped/`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringvision.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
FOLDERS = ("tokenizers", "demos", "configs")


def folder(name: str) -> Path:
    """The folder `tokenizers`, `demos` or `configs`.

    Raises:
        UserError: where this installation does not have it.
    """
    if name not in FOLDERS:
        raise ValueError(f"{name!r} is not shipped; expected one of {', '.join(FOLDERS)}")
    for path in (_PACKAGE / "_shipped" / name, _PACKAGE.parent / name):
        if path.is_dir():
            return path
    raise UserError(
        f"this installation of ringvision lacks its folder {name}/; install it again, or run from a checkout"
    )


def model() -> Path:
    """The folder of the shipped assistant, demos/model.

    Raises:
        UserError: where it is not there.
    """
    path = folder("demos") / "model"
    if not (path / "config.json").is_file():
        raise UserError(
            "the shipped demos/model is not there; pass --model DIR, or make one with "
            "scripts/make_demo_model.sh"
        )
    return path


def tokenizers() -> dict[str, Path]:
    """The folder of every shipped video tokenizer, by its name."""
    return {path.parent.name: path.parent for path in sorted(folder("tokenizers").glob("*/config.json"))}


def tokenizer(name: str) -> Path:
    """The folder of a video tokenizer: a shipped one of this name, or the folder at this path.

    Raises:
        UserError: where there is neither.
    """
    known = tokenizers()
    if name in known:
        return known[name]
    if (Path(name) / "config.json").is_file():
        return Path(name)
    raise UserError(
        f"no video tokenizer {name!r}: shipped are {', '.join(known) or 'none'}; give one of "
        "these, or a folder that holds one"
    )


def tokenizer_of(
    model: Path, settings: Mapping[str, Any], given: str | os.PathLike[str] | None = None
) -> Path:
    """The folder of the video tokenizer that a model works with.

    Args:
        model: the model's folder.
        settings: its config.json, parsed; `video_tokenizer` names a folder inside the model's, or what
            `tokenizer` takes.
        given: a name or path that is taken in the place of that.

    Returns:
        Its path.

    Raises:
        UserError: where none is named, or none is there.
    """
    name = os.fspath(given or settings.get("video_tokenizer") or "")
    if not name:
        raise UserError(
            f"{model} names no video_tokenizer, which turns pictures into codes and back; give one with "
            "--tokenizer NAME|DIR, here or when it is imported"
        )
    own = model / name
    return own if given is None and (own / "config.json").is_file() else tokenizer(name)


def default_tokenizer() -> Path:
    """The folder of the only shipped tokenizer; where there are several, of the shipped model's."""
    known = tokenizers()
    if len(known) == 1:
        return next(iter(known.values()))
    config = json.loads((model() / "config.json").read_text(encoding="utf-8"))
    return tokenizer(config["video_tokenizer"])
