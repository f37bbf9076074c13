"""Where the things that are shipped beside the code lie: tokenizers/, demos/, configs/.

In a checkout they are folders beside the package; in an installed wheel they lie inside it, under
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
    """The folder `tokenizers`, `demos` or `configs`. UserError where this installation does not have it."""
    if name not in FOLDERS:
        raise ValueError(f"{name!r} is not shipped; expected one of {', '.join(FOLDERS)}")
    for place in (_PACKAGE / "_shipped" / name, _PACKAGE.parent / name):
        if place.is_dir():
            return place
    raise UserError(
        f"this installation of ringvision lacks its folder {name}/; install it again, or run from a checkout"
    )


def model() -> Path:
    """The shipped assistant: the model folder demos/model."""
    return _named(
        folder("demos") / "model",
        "config.json",
        "pass --model DIR, or make one with scripts/make_demo_model.sh",
    )


def tokenizers() -> dict[str, Path]:
    """Name -> folder of every video tokenizer that is shipped."""
    return {path.parent.name: path.parent for path in sorted(folder("tokenizers").glob("*/config.json"))}


def tokenizer(name: str) -> Path:
    """A video tokenizer: a shipped one of this name, or the folder of this path."""
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
    """The video tokenizer `given`, as `tokenizer` takes it; or else the one that the model's config.json
    (parsed) names, a folder in the model's or a shipped one.
    """
    name = os.fspath(given or settings.get("video_tokenizer") or "")
    if not name:
        raise UserError(
            f"{model} names no video_tokenizer, which turns pictures into codes and back; give "
            "one with --tokenizer NAME|DIR, here or when"
            " it is imported"
        )
    own = model / name
    return own if given is None and (own / "config.json").is_file() else tokenizer(name)


def default_tokenizer() -> Path:
    """The only tokenizer that is shipped, or the one that the shipped model uses where there are several."""
    known = tokenizers()
    if len(known) == 1:
        return next(iter(known.values()))
    config = json.loads((model() / "config.json").read_text(encoding="utf-8"))
    return tokenizer(config["video_tokenizer"])


def _named(path: Path, holds: str, otherwise: str) -> Path:
    if not (path / holds).is_file():
        raise UserError(f"the shipped {path.parent.name}/{path.name} is not there; {otherwise}")
    return path
