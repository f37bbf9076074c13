"""The settings beside a text tokenizer: the names of their files in a model folder, and what they say.

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
"""The files that say how text is tokenized and when an answer ends."""
MOST_BYTES = 128 << 20
ADVICE = "download it again"


def read_settings(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What tokenizer_config.json says, and special_tokens_map.json where the first says nothing; {} where
    there is neither. UserError where one is damaged.
    """
    paths = (Path(folder, name) for name in ("special_tokens_map.json", SETTINGS_FILE))
    return {
        name: value for path in paths if path.is_file() for name, value in read_object(path, ADVICE).items()
    }
