"""A language model and its video tokenizer that came out of one file (Chameleon, Emu3) go back into one.

    model folder + its tokenizer/ --the tables of their family, the other way--> one file of safetensors with
    its config.json

Ids are theirs again, and the rows that eof and eov were given are dropped. The text tokenizer is not written:
ours has lost the pieces that stand for codes, so a user adds the one that came with the weights. Memory holds
one tensor of ours at a time.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.errors import UserError
from ringvision.model_folder import ModelReader, ModelWriter
from ringvision.models.emu3_tokenizer import Emu3Tokenizer
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.models.vqgan import VQGAN
from ringvision.weights import chameleon, emu3
from ringvision.weights.code_ids import EXTRA, TOKENIZER
from ringvision.weights.converting import Progress, foreign_tensors
from ringvision.weights.family import shapes_of
from ringvision.weights.table import Shape, Table

MEAN = "running_mean"
COUNT = "num_batches_tracked"
"""transformers looks for the second wherever there is the first, and does not use it: it is written as 0."""
PYTORCH = {"format": "pt"}
"""Metadata of safetensors without which versions of transformers 4 refuse them."""


def is_pair(settings: Mapping[str, Any]) -> bool:
    """Whether a model's config.json says that it came from such a file."""
    return isinstance(settings.get("hugging_face"), Mapping)


def export_pair(
    model_folder: Path,
    where: Path,
    settings: Mapping[str, Any],
    *,
    dtype: np.dtype | None = None,
    progress: Progress | None = None,
) -> int:
    """Write it into a folder.

    Args:
        model_folder: the language model's, with its tokenizer in TOKENIZER.
        where: the folder to be filled.
        settings: the model's config.json.
        dtype: of the tensors; None: each tensor's own.
        progress: gets (what, done, of).

    Returns:
        how many tensors were written.

    Raises:
        UserError: where the folder lacks its tokenizer, or its tensors do not fit its config.
    """
    config = settings["hugging_face"]
    transformer = TransformerConfig.from_dict(settings["transformer"])
    expected, tables = _parts(config, transformer)
    with ExitStack() as stack:
        readers = [
            stack.enter_context(ModelReader(folder)) for folder in (model_folder, model_folder / TOKENIZER)
        ]
        check_tensors(readers, expected, model_folder)
        work = [
            (reader, piece)
            for reader, shapes, table in zip(readers, expected, tables)
            for piece in table.pieces(shapes)
        ]
        specs: dict[str, tuple[Shape, Any]] = {
            source.name: (source.shape, dtype or reader.specs[piece.ours][1])
            for reader, piece in work
            for source in piece.sources
        }
        counts = [name.replace(MEAN, COUNT) for name in specs if name.endswith(MEAN)]
        specs |= dict.fromkeys(counts, ((), np.int64))
        kind = np.dtype(dtype or readers[0].specs["embed.table"][1]).name
        theirs = {**_of_both_generations(config), "dtype": kind, "torch_dtype": kind}
        with ModelWriter(where, theirs, specs, metadata=PYTORCH) as writer:
            for name in counts:
                writer.write(name, np.int64(0))
            for tensor, array in foreign_tensors(work, dtype, progress):
                writer.write(tensor.name, array)
    return len(specs)


def _of_both_generations(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what it says of rotary positions for transformers 4 (rope_theta, rope_scaling) and for
    5 (rope_parameters).
    """
    text = config.get("text_config")
    both = {"text_config": _of_both_generations(text)} if isinstance(text, Mapping) else {}
    rope = config.get("rope_parameters") or {
        **(config.get("rope_scaling") or {}),
        "rope_theta": config.get("rope_theta"),
    }
    if rope.get("rope_theta") is None:
        return {**config, **both}
    rope = {"rope_type": "default", **rope}
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    old = {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None if rope["rope_type"] == "default" else scaling,
    }
    return {**config, **both, **old, "rope_parameters": rope}


def _parts(
    config: Mapping[str, Any], transformer: TransformerConfig
) -> tuple[tuple[dict[str, Shape], ...], tuple[Table, Table]]:
    """(names and shapes of ours, tables), each of the language model and of the tokenizer."""
    vocab_size = transformer.vocab_size - EXTRA
    model = shapes_of(Transformer, transformer)
    match config.get("model_type"):
        case "chameleon":
            vqgan = chameleon.tokenizer_config(config)
            shapes = shapes_of(VQGAN, vqgan)
            return (model, shapes), chameleon.tables(config, chameleon.find_code_ids(config, vocab_size))
        case "emu3":
            tokenizer = emu3.tokenizer_config(config)
            shapes = shapes_of(Emu3Tokenizer, tokenizer)
            return (model, shapes), emu3.tables(config, emu3.find_code_ids(config, vocab_size))
        case other:
            raise UserError(
                f"a model that came from one of type {other!r}; expected chameleon or emu3: was its "
                "config.json changed?"
            )


def check_tensors(readers: list[ModelReader], expected: tuple[dict[str, Shape], ...], where: Path) -> None:
    """UserError where what the readers hold is not what is expected of each."""
    wrong = []
    for reader, shapes in zip(readers, expected):
        for name in sorted(shapes.keys() | reader.specs.keys()):
            found = tuple(reader.specs[name][0]) if name in reader.specs else None
            if found != shapes.get(name):
                wrong.append(f"{name} is {found or 'missing'}, expected {shapes.get(name, 'none')}")
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise UserError(
            f"{where} does not fit its config: {shown}; use the config that was saved with these weights"
        )
