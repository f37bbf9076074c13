"""Text <-> token ids by a tokenizer.json of Hugging Face's `tokenizers`: byte-level BPE (Llama 3, SmolLM2,
Qwen) and the sentencepiece kind (Llama 2, Mistral).

In: a folder with tokenizer.json and a tokenizer_config.json that names the special tokens. Out: a
`TextTokenizer` with the ids that the package `tokenizers` gives, except that a user's text never becomes
special tokens.
"""

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ringvision.data.text.settings import ADVICE, MOST_BYTES, TOKENIZER_FILE, read_settings
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.errors import UserError
from ringvision.untrusted_files import read_object
from tokenizers import Tokenizer

MOST_PARTS = 1 << 23
MOST_IDS = 1 << 20
_SPACE = "\u2581"


class HuggingFaceTokenizer(TextTokenizer):
    """The tokenizer in `folder`. UserError where it is missing, damaged, or of a kind whose ids do not stand
    for bytes (WordPiece).
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder) / TOKENIZER_FILE
        settings = read_settings(folder)
        described = read_object(path, ADVICE, most_bytes=MOST_BYTES, most_parts=MOST_PARTS)
        self._tokenizer = _parse(path, json.dumps(described))
        self._later = self._tokenizer
        if (described.get("pre_tokenizer") or {}).get("prepend_scheme") == "first":
            self._later = _parse(
                path,
                json.dumps(
                    described | {"pre_tokenizer": described["pre_tokenizer"] | {"prepend_scheme": "never"}}
                ),
            )
        added = self._tokenizer.get_added_tokens_decoder()
        specials = {entry.content: token for token, entry in added.items() if entry.special}
        spaced = {entry.content: (entry.lstrip, entry.rstrip) for entry in added.values()}
        bos, eos = (self._named(settings, name) for name in ("bos_token", "eos_token"))
        opens_with_space = _strips(described.get("decoder") or {})
        super().__init__(
            self._all_surfaces(path, described),
            specials,
            bos,
            eos,
            opens_with_space=opens_with_space,
            spaced=spaced,
        )
        self._special_ids = frozenset(specials.values()) - {self._tokenizer.token_to_id(_unknown(described))}

    def _ids(self, text: str, first: bool) -> Sequence[int]:
        tokenizer = self._tokenizer if first else self._later
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        if self._special_ids.isdisjoint(ids):
            return ids
        # A vocabulary may have the text of a special token as an ordinary word. Cut in two, it is not found.
        cut = (
            [half for part in self._marks.split(text) for half in (part[:1], part[1:]) if half]
            if self._marks
            else []
        )
        halves = [
            (self._later if at else tokenizer).encode(half, add_special_tokens=False).ids
            for at, half in enumerate(cut)
        ]
        return [token for half in halves for token in half if token not in self._special_ids]

    def _named(self, settings: Mapping[str, Any], name: str) -> int | None:
        """The id of the special token that the settings name; None where they name none."""
        content = settings.get(name)
        content = content.get("content") if isinstance(content, Mapping) else content
        token: int | None = self._tokenizer.token_to_id(content) if isinstance(content, str) else None
        return token

    def _all_surfaces(self, path: Path, described: Mapping[str, Any]) -> list[bytes]:
        """The bytes of every id. UserError where there are none, or too many."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        size = max(vocabulary.values(), default=-1) + 1
        if not 0 < size <= MOST_IDS:
            raise UserError(
                f"{path}: ids up to {size - 1} were found; expected 1 to {MOST_IDS} ids: download it again"
            )
        added = self._tokenizer.get_added_tokens_decoder()
        surface = _surface_by(described.get("decoder"), path)
        surfaces = [b""] * size
        for piece, token in vocabulary.items():
            if token not in added:
                surfaces[token] = surface(piece)
            elif not added[token].special:
                surfaces[token] = piece.encode()
        return surfaces


def _parse(path: Path, text: str) -> Tokenizer:
    """The tokenizer in the JSON `text`, without truncation and padding. path: for the message."""
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the package raises nothing narrower
        raise UserError(
            f"{path}: no tokenizer that the package `tokenizers` reads ({error}); download it again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _steps(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of a decoder."""
    return list(decoder.get("decoders") or []) if decoder.get("type") == "Sequence" else [decoder]


def _strips(decoder: Mapping[str, Any]) -> bool:
    """Whether the decoder removes a space at the front of the text."""
    return any(
        (step.get("type") == "Strip" and step.get("content") == " " and step.get("start"))
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in _steps(decoder)
    )


def _unknown(described: Mapping[str, Any]) -> str:
    """The text of the token for unknown characters; "" where there is none."""
    model = described["model"]
    unknown = model.get("unk_token") or ""
    if isinstance(number := model.get("unk_id"), int) and 0 <= number < len(model["vocab"]):
        unknown = model["vocab"][number][0]
    return str(unknown)


def _surface_by(decoder: Mapping[str, Any] | None, path: Path) -> Any:
    """-> a function that gives the bytes of a piece, by the kind of decoder. UserError for an unknown
    kind.
    """
    kinds = {str(step.get("type")) for step in _steps(decoder or {})}
    if "ByteLevel" in kinds:
        letters = byte_letters()
        values = {letter: byte for byte, letter in enumerate(letters)}
        return lambda piece: b"".join(
            bytes([values[letter]]) if letter in values else letter.encode() for letter in piece
        )
    if kinds & {"ByteFallback", "Metaspace"} or any(
        step.get("type") == "Replace" for step in _steps(decoder or {})
    ):
        bytes_of = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
        return lambda piece: bytes_of.get(piece) or piece.replace(_SPACE, " ").encode()
    known = "ByteLevel, Metaspace, or Replace with ByteFallback"
    raise UserError(
        f"{path}: its decoder is {', '.join(sorted(kinds))}; expected {known}: this kind of "
        "tokenizer is not supported"
    )


@lru_cache(maxsize=1)
def byte_letters() -> str:
    """The letter with which byte-level BPE (Radford et al., 2019) writes each of the 256 bytes: visible
    Latin-1 characters are written as themselves, the others as the letters from U+0100 on, in turn.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in visible else next(spare)) for byte in range(256))
