"""The text tokenizer of a model folder, whichever kind it holds.

A model folder holds its text tokenizer as `text.model` (our own), `tokenizer.json` (Hugging Face's) or
`tokenizer.model` (other people's sentencepiece). Our own is read here; other people's files are read by a
process of their own (isolation/).
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
    """The text tokenizer of a model folder. UserError where there is none, or it is damaged or of a kind that
    is not known.
    """
    place = Path(folder)
    if (place / OWN_FILE).is_file():
        return LosslessTokenizer(place / OWN_FILE)
    if (place / TOKENIZER_FILE).is_file():
        return IsolatedTokenizer(place / TOKENIZER_FILE)
    if (place / SENTENCEPIECE_FILE).is_file():
        return IsolatedTokenizer(place / SENTENCEPIECE_FILE)
    raise UserError(
        f"{place} holds no text tokenizer; expected {OWN_FILE}, {TOKENIZER_FILE} or "
        f"{SENTENCEPIECE_FILE}: copy one into it"
    )


def save_text_tokenizer(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[str]:
    """Copy the text tokenizer of one folder into another, byte for byte, with its settings; -> the names of
    the files copied.

    UserError, and nothing copied, where `source` holds no text tokenizer that can be read, or one of the
    files is a link to another place.
    """
    load_text_tokenizer(source)
    names = [name for name in FILES if Path(source, name).is_file()]
    for name in names:
        path = Path(source, name)
        if not belongs(path, Path(source)) or path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{path} lies elsewhere, or has more than {MOST_BYTES >> 20} MB; put the file itself there"
            )
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(Path(source, name), Path(folder, name))
    return names
