"""One table of names a family: which tensor of ours is which of theirs, and how its numbers are laid out, in
both directions.

    rows (templates of names + a transform)  --pieces(shapes of ours)-->  pieces: what is written, from which
    of their tensors
    pieces --problems(what they have)-->  all that is missing, unexpected, misshaped, in one list
    pieces --assemble(piece, read)-->  one array of ours
    pieces --disassemble(piece, array)-->  arrays of theirs

A template is a name with braces where numbers stand: "encoder.levels.{i}.blocks.{j}.norm1.scale". `{-i}`
counts from the other end of the table's `levels`. `{layer}` stands in their names where they have a tensor
for every layer and we have one for all.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ringvision.errors import UserError

Shape = tuple[int, ...]
Read = Callable[[str], np.ndarray]
MOST_ELEMENTS = 1 << 44
FLOATS = ("float16", "bfloat16", "float32", "float64")
_INDEX = re.compile(r"\\\{(-?)(\w+)\\\}|\{(-?)(\w+)\}")


# ------------------------------------------------------------------------------------------------- transforms


@dataclass(frozen=True)
class Transform:
    """How the numbers of one tensor are laid out. `into(theirs, shape of ours)` gives ours, `back(ours)`
    theirs; both are views or copies.

    description: what it does, in a few words, for people. The two must be inverse to each other, bit for bit,
    and work on arrays whose strides are all 0.
    """

    description: str
    into: Callable[[np.ndarray, Shape], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]

    def shape(self, ours: Shape) -> Shape:
        """The shape of theirs; found by transforming an array that takes no memory. UserError for more
        elements than any tensor has.
        """
        if math.prod(ours) > MOST_ELEMENTS:
            raise UserError(
                f"a tensor of {list(ours)} is wanted, which is more than any model has; correct the "
                "config of these weights"
            )
        return self.back(np.broadcast_to(np.int8(0), ours)).shape


def halves(x: np.ndarray) -> np.ndarray:
    """[..., H] with the pairs that rotary positions turn side by side -> [..., H] with them half a head
    apart; any dtype.
    """
    return x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2).swapaxes(-1, -2).reshape(x.shape)


def adjacent(x: np.ndarray) -> np.ndarray:
    """[..., H] with rotary pairs half a head apart -> [..., H] with them side by side: `halves` undone."""
    return x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2).swapaxes(-1, -2).reshape(x.shape)


def matrix(inputs: int = 1, *, out_first: bool, pairs: bool = False) -> Transform:
    """Ours [inputs…, outputs…], the first `inputs` axes summed over; theirs [in, out], or [out, in] where
    `out_first` (torch).

    pairs: ours ends in the width of a head, whose rotary pairs lie side by side in theirs.
    """

    def into(x: np.ndarray, shape: Shape) -> np.ndarray:
        x = (x.T if out_first else x).reshape(shape)  # [in, out] -> (inputs…, outputs…)
        return halves(x) if pairs else x

    def back(x: np.ndarray) -> np.ndarray:
        x = adjacent(x) if pairs else x
        x = x.reshape(int(np.prod(x.shape[:inputs])), -1)  # (in, out)
        return x.T if out_first else x

    return Transform("transposed" * out_first + " rotary pairs to halves" * pairs, into, back)


def vector(*, pairs: bool = False) -> Transform:
    """Ours [heads, H], theirs [heads * H]: a bias."""

    def back(x: np.ndarray) -> np.ndarray:
        return (adjacent(x) if pairs else x).reshape(-1)

    return Transform(
        "rotary pairs to halves" if pairs else "",
        lambda x, shape: halves(x.reshape(shape)) if pairs else x.reshape(shape),
        back,
    )


SAME = Transform("", lambda x, shape: x, lambda x: x)
TORCH_CONVOLUTION = Transform(
    "OIHW to HWIO", lambda x, shape: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
TORCH_POINT = Transform("OI to 11IO", lambda x, shape: x.T[None, None], lambda x: x[0, 0].T)
"""A linear layer over channels, which is a convolution of one pixel."""


# ------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class NameRow:
    """One line of a table.

    ours, theirs: templates. Several of theirs lie one after another in ours, along `axis`, `parts` entries of
    it each. layer_axis: the axis of theirs along which all layers lie in one tensor; None: one tensor for
    every layer ("{layer}" in its name), or no layers at all.
    """

    ours: str
    theirs: str | tuple[str, ...]
    transform: Transform = SAME
    parts: tuple[int, ...] = ()
    axis: int = 0
    layer_axis: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    @property
    def by_layer(self) -> bool:
        """Whether ours has a leading axis of layers that theirs are cut along."""
        return self.layer_axis is not None or "{layer}" in self.names[0]


@dataclass(frozen=True)
class ForeignTensor:
    """A tensor of theirs, or the layer `layer` of it: its name, its whole shape, and the axis that layers are
    counted on.
    """

    name: str
    shape: Shape
    axis: int | None = None
    layer: int | None = None

    def take(self, array: np.ndarray) -> np.ndarray:
        """The layer that is meant, without the axis of layers, of the whole tensor [*self.shape]."""
        return array if self.axis is None else array[(slice(None),) * self.axis + (self.layer,)]


@dataclass(frozen=True)
class TensorPiece:
    """What is written at once: our tensor `ours`, or its layer `at`, of shape `shape`, made of `sources`."""

    ours: str
    at: int | None
    shape: Shape
    sources: tuple[ForeignTensor, ...]
    row: NameRow


@dataclass(frozen=True)
class Table:
    """Rows, with what stands before each of their names, and how many levels `{-i}` counts."""

    rows: tuple[NameRow, ...]
    prefix: str = ""
    levels: int = 0

    def pieces(self, shapes: Mapping[str, Shape]) -> list[TensorPiece]:
        """The pieces that make up tensors of these names and shapes (ours), layer after layer. UserError
        names those without a row.
        """
        pieces = list[TensorPiece]()
        unmatched = list[str]()
        for name, shape in shapes.items():
            found = next(
                ((row, match) for row, pattern in self._ours if (match := pattern.fullmatch(name))), None
            )
            if found is None:
                unmatched.append(name)
            else:
                pieces += self._row_pieces(name, tuple(shape), *found)
        if unmatched:
            raise UserError(
                f"{', '.join(gathered(unmatched))}: this form of weights has no place for such "
                "tensors; choose another"
            )
        return pieces

    def ours(self, theirs: str) -> tuple[str, Transform] | None:
        """What we call a tensor of theirs, and how it is transformed; None where no row has it."""
        for pattern, row in self._theirs:
            if match := pattern.fullmatch(theirs):
                turned = {key for _, key in re.findall(r"\{(-)(\w+)\}", row.names[0])}
                numbers = {
                    key: self._from_end(number) if key in turned else number
                    for key, number in match.groupdict().items()
                }
                return self._filled(row.ours, numbers), row.transform
        return None

    @cached_property
    def _ours(self) -> list[tuple[NameRow, re.Pattern[str]]]:
        return [(row, _pattern(row.ours)) for row in self.rows]

    @cached_property
    def _theirs(self) -> list[tuple[re.Pattern[str], NameRow]]:
        return [(_pattern(self.prefix + name), row) for row in self.rows for name in row.names]

    def _row_pieces(
        self, name: str, shape: Shape, row: NameRow, match: re.Match[str]
    ) -> Iterator[TensorPiece]:
        names = [self.prefix + self._filled(template, match.groupdict()) for template in row.names]
        whole = shape[1:] if row.by_layer else shape
        shapes = [row.transform.shape(part) for part in _part_shapes(row, whole)]
        if not row.by_layer:
            yield TensorPiece(name, None, shape, tuple(map(ForeignTensor, names, shapes)), row)
            return
        layers = shape[0]
        axis = row.layer_axis
        if axis is not None:
            shapes = [(*part[:axis], layers, *part[axis:]) for part in shapes]
        for layer in range(layers):
            sources = tuple(
                ForeignTensor(one.replace("{layer}", str(layer)), part, axis, layer)
                for one, part in zip(names, shapes)
            )
            yield TensorPiece(name, layer, whole, sources, row)

    def _filled(self, template: str, numbers: Mapping[str, str]) -> str:
        def number(index: re.Match[str]) -> str:
            back = index[3]
            key = index[4]
            if key not in numbers:
                return index[0]
            return self._from_end(numbers[key]) if back else numbers[key]

        return _INDEX.sub(number, template)

    def _from_end(self, number: str) -> str:
        return str(self.levels - 1 - int(number))


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(
        _INDEX.sub(
            lambda index: rf"(?P<{index[2]}>\d+)" if index[2] else index[0],
            re.escape(template).replace(r"\-", "-"),
        )
    )


def _part_shapes(row: NameRow, whole: Shape) -> list[Shape]:
    if not row.parts:
        return [whole]
    return [(*whole[: row.axis], part, *whole[row.axis + 1 :]) for part in row.parts]


# -------------------------------------------------------------------------------------------- both directions


def assemble(piece: TensorPiece, read: Read) -> np.ndarray:
    """The array of a piece, [*piece.shape] in their dtype, made of their tensors as `read` gives them."""
    row = piece.row
    parts = _part_shapes(piece.row, piece.shape)
    arrays = [
        row.transform.into(source.take(read(source.name)), part) for source, part in zip(piece.sources, parts)
    ]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=row.axis)


def disassemble(piece: TensorPiece, array: np.ndarray) -> Iterator[tuple[ForeignTensor, np.ndarray]]:
    """Their tensors (or layers of them) that a piece of ours holds.

    array: [*piece.shape], any dtype. Yields each foreign tensor with its array, in its own layout and the
    same dtype.
    """
    ends = np.cumsum(piece.row.parts)[:-1]
    parts = np.split(array, ends, axis=piece.row.axis) if piece.row.parts else [array]
    for source, part in zip(piece.sources, parts):
        yield source, piece.row.transform.back(part)


def problems(
    pieces: Iterable[TensorPiece], found: Mapping[str, Any], ignorable: Iterable[str] = ()
) -> list[str]:
    """All that keeps `found` (name -> something with .shape and .dtype) from being what the pieces are made
    of: a line for each kind.

    ignorable: regular expressions of names that may occur and are not wanted.
    """
    wanted = {source.name: source.shape for piece in pieces for source in piece.sources}
    known = re.compile("|".join(f"(?:{pattern})" for pattern in ignorable) or r"(?!)")
    wrong = [f"{name} is missing" for name in gathered(name for name in wanted if name not in found)]
    wrong += [
        f"{name} is unexpected"
        for name in gathered(name for name in found if name not in wanted and not known.fullmatch(name))
    ]
    misshaped = dict[str, list[str]]()
    unfit = dict[str, list[str]]()
    for name, shape in wanted.items():
        if name in found and tuple(found[name].shape) != tuple(shape):
            misshaped.setdefault(f"of shape {list(found[name].shape)}, expected {list(shape)}", []).append(
                name
            )
        elif name in found and found[name].dtype not in FLOATS:
            unfit.setdefault(f"of {found[name].dtype}, expected floats ({', '.join(FLOATS)})", []).append(
                name
            )
    return wrong + [
        f"{name} is {what}" for what, names in (misshaped | unfit).items() for name in gathered(names)
    ]


def gathered(names: Iterable[str]) -> list[str]:
    """Names that differ in their first number alone as one: "h.{0-3,7}.wq" for h.0.wq to h.3.wq and
    h.7.wq.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        match = re.match(r"(.*?)(\d+)(.*)", name)
        groups.setdefault((match[1], match[3]) if match else (name, ""), []).append(match[2] if match else "")
    return [
        f"{before}{{{_ranges(numbers)}}}{after}" if len(numbers) > 1 else f"{before}{numbers[0]}{after}"
        for (before, after), numbers in groups.items()
    ]


def _ranges(numbers: Iterable[str]) -> str:
    runs: list[list[int]] = []
    for number in sorted(map(int, numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
