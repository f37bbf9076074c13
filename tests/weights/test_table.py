"""Tables of names: both directions, and everything that is wrong in one list."""

import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.weights import table
from ringvision.weights.readers.stored import TensorSpec
from ringvision.weights.table import (
    SAME,
    TORCH_CONVOLUTION,
    TORCH_POINT,
    NameRow,
    Table,
    assemble,
    disassemble,
    gathered,
    matrix,
    problems,
    vector,
)

TRANSFORMS = {
    "same": (SAME, (3, 4)),
    "query, out first": (matrix(out_first=True), (6, 2, 4)),
    "query, pairs": (matrix(out_first=True, pairs=True), (6, 2, 4)),
    "query, in first": (matrix(out_first=False, pairs=True), (6, 2, 4)),
    "output": (matrix(2, out_first=True), (2, 4, 6)),
    "bias": (vector(pairs=True), (2, 4)),
    "convolution": (TORCH_CONVOLUTION, (3, 3, 2, 5)),
    "point": (TORCH_POINT, (1, 1, 2, 5)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_and_its_inverse(name):
    transform, shape = TRANSFORMS[name]
    ours = np.arange(np.prod(shape)).reshape(shape)
    theirs = transform.back(ours)
    assert theirs.shape == transform.shape(shape)
    np.testing.assert_array_equal(transform.into(theirs, shape), ours)


def test_shapes_are_known_without_memory():
    huge = (2**20, 2**12, 2**10)
    assert matrix(out_first=True, pairs=True).shape(huge) == (2**22, 2**20)
    assert TORCH_CONVOLUTION.shape((3, 3, 2**20, 2**20)) == (2**20, 2**20, 3, 3)
    with pytest.raises(UserError, match="more than any model has"):
        matrix(out_first=True).shape((2**30, 2**30, 2**30))


def test_adjacent_pairs_become_halves():
    np.testing.assert_array_equal(table.halves(np.arange(6)), [0, 2, 4, 1, 3, 5])
    np.testing.assert_array_equal(table.adjacent(np.array([0, 2, 4, 1, 3, 5])), np.arange(6))


def test_rotating_pairs_and_rotating_halves_are_the_same_after_the_permutation():
    x = np.random.default_rng(0).standard_normal(8)
    angles = np.arange(1, 5) / 3
    turned = (x[0::2] + 1j * x[1::2]) * np.exp(1j * angles)
    pairs = np.stack([turned.real, turned.imag], axis=-1).reshape(-1)
    first, second = np.split(table.halves(x), 2)
    halves = np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    )
    np.testing.assert_allclose(table.halves(pairs), halves)


ROWS = (
    NameRow("embed", ("words", "sights"), parts=(3, 2)),
    NameRow("head", ("word_head", "sight_head"), parts=(3, 2), axis=1),
    NameRow("layers.query", "h.{layer}.q", matrix(out_first=True)),
    NameRow("stacked", "all", layer_axis=1),
    NameRow("decoder.{i}.block.{j}", "up_{-i}/block_{j}"),
)
TABLE = Table(ROWS, "params/", levels=3)
SHAPES = {
    "embed": (5, 4),
    "head": (4, 5),
    "layers.query": (2, 4, 2, 2),
    "stacked": (2, 7),
    "decoder.0.block.1": (6,),
}


def test_a_plan_names_each_source_with_its_shape():
    pieces = TABLE.pieces(SHAPES)
    sources = {
        (piece.ours, piece.at): [(source.name, source.shape) for source in piece.sources] for piece in pieces
    }
    assert sources == {
        ("embed", None): [("params/words", (3, 4)), ("params/sights", (2, 4))],
        ("head", None): [("params/word_head", (4, 3)), ("params/sight_head", (4, 2))],
        ("layers.query", 0): [("params/h.0.q", (4, 4))],
        ("layers.query", 1): [("params/h.1.q", (4, 4))],
        ("stacked", 0): [("params/all", (7, 2))],
        ("stacked", 1): [("params/all", (7, 2))],
        ("decoder.0.block.1", None): [("params/up_2/block_1", (6,))],
    }
    assert TABLE.ours("params/up_2/block_1") == ("decoder.0.block.1", SAME)
    assert TABLE.ours("up_2/block_1") is None


def test_there_and_back():
    random = np.random.default_rng(0)
    ours = {name: random.standard_normal(shape) for name, shape in SHAPES.items()}
    theirs: dict[str, np.ndarray] = {}
    for piece in TABLE.pieces(SHAPES):
        whole = ours[piece.ours]
        for source, part in disassemble(piece, whole if piece.at is None else whole[piece.at]):
            if source.axis is None:
                theirs[source.name] = part
            else:
                theirs.setdefault(source.name, np.zeros(source.shape))[:, source.layer] = part
    for piece in TABLE.pieces(SHAPES):
        whole = ours[piece.ours]
        np.testing.assert_array_equal(
            assemble(piece, theirs.__getitem__), whole if piece.at is None else whole[piece.at]
        )


def test_all_that_is_wrong_is_in_one_list():
    pieces = TABLE.pieces(SHAPES)
    found = {source.name: TensorSpec(source.shape, "float32") for piece in pieces for source in piece.sources}
    assert problems(pieces, found) == []
    del found["params/h.0.q"], found["params/h.1.q"]
    found["params/all"] = TensorSpec((2, 7), "float32")
    found["params/words"] = TensorSpec((3, 4), "int8")
    found |= {f"extra.{number}.x": TensorSpec((1,), "float32") for number in (0, 1, 2, 5)} | {
        "step": TensorSpec((), "int32")
    }
    assert problems(pieces, found, (r"step|opt_state/.*",)) == [
        "params/h.{0-1}.q is missing",
        "extra.{0-2,5}.x is unexpected",
        "params/all is of shape [2, 7], expected [7, 2]",
        "params/words is of int8, expected floats (float16, bfloat16, float32, float64)",
    ]


def test_a_tensor_of_ours_without_a_row_is_named():
    with pytest.raises(UserError, match=r"cells\.table.*no place"):
        TABLE.pieces({**SHAPES, "cells.table": (3, 4)})


def test_names_are_gathered_by_their_first_number():
    assert gathered(["a.0.b", "c", "a.1.b", "a.10.b", "x.1.y"]) == ["a.{0-1,10}.b", "c", "x.1.y"]
