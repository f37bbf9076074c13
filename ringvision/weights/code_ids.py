"""Ids of a model whose codes lie anywhere in its vocabulary (Chameleon, Emu3), in the order that this project
keeps: text, codes, eof, eov.

    their config's vocabulary_map, {piece: id} -> CodeIds -> arrays that turn ids, rows of tables and a
    tokenizer.json either way

Such a model is imported with its rows in our order, rather than with a map that every look-up of an id has to
go through: an id is text or a code by its range, so that what the model may generate is a prefix of its
logits (Chameleon's library masks its codes for that), and nothing else here needs to know of it. The
tokenizer.json is renumbered alike, and loses the pieces that stand for codes. The model has no eof and eov of
its own: both are given the row of the piece that ends a picture there; its pictures stand alone
(`StreamFormat.picture`) and nothing reads them. Going back, these two rows are dropped. What is exported has
their ids.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ringvision.data.generation_format import GenerationFormat
from ringvision.data.stream import StreamFormat
from ringvision.errors import UserError
from ringvision.models.transformer import TransformerConfig
from ringvision.vocabulary import Vocabulary
from ringvision.weights import llama
from ringvision.weights.family import Folder, Settings, transformer_folder
from ringvision.weights.table import NameRow, Shape, Table, Transform
from ringvision.weights.tensors import Tensors

TOKENIZER = "tokenizer"
"""The folder of the video tokenizer within the model's."""
EXTRA = 2
"""Rows that ours has and theirs has not: eof and eov."""


@dataclass(frozen=True)
class CodeIds:
    """vocab_size: how many ids they have. codes: their id of each code, in the order of codes. frame_end:
    their id of what ends a picture.

    UserError where two codes share an id, or an id is not in the vocabulary.
    """

    vocab_size: int
    codes: tuple[int, ...]
    frame_end: int

    def __post_init__(self) -> None:
        ids = {*self.codes, self.frame_end}
        if not self.codes or len(ids) != len(self.codes) + 1 or min(ids) < 0 or max(ids) >= self.vocab_size:
            raise UserError(
                f"a vocabulary_map of {len(self.codes)} codes with {len(set(self.codes))} ids: "
                "expected one id of its own for each, "
                f"from 0 to {self.vocab_size - 1}, and another for the end of a picture; take the "
                "config.json that came with the weights"
            )

    @property
    def text_size(self) -> int:
        return self.vocab_size - len(self.codes)

    @cached_property
    def theirs(self) -> np.ndarray:
        """int32 [vocab_size + 2]: their id of each of ours."""
        text = np.setdiff1d(np.arange(self.vocab_size), self.codes)
        return np.concatenate([text, self.codes, [self.frame_end] * EXTRA]).astype(np.int32)

    @cached_property
    def ours(self) -> np.ndarray:
        """int32 [vocab_size]: our id of each of theirs."""
        return np.argsort(self.theirs[: self.vocab_size]).astype(np.int32)

    def vocabulary(self, bos: int, eos: int, vision_start: int, vision_end: int) -> Vocabulary:
        """Our vocabulary.

        Args:
            bos: their id of what begins a text.
            eos: their id of what ends one.
            vision_start: their id of what comes before a picture.
            vision_end: their id of what comes behind it.

        Returns:
            the same pieces by our ids.

        Raises:
            UserError: where one is not among their ids.
        """
        given = (bos, eos, vision_start, vision_end)
        if min(given) < 0 or max(given) >= self.vocab_size:
            raise UserError(
                f"special pieces with the ids {given}; expected 0 to {self.vocab_size - 1}: take the "
                "config that came with these"
            )
        bos, eos, vision_start, vision_end = (int(self.ours[id]) for id in given)
        return Vocabulary(self.text_size, len(self.codes), bos, eos, (vision_start,), (vision_end,))

    def rows(self, *, columns: bool = False) -> Transform:
        """Their table [vocab_size, D] <-> ours, [vocab_size + 2, D], or [D, vocab_size + 2] where `columns`;
        of any dtype.
        """

        def into(x: np.ndarray, shape: Shape) -> np.ndarray:
            return x[self.theirs].T if columns else x[self.theirs]  # rows (vocab_size + 2, D)

        def back(x: np.ndarray) -> np.ndarray:
            return (x.T if columns else x)[self.ours]  # (vocab_size, D)

        return Transform("rows in our order" + " transposed" * columns, into, back)

    def renumber(self, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
        """A tokenizer.json (parsed) with our ids in place of theirs, and without the codes.

        UserError where that cannot be, as with ids that the model does not have, or a vocabulary without ids
        (unigram).
        """
        changed = deepcopy(dict(tokenizer))
        try:
            model = changed["model"]
            pieces = {piece: int(self.ours[id]) for piece, id in model["vocab"].items()}
            model["vocab"] = {
                piece: id
                for piece, id in sorted(pieces.items(), key=lambda item: item[1])
                if id < self.text_size
            }
            added = [
                {**token, "id": int(self.ours[token["id"]])} for token in changed.get("added_tokens") or ()
            ]
            changed["added_tokens"] = sorted(
                (token for token in added if token["id"] < self.text_size), key=lambda token: token["id"]
            )
            _renumber_specials(changed.get("post_processor"), self.ours)
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"a tokenizer.json that does not fit a model of {self.vocab_size} ids ({error}); take "
                "the one that came with the weights"
            ) from error
        return changed


def mapped(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object within a config.json. UserError where the config has none of this name."""
    if not isinstance(config.get(name), Mapping):
        raise UserError(
            f"a config.json of {config.get('model_type')} without {name}; take the one that came "
            "with the weights"
        )
    return config[name]


def model_folder(
    transformer: TransformerConfig,
    table: Table,
    words: Vocabulary,
    config: Mapping[str, Any],
    stream: StreamFormat,
    generation: GenerationFormat | None = None,
) -> Folder:
    """The folder of such a model: a transformer's, which names its tokenizer and says how it is prompted. It
    keeps their config, which tells where their ids are.

    Args:
        transformer: the language model's architecture, with our number of ids.
        table: which of its tensors is which of theirs.
        words: our vocabulary.
        config: their config.json.
        stream: how pictures and questions are written.
        generation: how the model is asked for pictures; None: it generates none.

    Returns:
        the folder.
    """
    folder = transformer_folder(transformer, table, words, {"bos": words.bos, "eos": words.eos})
    asked = {"stream": stream.to_dict()} | ({"generation": generation.to_dict()} if generation else {})
    return replace(
        folder, config={**folder.config, **asked, "video_tokenizer": TOKENIZER, "hugging_face": dict(config)}
    )


def check_rows(settings: Settings, tensors: Tensors, prefix: str) -> None:
    """Notes in `settings` where the config speaks of another number of ids than the file has rows: a map over
    them is made before the file's shapes are checked.
    """
    shape = tensors.specs[prefix + llama.EMBEDDING].shape
    if settings.whole("vocab_size", default=shape[0] if shape else 1) not in shape[:1]:
        settings.wrong.append(
            f"vocab_size is {settings.get('vocab_size')}, and {llama.EMBEDDING} has the shape {list(shape)}"
        )


def model_rows(ids: CodeIds) -> tuple[NameRow, ...]:
    """Llama's table of names, its two tables of tokens in our order."""
    ends = {"embed.table": ids.rows(), "unembed.kernel": ids.rows(columns=True)}
    return tuple(replace(row, transform=ends[row.ours]) if row.ours in ends else row for row in llama.ROWS)


def ids_by_code(
    vocabulary_map: Mapping[str, Any], pattern: str, number: Mapping[int, int | None] | None = None
) -> tuple[int, ...]:
    """The ids of the pieces whose whole name matches `pattern`, by the code that its group 1 holds (its
    letters translated by `number`).

    UserError where a code from 0 to the largest is missing, or the map has none.
    """
    found = {}
    for piece in vocabulary_map:
        if match := re.fullmatch(pattern, piece):
            found[int(match[1].translate(number or {}))] = piece_id(vocabulary_map, piece)
    if not found or len(found) != max(found) + 1:
        raise UserError(
            f"a vocabulary_map with {len(found)} pieces for codes, the largest "
            f"{max(found, default=None)}: expected one for each code from "
            f"0 on (named as {pattern}); take the config.json that came with the weights"
        )
    return tuple(found[code] for code in range(len(found)))


def piece_id(vocabulary_map: Mapping[str, Any], *names: str) -> int:
    """The id of the first of these pieces that the map has. UserError where it has none."""
    id = next((vocabulary_map[name] for name in names if name in vocabulary_map), None)
    if isinstance(id, bool) or not isinstance(id, int):
        raise UserError(
            f"a vocabulary_map without an id for {' or '.join(names)}; take the config.json that "
            "came with the weights"
        )
    return id


def _renumber_specials(part: Any, ours: np.ndarray) -> None:
    """A post processor's ids, changed in place: `{"id": "<s>", "ids": [1]}` of a template, and `["<s>", 1]`
    of the older kinds.
    """
    if isinstance(part, list):
        for entry in part:
            _renumber_specials(entry, ours)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == "ids":
                part[key] = [int(ours[id]) for id in value]
            elif key in ("cls", "sep") and isinstance(value, list):
                part[key] = [value[0], int(ours[value[1]])]
            else:
                _renumber_specials(value, ours)
