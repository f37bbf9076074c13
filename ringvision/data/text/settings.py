"""The settings beside a text tokenizer: the names of the files that a model folder may hold, and what they
say.

In: a model folder, which anybody may have written. Out: its special tokens and chat template, as JSON values.
"""

import os
from pathlib import Path
from typing import Any

from ringvision.untrusted_files import read_object

OWN_FILE = "text.model"
SENTENCEPIECE_FILE = "tokenizer.model"
TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
FILES = (
    OWN_FILE,
    TOKENIZER_FILE,
    SENTENCEPIECE_FILE,
    SETTINGS_FILE,
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""What a folder may hold that says how text is read and when an answer ends."""
MOST_BYTES = 128 << 20
ADVICE = "download it again"


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """tokenizer_config.json, and what special_tokens_map.json says beside it; {} where there is neither.
    UserError where one is damaged.
    """
    paths = (Path(folder, name) for name in ("special_tokens_map.json", SETTINGS_FILE))
    return {
        name: value for path in paths if path.is_file() for name, value in read_object(path, ADVICE).items()
    }
