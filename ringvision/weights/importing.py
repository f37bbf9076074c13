"""Other projects' weights -> a model or tokenizer folder of ours.

    SOURCE ─find─→ files, config ─open─→ tensors ─recognise─→ Family ─pieces, check─→ pieces ─read, transform,
    write, one by one─→ DEST

Everything that is wrong is found before anything is written, and reported at once. What is written appears
under its name when it is whole; an import that fails or is interrupted leaves nothing. Memory holds one
tensor of theirs and one piece of ours at a time.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ringvision.data.text.chat_template import TEMPLATE_FILE
from ringvision.data.text.folder import load_text_tokenizer, save_text_tokenizer
from ringvision.data.text.gguf import text_from_gguf
from ringvision.data.text.sentencepiece_tokenizer import VISION_END, VISION_START
from ringvision.data.text.settings import FILES, SETTINGS_FILE, TOKENIZER_FILE
from ringvision.errors import UserError
from ringvision.model_folder import ModelWriter, check_room, licence_files, own_files
from ringvision.video_tokenizer import load_video_tokenizer
from ringvision.weights.atomic_folder import atomic_folder, check_free
from ringvision.weights.card import model_card, versions
from ringvision.weights.converting import LatestTensor, Progress
from ringvision.weights.families import recognise
from ringvision.weights.family import Family, Folder
from ringvision.weights.source import CheckpointSource, find_source, read_settings
from ringvision.weights.table import TensorPiece, assemble, gathered, problems
from ringvision.weights.tensors import DTYPES, Tensors, open_tensors

Say = Callable[[str], None]
CARD_FILE = "MODEL_CARD.md"
VIDEO_TOKENIZER_FOLDER = "video_tokenizer"
"""The folder, within the model's, of a video tokenizer that was given with it."""
TEMPLATE = "chat_template"
"""In what a family says of a model's config: the chat template that is written beside it where none came with
the weights.
"""
TYPES = ("float32", "bfloat16", "float16")


def import_weights(
    source: str | Path,
    dest: str | Path,
    *,
    config: str | Path | None = None,
    dtype: str | None = None,
    tokenizer: str | Path | None = None,
    dry_run: bool = False,
    say: Say | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Import weights into the new folder `dest`.

    Args:
        source: a file, a folder, hf:OWNER/NAME, or smollm2.
        dest: the model folder to be written.
        config: a config.json to be read instead of the one in the folder of the weights.
        dtype: one of TYPES; None: as tensors are stored, GGUF in float32.
        tokenizer: the folder of the video tokenizer that the model was trained with; it is copied.
        dry_run: whether the table of names is only shown and checked, and nothing written.
        say: gets lines for people.
        progress: gets (what, done, of).

    Returns:
        {"family", "tensors", "parameters", "assumed", "dest"}; dest is None after a dry run.

    Raises:
        UserError: one line with all that is wrong: weights that no family knows, or that do not fit their
        config, or a video tokenizer that is not the model's.
    """
    tell = say or (lambda line: None)
    if dtype is not None and dtype not in TYPES:
        raise UserError(f"dtype {dtype!r} was given; expected one of {', '.join(TYPES)}")
    target = Path(dest)
    if not dry_run:
        check_free(target)
    found = find_source(str(source), config)
    with open_tensors(found.weights) as tensors:
        family = recognise(tensors, {**_markers(found, tensors.form), **found.config})
        if tokenizer is not None:
            _check_video_tokenizer(family, tokenizer)
        work = [(folder, folder.table.pieces(folder.shapes)) for folder in family.folders]
        _describe(family, work, tell, table=dry_run)
        if tokenizer is None and _needs_video_tokenizer(family):
            tell(
                "it sees by a video tokenizer that is not among these weights; give it with "
                "--tokenizer, here or when it is used"
            )
        _check_tensors(found, tensors, family, work)
        if not dry_run:
            with atomic_folder(target) as partial:
                _write(found, tensors, family, work, partial, target.name, dtype, tokenizer, tell, progress)
    shapes = [shape for folder in family.folders for shape in folder.shapes.values()]
    return {
        "family": family.name,
        "tensors": len(shapes),
        "parameters": sum(map(math.prod, shapes)),
        "assumed": list(family.assumed),
        "dest": None if dry_run else str(target),
    }


def _needs_video_tokenizer(family: Family) -> bool:
    """Whether this is a model of videos whose tokenizer is not among the weights."""
    config = family.folders[0].config
    return "vocabulary" in config and "video_tokenizer" not in config


def _check_tensors(
    found: CheckpointSource,
    tensors: Tensors,
    family: Family,
    work: Sequence[tuple[Folder, list[TensorPiece]]],
) -> None:
    """UserError with all in which the tensors are not those of the family's tables."""
    wrong = problems((piece for _, pieces in work for piece in pieces), tensors.specs, family.ignorable)
    if wrong:
        raise UserError(
            f"{found.name} is not {family.name} of this config: {'; '.join(wrong)}; give the "
            "right config with --config"
        )


def _markers(found: CheckpointSource, form: str) -> dict[str, Any]:
    """The ids of the vision's markers by a tokenizer.json beside LWM's msgpack; find_source asks a
    tokenizer.model.
    """
    if "msgpack" not in form or not (found.folder / TOKENIZER_FILE).is_file():
        return {}
    try:
        encode = load_text_tokenizer(found.folder).encode
    except UserError:  # reported when it is to be copied
        return {}
    return {"vision_start_tokens": encode(VISION_START), "vision_end_tokens": encode(VISION_END)}


def _describe(
    family: Family, work: Iterable[tuple[Folder, list[TensorPiece]]], tell: Say, *, table: bool
) -> None:
    tell(f"this is {family.name}")
    for line in family.assumed:
        tell(f"assumed: {line}")
    for folder, pieces in work if table else ():
        sources: dict[str, dict[str, None]] = {}
        for piece in pieces:
            sources.setdefault(piece.ours, {}).update({source.name: None for source in piece.sources})
        transforms = {piece.ours: piece.row.transform.description for piece in pieces}
        for name, theirs in sources.items():
            how = f" ({transforms[name]})" if transforms[name] else ""
            tell(f"{name} {list(folder.shapes[name])} <- {' + '.join(gathered(theirs))}{how}")


def _write(
    found: CheckpointSource,
    tensors: Tensors,
    family: Family,
    work: Sequence[tuple[Folder, list[TensorPiece]]],
    partial: Path,
    name: str,
    dtype: str | None,
    tokenizer: str | Path | None,
    tell: Say,
    progress: Progress | None,
) -> None:
    for folder, pieces in work:  # before sparse files, which only seem to have their size, are hashed
        kinds = _dtypes(pieces, tensors, dtype)
        check_room(partial, {ours: (shape, kinds[ours]) for ours, shape in folder.shapes.items()})
    origin = {
        "name": Path(found.name).name if Path(found.name).is_absolute() else found.name,
        "family": family.name,
        "form": tensors.form,
        "files": found.hashes(progress),
        "license": found.licence
        or (str(tensors.metadata["general.license"]) if "general.license" in tensors.metadata else None),
        "assumed": list(family.assumed),
        "versions": versions(),
    }
    dtypes: set[str] = set()
    for folder, pieces in work:
        kinds = _dtypes(pieces, tensors, dtype)
        dtypes |= {kind.name for kind in kinds.values()}
        also = {} if tokenizer is None else {"video_tokenizer": VIDEO_TOKENIZER_FOLDER}
        described = {key: value for key, value in folder.config.items() if key != TEMPLATE}
        settings = {"kind": folder.config["kind"], "name": name, **described, **also, "source": origin}
        specs = {ours: (shape, kinds[ours]) for ours, shape in folder.shapes.items()}
        latest = LatestTensor(tensors.read)
        with ModelWriter(partial / folder.path, settings, specs) as writer:
            for number, piece in enumerate(pieces):
                if progress is not None:
                    progress("tensors", number, len(pieces))
                writer.write(
                    piece.ours,
                    assemble(piece, latest.read).astype(kinds[piece.ours], copy=False),
                    at=piece.at,
                )
    if any("transformer" in folder.config for folder in family.folders):
        _copy_text(found, tensors, family, partial, tell)
        _write_template(family, partial)
    if tokenizer is not None:
        copy_video_tokenizer(Path(tokenizer), partial)
    for licence in licence_files(found.folder) if found.licence else ():
        shutil.copyfile(licence, partial / licence.name)
    shapes = [shape for folder in family.folders for shape in folder.shapes.values()]
    card = model_card(name, origin, sum(map(math.prod, shapes)), sorted(dtypes))
    (partial / CARD_FILE).write_text(card, encoding="utf-8")


def _dtypes(pieces: Iterable[TensorPiece], tensors: Tensors, dtype: str | None) -> dict[str, np.dtype]:
    """The type of each of our tensors: `dtype`, or one that holds all its sources' numbers."""
    kinds: dict[str, np.dtype] = {}
    for piece in pieces:
        for source in piece.sources:
            kind = DTYPES[dtype or tensors.specs[source.name].dtype]
            kinds[piece.ours] = np.dtype(jnp.promote_types(kinds.get(piece.ours, kind), kind))
    return kinds


def copy_video_tokenizer(tokenizer: Path, where: Path) -> None:
    """A video tokenizer's folder into a model's, as VIDEO_TOKENIZER_FOLDER: its config, its weights, and its
    other files, but no link that leads elsewhere.
    """
    (where / VIDEO_TOKENIZER_FOLDER).mkdir()
    for path in own_files(tokenizer):
        shutil.copyfile(path, where / VIDEO_TOKENIZER_FOLDER / path.name)


def _check_video_tokenizer(family: Family, tokenizer: str | Path) -> None:
    """UserError where this is no video tokenizer, or the model has no use for it."""
    settings = family.folders[0].config
    if "vocabulary" not in settings:
        raise UserError(
            f"this is {family.name}, which knows no codes of videos; import it without "
            "--tokenizer, or add vision to it with --add-vision"
        )
    if "video_tokenizer" in settings:
        raise UserError(
            f"this is {family.name}, which brings its own video tokenizer; import it without --tokenizer"
        )
    given = load_video_tokenizer(tokenizer).num_codes
    expected = settings["vocabulary"]["num_codes"]
    if given != expected:
        raise UserError(
            f"the model knows {expected} codes, the video tokenizer in {tokenizer} {given}; give "
            "the one that it was trained with"
        )


def _copy_text(found: CheckpointSource, tensors: Tensors, family: Family, where: Path, tell: Say) -> None:
    """The text tokenizer beside the weights, or in them. One that cannot be read is reported, and the model
    is imported without it.
    """
    try:
        if tensors.form == "gguf":
            text_from_gguf(tensors.metadata, where)
        elif any((found.folder / name).is_file() for name in FILES[:3]):
            save_text_tokenizer(found.folder, where)
        else:
            tell(
                "no text tokenizer lies beside the weights (tokenizer.json or tokenizer.model); copy "
                "one into the folder to use text"
            )
    except UserError as error:
        tell(f"without a text tokenizer: {str(error).replace(str(where), found.name)}")
        return
    path = where / TOKENIZER_FILE
    if family.renumber is not None and path.is_file():
        changed: Mapping[str, Any] = family.renumber(read_settings(path))
        path.write_text(json.dumps(changed, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _write_template(family: Family, where: Path) -> None:
    """The family's chat template, where none came with the weights."""
    template = family.folders[0].config.get(TEMPLATE)
    settings = where / SETTINGS_FILE
    came = (where / TEMPLATE_FILE).is_file() or (
        settings.is_file() and "chat_template" in read_settings(settings)
    )
    if template and not came:
        (where / TEMPLATE_FILE).write_text(template, encoding="utf-8")
