"""A text model that learns to read videos: the vocabulary of a video tokenizer is stacked under its
embeddings and its head, as LWM was made from Llama 2.

    text model [T rows] + tokenizer of K codes  ->  model of T + K + 2 rows (codes, end of frame, end of
    vision) and padding

A new row is the mean of the text rows plus a little noise of their own spread, so that no token stands out
before training. Text rows are copied, and a model whose head is its embedding table stays so: logits of text
are what they were, and, since a matrix product sums in blocks of columns, to the last bit where the rows are
padded to whole blocks before and after.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer
from ringvision.data.text.tokenizer import TextTokenizer
from ringvision.errors import UserError
from ringvision.model_folder import CONFIG_FILE, ModelReader, ModelWriter, read_config, weight_names
from ringvision.models.transformer import TransformerConfig
from ringvision.untrusted_files import belongs
from ringvision.video_tokenizer import load_video_tokenizer
from ringvision.vocabulary import Vocabulary
from ringvision.weights.atomic_folder import atomic_folder, check_free
from ringvision.weights.converting import Progress
from ringvision.weights.importing import (
    VIDEO_TOKENIZER_FOLDER,
    Say,
    copy_video_tokenizer,
    import_weights,
)
from ringvision.weights.source import read_settings

NOISE = 0.1
"""Of the spread of the text rows, column by column."""
BLOCK = 128
"""All rows together are a multiple of this."""
MARKERS = ("<vision>", "</vision>")


def add_vision(
    source: str | Path,
    tokenizer_folder: str | Path,
    dest: str | Path,
    seed: int = 0,
    *,
    config: str | Path | None = None,
    dtype: str | None = None,
    say: Say | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `dest`: a text model with room for the codes of a video tokenizer, which is copied into its
    folder. The kind is "assistant" where the text tokenizer is of our own kind (text.model), else
    "transformer". The markers around a video are `<vision>` and `</vision>` in the text tokenizer's pieces.

    Args:
        source: a model folder of ours, or whatever `import_weights` takes, which is then imported first.
        tokenizer_folder: the video tokenizer's.
        dest: the model folder to be written.
        seed: of the new rows; the same seed gives the same rows.
        config: as `import_weights` takes it.
        dtype: as `import_weights` takes it.
        say: gets lines for people.
        progress: gets (what, done, of).

    Returns:
        {"rows", "tied", "kind", "dest"}.

    Raises:
        UserError: where the model reads videos already, has no text tokenizer, or the tokenizer's folder is
        none.
    """
    target = Path(dest)
    if _is_ours(Path(source)):
        return _grow(Path(source), tokenizer_folder, target, seed)
    check_free(target)
    with tempfile.TemporaryDirectory(dir=_there(target.parent), prefix=".text-model-") as folder:
        text = Path(folder, target.name)
        import_weights(source, text, config=config, dtype=dtype, say=say, progress=progress)
        return _grow(text, tokenizer_folder, target, seed)


def _grow(model_folder: Path, tokenizer_folder: str | Path, dest: Path, seed: int) -> dict[str, Any]:
    settings = read_config(model_folder)
    config = _text_model(model_folder, settings)
    codes = load_video_tokenizer(tokenizer_folder).num_codes
    text = load_text_tokenizer(model_folder)
    vocabulary = _vocabulary(config.vocab_size, codes, text, str(model_folder))
    kind = "assistant" if isinstance(text, LosslessTokenizer) else "transformer"
    grown = {
        **settings,
        "kind": kind,
        "transformer": {**settings["transformer"], "vocab_size": vocabulary.size},
        "vocabulary": vocabulary.to_dict(),
        "video_tokenizer": VIDEO_TOKENIZER_FOLDER,
        "grown": {"from_rows": config.vocab_size, "seed": seed, "noise": NOISE},
    }
    with ModelReader(model_folder) as reader, atomic_folder(dest) as partial:
        shapes = {
            name: (_grown_shape(name, shape, vocabulary.size), dtype)
            for name, (shape, dtype) in reader.specs.items()
        }
        with ModelWriter(partial, grown, shapes) as writer:
            for name in reader.specs:
                writer.write(name, _rows_added(name, reader.read(name), vocabulary.size, seed))
        _copy_rest(model_folder, partial)
        copy_video_tokenizer(Path(tokenizer_folder), partial)
    return {"rows": vocabulary.size, "tied": config.tie_embeddings, "kind": kind, "dest": str(dest)}


def _is_ours(source: Path) -> bool:
    """Whether this is a folder with a config of ours, of whatever kind."""
    path = source / CONFIG_FILE
    return path.is_file() and "kind" in read_settings(path)


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: on the same disk."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


_AXES = {"embed.table": 0, "unembed.kernel": 1}
"""The tensors that have an entry for every token, and on which axis."""


def _grown_shape(name: str, shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    axis = _AXES.get(name)
    return shape if axis is None else (*shape[:axis], rows, *shape[axis + 1 :])


def _rows_added(name: str, array: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """The array with entries for `rows` tokens: its own, then mean plus noise."""
    axis = _AXES.get(name)
    if axis is None:
        return array
    table = np.moveaxis(array, axis, 0)
    random = np.random.default_rng([seed, axis])
    wide = table.astype(np.float32)
    new = wide.mean(axis=0) + NOISE * wide.std(axis=0) * random.standard_normal(
        (rows - len(table), table.shape[1]), np.float32
    )
    return np.concatenate([array, np.moveaxis(new.astype(array.dtype), 0, axis)], axis=axis)


def _text_model(folder: str | Path, settings: Mapping[str, Any]) -> TransformerConfig:
    if settings.get("kind") not in ("transformer", "assistant") or not isinstance(
        settings.get("transformer"), Mapping
    ):
        raise UserError(
            f"{folder} is of kind {settings.get('kind')!r}; give the folder of a text model (kind "
            "transformer)"
        )
    if settings.get("vocabulary"):
        raise UserError(f"{folder} has a vision vocabulary already; give a text model, or train this one")
    return TransformerConfig.from_dict(settings["transformer"])


def _vocabulary(rows: int, codes: int, text: TextTokenizer, where: str) -> Vocabulary:
    if text.size > rows:
        raise UserError(
            f"{where}: the text tokenizer has {text.size} pieces and the model {rows} rows; give "
            "the tokenizer that belongs to it"
        )
    if text.eos is None:
        raise UserError(
            f"{where}: the text tokenizer names no end of text (eos_token); say it in tokenizer_config.json"
        )
    start, end = (tuple(text.encode(marker)) for marker in MARKERS)
    if isinstance(text, LosslessTokenizer):
        start = text.vision_start
        end = text.vision_end
    padding = -(rows + codes + 2) % BLOCK
    return Vocabulary(
        rows, codes, text.eos if text.bos is None else text.bos, text.eos, start, end, codes + 2 + padding
    )


def _copy_rest(source: Path, where: Path) -> None:
    """Text tokenizer, card, licence: all files but config and weights, and what is a link to another
    place.
    """
    weights = {*weight_names(source), "config.json"}
    for path in sorted(source.iterdir()):
        if (
            path.is_file()
            and path.name not in weights
            and not path.name.startswith(".")
            and belongs(path, source)
        ):
            shutil.copyfile(path, where / path.name)
