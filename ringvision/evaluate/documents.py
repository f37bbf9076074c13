"""What a model's predictions are scored on: the documents of a path, as tokens of the model's own tokenizers.

    texts, conversations   any source of TextData       bos text eos; conversations: what the assistant says
    tokenized videos       a folder of `ringvision tokenize`   the video's codes, and answers about it

A text that is longer than a piece may be is cut into pieces, each behind a bos of its own; of a video or a
conversation the first piece alone is taken, since later ones would not begin as what was trained on does.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ringvision import shipped
from ringvision.data.sources import BadRecord, DataSource, TextData, TokenizedData
from ringvision.data.stream import PromptProcessor, StreamFormat
from ringvision.data.text.chat_template import TEMPLATE_FILE
from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.settings import read_settings
from ringvision.data.tokenized import FORMATS
from ringvision.errors import UserError
from ringvision.model_folder import read_config
from ringvision.video_tokenizer import identify
from ringvision.vocabulary import Vocabulary


class Piece(NamedTuple):
    """A part of a document. tokens: int32 [n]. counted: bool [n], those whose prediction is scored."""

    tokens: np.ndarray
    counted: np.ndarray


class Documents:
    """The documents of a path, by number.

    Args:
        path: files of text, or a folder that `ringvision tokenize` wrote.
        model: the folder of the model that is to read them.
        field: of a record that holds text or a conversation.
        length: tokens of the longest piece.

    Raises:
        UserError: there is no document, or the model does not read such.
    """

    def __init__(self, path: str, model: str | os.PathLike[str], field: str, length: int) -> None:
        self.length = length
        self.processor = _processor(Path(model))
        self.source = _source(path, Path(model), self.processor, field, length)

    def __len__(self) -> int:
        return len(self.source)

    def pieces(self, number: int) -> Iterator[Piece]:
        """Those of a document. BadRecord where it cannot be read."""
        example = self.source.example(number, np.random.default_rng([17, number]), 0)
        tokens = example.tokens
        counted = example.loss_mask > 0
        yield Piece(tokens[: self.length], counted[: self.length])
        if example.answers:
            return
        bos = np.array([self.processor.vocabulary.bos], np.int32)
        for start in range(self.length, len(tokens), self.length - 1):
            part = slice(start, start + self.length - 1)
            yield Piece(np.append(bos, tokens[part]), np.append(False, counted[part]))

    def is_code(self, tokens: np.ndarray) -> np.ndarray:
        """int [n] -> bool [n]: what belongs to a video and not to words."""
        return self.processor.vocabulary.is_vision(tokens)


def _processor(model: Path) -> PromptProcessor:
    settings = read_config(model)
    text = load_text_tokenizer(model)
    if settings.get("vocabulary"):
        vocabulary = Vocabulary.from_dict(settings["vocabulary"])
    else:
        bos = text.eos if text.bos is None else text.bos
        if bos is None:
            raise UserError(
                f"{model}: its text tokenizer names neither a beginning nor an end of text (eos_token); say "
                "one in tokenizer_config.json"
            )
        vocabulary = Vocabulary.of_text(text.size, bos, bos if text.eos is None else text.eos)
    stream = StreamFormat.from_dict(settings["stream"]) if settings.get("stream") else StreamFormat()
    return PromptProcessor(text, vocabulary, stream)


def _source(path: str, model: Path, processor: PromptProcessor, field: str, length: int) -> DataSource:
    if not (os.path.isdir(path) and any(known.shards(path) for known in FORMATS.values())):
        chats = (model / TEMPLATE_FILE).is_file() or bool(read_settings(model).get("chat_template"))
        return TextData(path, field, chat_template=str(model) if chats else "").open(processor, length)
    if processor.vocabulary.text_alone:
        raise UserError(
            f"{path} holds videos, and {model} reads text alone; give the folder of a model that sees"
        )
    source = TokenizedData(path, turns_more=False, vision_weight=1.0).open(processor, length)
    own = identify(shipped.tokenizer_of(model, read_config(model), None))
    if source.vision is not None and source.vision.tokenizer != own.hash:
        raise UserError(
            f"{path} was tokenized by another tokenizer ({source.vision.tokenizer[:8]}) than that of {model} "
            f"({own.hash[:8]}); tokenize the videos with the model's"
        )
    return source


__all__ = ["BadRecord", "Documents", "Piece"]
