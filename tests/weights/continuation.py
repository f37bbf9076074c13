"""Imports a fixture and lets it go on: what the tests of language models share."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ringvision.infer.model import Model, load_model
from ringvision.mesh import make_mesh
from ringvision.weights.importing import import_weights

FIXTURES = Path(__file__).parents[1] / "fixtures"


def imported(source: Path, dest: Path, **options: Any) -> Model:
    """The model in `source` by way of the folder `dest`, on one device."""
    import_weights(source, dest, **options)
    return load_model(dest, make_mesh(context=1, devices=jax.devices()[:1]))


def imported_folder(tmp_path_factory: pytest.TempPathFactory, source: Path, family: str) -> Path:
    """The folder that the fixture `source` becomes; that its family is recognised and nothing assumed."""
    target = tmp_path_factory.mktemp("models") / source.name
    report = import_weights(source, target)
    assert report["family"] == family and not report["assumed"]
    return target


def assert_imported_again(theirs: Path, folder: Path, again: Path) -> None:
    """What was exported to `theirs` is, imported to `again`, what it was in `folder`: model and tokenizer."""
    import_weights(theirs, again)
    for part in (".", "tokenizer"):
        files = [where / part / "model.safetensors" for where in (again, folder)]
        assert files[0].read_bytes() == files[1].read_bytes()


def logits(
    model: Model, tokens: np.ndarray, positions: np.ndarray | None = None, segments: np.ndarray | None = None
) -> np.ndarray:
    return np.asarray(model.logits(tokens, positions, segments))


def greedy(
    model: Model, prompt: np.ndarray, mask: np.ndarray, count: int, columns: slice, guidance: float = 0.0
) -> np.ndarray:
    """prompt [B, L], mask [B, L] (0: padding) -> the tokens [B, count] of the largest logit among `columns`.

    guidance: the second half of the rows is unconditional, logits are theirs plus so many times the
    difference, and both halves are given the same tokens.
    """
    length = prompt.shape[1]
    tokens = np.pad(prompt, ((0, 0), (0, count)))
    segments = np.pad(mask, ((0, 0), (0, count)))
    positions = np.clip(np.cumsum(np.pad(mask, ((0, 0), (0, count)), constant_values=1), axis=1) - 1, 0, None)
    for place in range(length, length + count):
        found = logits(model, tokens, positions, segments)[:, place - 1, columns]
        if guidance:
            given, free = np.split(found, 2)
            found = np.concatenate([free + guidance * (given - free)] * 2)
        tokens[:, place] = found.argmax(axis=-1) + (columns.start or 0)
        segments[:, place] = 1
    return tokens[:, length:]
