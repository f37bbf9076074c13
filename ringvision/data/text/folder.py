"""The text tokenizer of a model folder, whichever kind it holds.

    text.model        ours             LosslessTokenizer, in this process
    tokenizer.json    Hugging Face's   IsolatedTokenizer, which reads the file in a process of its own
    tokenizer.model   sentencepiece    IsolatedTokenizer

All are used through TextTokenizer (tokenizer.py); no other module needs to know which kind it is.
"""

import os
import shutil
from pathlib import Path

from ringvision.data.text.isolation.client import IsolatedTokenizer
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer
from ringvision.data.text.settings import FILES, MOST_BYTES, OWN_FILE, SENTENCEPIECE_FILE, TOKENIZER_FILE
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.errors import UserError
from ringvision.untrusted_files import belongs


def load_text_tokenizer(folder: str | os.PathLike[str]) -> TextTokenizer:
    """The text tokenizer of a model folder. UserError where there is none, or it is damaged or of an unknown
    kind.
    """
    folder = Path(folder)
    if (folder / OWN_FILE).is_file():
        return LosslessTokenizer(folder / OWN_FILE)
    if (folder / TOKENIZER_FILE).is_file():
        return IsolatedTokenizer(folder / TOKENIZER_FILE)
    if (folder / SENTENCEPIECE_FILE).is_file():
        return IsolatedTokenizer(folder / SENTENCEPIECE_FILE)
    raise UserError(
        f"{folder} holds no text tokenizer; expected {OWN_FILE}, {TOKENIZER_FILE} or "
        f"{SENTENCEPIECE_FILE}: copy one into it"
    )


class MissingTextTokenizer(TextTokenizer):
    """Stands in for a text tokenizer that a model folder lacks: what needs no text works, and all else raises
    a UserError that says which file to put where.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__([], {}, None, None)
        self.folder = folder

    def _ids(self, text: str, first: bool) -> list[int]:
        raise UserError(
            f"{self.folder} holds no text tokenizer, so the model cannot be told {text[:40]!r}; put the "
            f"{SENTENCEPIECE_FILE} or {TOKENIZER_FILE} that came with its weights into that folder"
        )


def text_tokenizer_or_missing(folder: Path) -> TextTokenizer:
    """The text tokenizer of a model folder, or a `MissingTextTokenizer` where there is none. UserError where
    it is damaged or of an unknown kind.
    """
    there = any((folder / name).is_file() for name in (OWN_FILE, TOKENIZER_FILE, SENTENCEPIECE_FILE))
    return load_text_tokenizer(folder) if there else MissingTextTokenizer(folder)


def text_tokenizer_files(source: str | os.PathLike[str]) -> dict[str, Path]:
    """Name -> path of the files that make the text tokenizer of folder `source`, its settings among them.

    UserError where it holds no text tokenizer that can be read, or one of the files is a link that leads
    elsewhere.
    """
    load_text_tokenizer(source)
    paths = [path for name in FILES if (path := Path(source, name)).is_file()]
    for path in paths:
        if not belongs(path, Path(source)) or path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{path} lies elsewhere, or has more than {MOST_BYTES >> 20} MB; put the file itself there"
            )
    return {path.name: path for path in paths}


def save_text_tokenizer(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[str]:
    """Copies the text tokenizer of folder `source` into another, byte for byte, with its settings. -> the
    names of the files copied. UserError, and nothing is copied, as from `text_tokenizer_files`.
    """
    files = text_tokenizer_files(source)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        shutil.copyfile(path, Path(folder, name))
    return list(files)
