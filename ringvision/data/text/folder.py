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


def save_text_tokenizer(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[str]:
    """Copies the text tokenizer of folder `source` into another, byte for byte, with its settings. -> the
    names of the files copied.

    UserError, and nothing is copied, where `source` holds no text tokenizer that can be read, or one of the
    files is a link that leads elsewhere.
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
