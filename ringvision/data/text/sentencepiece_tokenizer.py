"""Text <-> token ids by sentencepiece models: ours, which lose nothing, and other projects'.

In: text. Out: ids in [0, size), the first rows of the vocabulary. With our models every text comes back
exactly from its ids: nothing is normalised, spaces are kept, and what has no piece of its own is spelt in
bytes. `<vision>`, `</vision>` and the whole numbers 0 to 99 are single pieces everywhere, so that "12" has
the same id in a time stamp, a question and an answer.

folder.py opens whichever text tokenizer a model folder holds.
"""

import io
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.errors import UserError

VISION_START = "<vision>"
VISION_END = "</vision>"
NUMBERS = 100
MOST_BYTES = 128 << 20
LONGEST_KEPT = 256
"""Characters of a text whose ids are kept for the next time: questions and answers recur, documents don't."""
_SPACE = "\u2581"  # what sentencepiece writes for a space inside its pieces
_LITERAL_SPACE = [f"<0x{byte:02X}>" for byte in _SPACE.encode()]
_BREAKS = re.compile(rf"(?<=<)(?=/?vision>)|({_SPACE})")


class LosslessTokenizer(TextTokenizer):
    """Ours: `decode(encode(text)) == text` for every text.

    size: number of ids. bos, eos: the ids that open and close a text. vision_start, vision_end: the ids (a
    tuple each) before and after a video; `encode` never returns them, whatever the text says.

    UserError where the sentencepiece model in `model_file` is missing, damaged, without byte fallback, or
    normalises text.
    """

    bos: int
    eos: int

    def __init__(self, model_file: str | os.PathLike[str]) -> None:
        _check_identity(Path(model_file))
        self.serialized, self._pieces = _read(Path(model_file))
        bos = self._pieces.bos_id()
        eos = self._pieces.eos_id()
        unknown = self._pieces.unk_id()
        missing = [
            piece
            for piece in (VISION_START, VISION_END, *_LITERAL_SPACE)
            if self._pieces.PieceToId(piece) == unknown
        ]
        if missing or bos < 0 or eos < 0:
            raise UserError(
                f"{model_file}: lacks {', '.join(missing) or '<s> or </s>'}; train it with "
                "ringvision.data.text.sentencepiece_tokenizer.train_text_tokenizer"
            )
        super().__init__(_surfaces(self._pieces, unknown=b""), _controls(self._pieces), bos, eos)
        self.vision_start: tuple[int, ...] = (self._pieces.PieceToId(VISION_START),)
        self.vision_end: tuple[int, ...] = (self._pieces.PieceToId(VISION_END),)
        self._literal_space = [self._pieces.PieceToId(piece) for piece in _LITERAL_SPACE]
        self._cached = lru_cache(maxsize=1 << 16)(self._uncached)

    def _ids(self, text: str, first: bool) -> Sequence[int]:
        return self._cached(text) if len(text) <= LONGEST_KEPT else self._uncached(text)

    def _uncached(self, text: str) -> tuple[int, ...]:
        tokens: list[int] = []
        for part in _BREAKS.split(text):
            if part == _SPACE:
                tokens += self._literal_space
            elif part:
                tokens += self._pieces.EncodeAsIds(part)
        return tuple(tokens)


class SentencePieceTokenizer(TextTokenizer):
    """Other projects' sentencepiece models, such as Llama 2's or LWM's. UserError where the file is missing
    or damaged.

    Text is normalised as the model says. `<vision>` is ordinary text of several pieces. Characters for which
    the model has neither a piece nor bytes come back as U+FFFD.
    """

    def __init__(self, model_file: str | os.PathLike[str]) -> None:
        _, self._pieces = _read(Path(model_file))
        bos, eos = (token if token >= 0 else None for token in (self._pieces.bos_id(), self._pieces.eos_id()))
        opens_with_space = bool(self._pieces.EncodeAsPieces("a")[:1][0].startswith(_SPACE))
        surfaces = _surfaces(self._pieces, unknown="\ufffd".encode())
        super().__init__(surfaces, _controls(self._pieces), bos, eos, opens_with_space=opens_with_space)

    def _ids(self, text: str, first: bool) -> Sequence[int]:
        ids: list[int] = self._pieces.EncodeAsIds(text)
        return ids


def train_text_tokenizer(
    sentences: Iterable[str], path: str | os.PathLike[str], size: int
) -> LosslessTokenizer:
    """Trains a sentencepiece model (byte pair encoding) of at most `size` pieces on `sentences`, and writes
    it to `path` atomically.

    The same sentences in the same order give the same file, byte for byte. 361 pieces are always there: 256
    bytes, 100 numbers, four marks and the unknown. UserError where `size` is too small for these and the
    characters of the sentences, or where there are no sentences.
    """
    lines = [line for sentence in sentences for line in sentence.splitlines() if line.strip()]
    characters = {character for line in lines for character in line}
    least = 3 + 2 + NUMBERS + 256 + len(characters)
    if not lines or size < least:
        raise UserError(
            f"{len(lines)} sentences for a text vocabulary of {size} pieces; give at least one "
            f"sentence and {least} pieces"
            f" (256 bytes, {NUMBERS} numbers, 5 marks, {len(characters)} characters)"
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=[VISION_START, VISION_END, *_numbers()],
        num_threads=1,
        minloglevel=2,
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(model.getvalue())
    os.replace(partial, target)
    return LosslessTokenizer(target)


def _numbers() -> Sequence[str]:
    return [str(number) for number in range(NUMBERS)]


def _read(path: Path) -> tuple[bytes, sentencepiece.SentencePieceProcessor]:
    """-> the bytes of a sentencepiece model, and the processor that was loaded from them."""
    serialized = _content(path)
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        pieces.LoadFromSerializedProto(serialized)
        for token in range(pieces.GetPieceSize()):
            pieces.IdToPiece(token)
    except (RuntimeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not a sentencepiece model; give the .model file that its training wrote"
        ) from error
    return serialized, pieces


def _check_identity(path: Path) -> None:
    """UserError for a model that normalises text. None of ours does, and sentencepiece follows the offsets in
    the table for that without checking them.
    """
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(_content(path))
    except DecodeError:
        raise UserError(
            f"{path}: not a sentencepiece model; give the .model file that its training wrote"
        ) from None
    if model.normalizer_spec.precompiled_charsmap or model.denormalizer_spec.precompiled_charsmap:
        raise UserError(
            f"{path}: normalises text; train it with "
            "ringvision.data.text.sentencepiece_tokenizer.train_text_tokenizer, which does not"
        )


def _content(path: Path) -> bytes:
    """The bytes of a model's file. UserError where it is missing, or larger than any real one."""
    if not path.is_file():
        raise UserError(f"{path}: no text model here; give a sentencepiece .model file")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(
            f"{path}: {path.stat().st_size} bytes, expected at most {MOST_BYTES}; give a "
            "sentencepiece .model file"
        )
    return path.read_bytes()


def _surfaces(pieces: sentencepiece.SentencePieceProcessor, unknown: bytes) -> list[bytes]:
    """The bytes of every piece; b"" for control pieces."""

    def surface(token: int) -> bytes:
        if pieces.IsUnknown(token):
            return unknown
        piece: str = pieces.IdToPiece(token)
        if pieces.IsControl(token):
            return b""
        return bytes([int(piece[3:5], 16)]) if pieces.IsByte(token) else piece.replace(_SPACE, " ").encode()

    return [surface(token) for token in range(pieces.GetPieceSize())]


def _controls(pieces: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    return {
        pieces.IdToPiece(token): token for token in range(pieces.GetPieceSize()) if pieces.IsControl(token)
    }
