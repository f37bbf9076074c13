"""A model of ours -> the form that other programs read: Hugging Face's transformers, or LWM.

    model folder ─the family's table, the other way─→ their tensors, one piece at a time ─→ DEST

    hf    config.json, model.safetensors (several and an index above 5 GB)
    lwm   config.json, `streaming_params`: to be loaded as `params::DEST/streaming_params`

The model folder's licences come with it. Imported again, the weights are the same bit for bit. Memory holds
one tensor of ours at a time.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ringvision.data.text.folder import save_text_tokenizer
from ringvision.data.text.settings import OWN_FILE, SENTENCEPIECE_FILE
from ringvision.errors import UserError
from ringvision.model_folder import CONFIG_FILE, ModelReader, ModelWriter, licence_files, read_config
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.outputs import check_output
from ringvision.weights import llama, lwm
from ringvision.weights.atomic_folder import atomic_folder
from ringvision.weights.converting import Progress, Work, foreign_tensors
from ringvision.weights.export_pair import PYTORCH, export_pair, is_pair
from ringvision.weights.export_vqgan import export_vqgan
from ringvision.weights.family import shapes_of
from ringvision.weights.importing import TYPES
from ringvision.weights.streaming import record
from ringvision.weights.table import Shape, Table
from ringvision.weights.tensors import DTYPES

Format = Literal["hf", "lwm"]
FORMATS = ("hf", "lwm")
KINDS = ("transformer", "assistant")
TOKENIZER = "vqgan"
PARAMS_FILE = "streaming_params"


def export_weights(
    model_folder: str | Path,
    dest: str | Path,
    format: Format,
    *,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the model in `model_folder` as the new folder `dest`.

    Args:
        model_folder: a model's, or a VQGAN's.
        dest: the folder to be written.
        format: one of FORMATS.
        dtype: "float32", "bfloat16" or "float16"; None: as it is stored.
        progress: gets (what, done, of).

    Returns:
        {"format", "tensors", "dest"}.

    Raises:
        UserError: where the folder is no model, the other program has no such model, or `dest` exists
        already or lies in the model's folder.
    """
    if format not in FORMATS:
        raise UserError(f"the format {format!r} was given; expected {' or '.join(FORMATS)}")
    if dtype is not None and dtype not in TYPES:
        raise UserError(f"dtype {dtype!r} was given; expected one of {', '.join(TYPES)}")
    check_output(dest, [model_folder])
    settings = read_config(model_folder)
    kind = settings.get("kind")
    folder = Path(model_folder)
    numbers = DTYPES[dtype] if dtype else None
    if kind != TOKENIZER and (kind not in KINDS or not isinstance(settings.get("transformer"), Mapping)):
        raise UserError(
            f"{model_folder} is of kind {kind!r}; give the folder of a model "
            f"(kind {', '.join(KINDS)} or {TOKENIZER})"
        )
    with atomic_folder(Path(dest)) as partial:
        if kind == TOKENIZER:
            tensors = export_vqgan(folder, partial, settings, format, dtype=numbers, progress=progress)
        elif format == "hf" and is_pair(settings):
            tensors = export_pair(folder, partial, settings, dtype=numbers, progress=progress)
        else:
            tensors = _export_transformer(folder, partial, settings, format, numbers, progress)
        for licence in licence_files(folder):
            shutil.copyfile(licence, partial / licence.name)
    return {"format": format, "tensors": tensors, "dest": str(dest)}


def _export_transformer(
    model_folder: Path,
    where: Path,
    settings: Mapping[str, Any],
    format: Format,
    dtype: np.dtype | None,
    progress: Progress | None,
) -> int:
    """Writes a language model into `where`; returns how many tensors it has there."""
    config = TransformerConfig.from_dict(settings["transformer"])
    with ModelReader(model_folder) as reader:
        shapes = _checked(reader, config, str(model_folder))
        dtype = dtype or _widest(reader)
        if format == "hf":
            theirs = llama.config_of(config, settings, dtype.name)
            table = Table(llama.ROWS)
        else:
            theirs = lwm.config_of(config, settings)
            table = Table(lwm.rows(_parts(settings)))
        pieces = table.pieces(shapes)
        write = _write_safetensors if format == "hf" else _write_streaming
        write([(reader, piece) for piece in pieces], where, theirs, dtype, progress)
        _copy_text(model_folder, where)
    return len({source.name for piece in pieces for source in piece.sources})


def _checked(reader: ModelReader, config: TransformerConfig, where: str) -> dict[str, Shape]:
    """The shapes of all our tensors. UserError where the folder holds others."""
    shapes = shapes_of(Transformer, config)
    wrong = [
        f"{name} is {'unknown' if name in reader.specs else 'missing'}"
        for name in sorted(shapes.keys() ^ reader.specs.keys())
    ]
    wrong += [
        f"{name} has shape {list(reader.specs[name][0])}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in reader.specs and tuple(reader.specs[name][0]) != shape
    ]
    if wrong:
        raise UserError(
            f"{where} does not fit its config: {'; '.join(wrong)}; use the config that was saved "
            "with these weights"
        )
    return shapes


def _widest(reader: ModelReader) -> np.dtype:
    """The type that most bytes are of: that of the model."""
    return max((np.dtype(dtype) for _, dtype in reader.specs.values()), key=lambda kind: kind.itemsize)


def _parts(settings: Mapping[str, Any]) -> tuple[int, ...]:
    vocabulary = settings.get("vocabulary")
    return (int(vocabulary["text_size"]), int(vocabulary["vision_size"])) if vocabulary else ()


def _write_safetensors(
    work: Work, where: Path, config: Mapping[str, Any], kind: np.dtype, progress: Progress | None
) -> None:
    specs = {source.name: (source.shape, kind) for _, piece in work for source in piece.sources}
    with ModelWriter(where, config, specs, metadata=PYTORCH) as writer:
        for tensor, part in foreign_tensors(work, kind, progress):
            writer.write(tensor.name, part)


def _write_streaming(
    work: Work, where: Path, config: Mapping[str, Any], kind: np.dtype, progress: Progress | None
) -> None:
    """One record a tensor, its layers one after another; tensors that are parts of one of ours (text and
    vision) are read once each.
    """
    names = dict.fromkeys(source.name for _, piece in work for source in piece.sources)
    with (where / PARAMS_FILE).open("wb") as file:
        for name in names:
            mine = [pair for pair in work if any(source.name == name for source in pair[1].sources)]
            shape = next(source.shape for source in mine[0][1].sources if source.name == name)
            tensors = foreign_tensors(mine, kind, progress)
            parts = (part for tensor, part in tensors if tensor.name == name)
            record(file, name.split("/"), shape, kind, parts)
    (where / CONFIG_FILE).write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def _copy_text(source: Path, where: Path) -> None:
    """The text tokenizer, where the model has one, under the name that other programs know."""
    try:
        names = save_text_tokenizer(source, where)
    except UserError:
        return
    if OWN_FILE in names and SENTENCEPIECE_FILE not in names:
        shutil.move(where / OWN_FILE, where / SENTENCEPIECE_FILE)
