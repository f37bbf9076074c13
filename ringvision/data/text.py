"""Text <-> token ids, by a sentencepiece model that loses nothing.

In: text. Out: ids in [0, size), the first rows of the vocabulary. Whatever the text holds comes back from its ids: nothing
is normalised, spaces stay where they are, and what has no piece of its own is spelt in bytes. `<vision>`, `</vision>` and
the whole numbers 0 to 99 are single pieces wherever they stand, so that "12" in a time stamp, a question and an answer is
one and the same id.
"""

import codecs
import io
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import sentencepiece

from ringvision.errors import UserError

VISION_START, VISION_END = "<vision>", "</vision>"
NUMBERS = 100
_SPACE = "\u2581"  # what sentencepiece writes for a space inside its pieces
_LITERAL_SPACE = [f"<0x{byte:02X}>" for byte in _SPACE.encode()]
_BREAKS = re.compile(rf"(?<=<)(?=/?vision>)|({_SPACE})")


class TextTokenizer:
    """Reads the sentencepiece model in `model_file` (UserError where it is missing, damaged or without byte fallback).

    size: number of ids. bos, eos: the ids that open and close a text. vision_start, vision_end: the ids (a tuple each) that
    enclose a video; `encode` gives them for no text, whatever a question may spell.
    """

    def __init__(self, model_file: str | os.PathLike[str]) -> None:
        path = Path(model_file)
        if not path.is_file():
            raise UserError(f"{path}: no text model here; give a sentencepiece .model file")
        self.serialized = path.read_bytes()
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(self.serialized)
        except RuntimeError as error:
            raise UserError(f"{path}: not a sentencepiece model; give the .model file that its training wrote") from error
        self.size: int = self._pieces.GetPieceSize()
        self.bos: int = self._pieces.bos_id()
        self.eos: int = self._pieces.eos_id()
        missing = [piece for piece in (VISION_START, VISION_END, *_LITERAL_SPACE) if self._pieces.PieceToId(piece) == self._pieces.unk_id()]
        if missing or self.bos < 0 or self.eos < 0:
            raise UserError(f"{path}: lacks {', '.join(missing) or '<s> or </s>'}; train it with ringvision.data.text.train_text_tokenizer")
        self.vision_start: tuple[int, ...] = (self._pieces.PieceToId(VISION_START),)
        self.vision_end: tuple[int, ...] = (self._pieces.PieceToId(VISION_END),)
        self._literal_space = [self._pieces.PieceToId(piece) for piece in _LITERAL_SPACE]
        self._bytes = [self._bytes_of(token) for token in range(self.size)]
        self._encode = lru_cache(maxsize=1 << 16)(self._encode_uncached)

    def encode(self, text: str) -> list[int]:
        """Text -> ids, with neither bos nor eos. `decode(encode(text)) == text`. UserError on half of a surrogate pair."""
        return list(self._encode(text))

    def decode(self, tokens: Iterable[int]) -> str:
        """Ids -> text. Ids that stand for no text (bos, eos, codes) give none; bytes that are no UTF-8 give U+FFFD."""
        return b"".join(map(self._surface, tokens)).decode("utf-8", errors="replace")

    def stream(self) -> "TextStream":
        """A decoder to be fed one id at a time."""
        return TextStream(self)

    def _surface(self, token: int) -> bytes:
        return self._bytes[token] if 0 <= token < self.size else b""

    def _bytes_of(self, token: int) -> bytes:
        if self._pieces.IsControl(token) or self._pieces.IsUnknown(token):
            return b""
        piece: str = self._pieces.IdToPiece(token)
        return bytes([int(piece[3:5], 16)]) if self._pieces.IsByte(token) else piece.replace(_SPACE, " ").encode()

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{text!r} is not valid Unicode text; remove the character at {error.start}") from error
        tokens: list[int] = []
        for part in _BREAKS.split(text):
            if part == _SPACE:
                tokens += self._literal_space
            elif part:
                tokens += self._pieces.EncodeAsIds(part)
        return tuple(tokens)


class TextStream:
    """Decodes ids as they are generated: `push` gives the text that is certain by now, `finish` what is left.

    The pieces together equal `decode` of all the ids: a character spelt in several bytes is held back until its last one.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer._surface(token))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def train_text_tokenizer(sentences: Iterable[str], path: str | os.PathLike[str], size: int) -> TextTokenizer:
    """Train a sentencepiece model (byte pair encoding) of at most `size` pieces on `sentences` and write it to `path` (atomically).

    The same sentences in the same order give the same file, byte for byte. Of the pieces 361 are spoken for (256 bytes, the
    numbers, four marks and the unknown). UserError where size is smaller than that and the characters of the sentences, or
    where there are no sentences.
    """
    lines = [line for sentence in sentences for line in sentence.splitlines() if line.strip()]
    characters = {character for line in lines for character in line}
    least = 3 + 2 + NUMBERS + 256 + len(characters)
    if not lines or size < least:
        raise UserError(
            f"{len(lines)} sentences for a text vocabulary of {size} pieces; give at least one sentence and {least} pieces"
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
    aside = target.with_name(target.name + ".partial")
    aside.write_bytes(model.getvalue())
    os.replace(aside, target)
    return TextTokenizer(target)


def _numbers() -> Sequence[str]:
    return [str(number) for number in range(NUMBERS)]
