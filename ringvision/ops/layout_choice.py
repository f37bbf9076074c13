"""Which layout fits a batch: what every device of the ring must compute on every hop, counted before anything
is laid out.

In: the segment ids (and positions) of a batch, numpy, and how many devices share a row. Out: a
`LayoutChoice`: the layout whose critical path is least, its order, and the tiles behind that judgement. A
ring moves as one: a hop takes as long as its busiest device, so

    critical path   the sum over hops of the busiest device's tiles
    efficiency      visible pairs / tile^2 / devices, which is what even work without a wasted pair would come
                    to, over the critical path

A pair of a query and a key is visible if the attention mask lets it through. A tile is counted exactly when
one pair in it is visible. Kernels decide by ranges (tiles.py) and compute some more: a tile with the ends of
documents 3 and 9 seems to hold 4 to 8 too. So that these are few, documents are numbered anew where `whole`
moves them (`segment_ids`). A query's own limit (`Tokens.earliest`) is not looked at: where queries have one,
fewer tiles are computed than are counted here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import NamedTuple, get_args

import numpy as np

from ringvision.errors import UserError
from ringvision.ops.layout import TILE, Layout, order
from ringvision.ops.mask import MaskSpec, Tokens

Host = tuple[np.ndarray, np.ndarray]
"""`Tokens` on the host: positions and segment ids."""

HOP = 0.004
"""What a hop costs beside its tiles, as a part of the critical path: its kernels are started, and the devices
wait for each other.
"""
ALIKE = 0.005
"""Layouts that differ by less are judged by their hops, then by their cuts."""


class Candidate(NamedTuple):
    """A layout, judged: its critical path in tiles, how many hops have anything to do, and into how many runs
    it cuts the batch's rows.
    """

    path: int
    hops: int
    runs: int
    efficiency: float


@dataclass(frozen=True)
class LayoutChoice:
    """A layout for one batch. Made by `choose_layout`.

    kind: its name. order int32 [B, T]: `np.take_along_axis(x, choice.order, 1)` is the laid-out batch.
    segment_ids int32 [B, T] go with it, laid out: in `whole` numbered from 1 along the ring, otherwise as
    given. tiles int64 [devices, hops]: what each device computes. candidates: all layouts that were tried.
    """

    kind: Layout
    order: np.ndarray
    segment_ids: np.ndarray
    tiles: np.ndarray
    candidates: dict[Layout, Candidate]

    @property
    def efficiency(self) -> float:
        return self.candidates[self.kind].efficiency

    @property
    def hops(self) -> int:
        """How many have anything to do."""
        return self.candidates[self.kind].hops

    def __str__(self) -> str:
        lines = [f"{'layout':<16}{'efficiency':>10}{'critical path':>15}{'hops':>6}{'runs':>8}"]
        for kind, (path, hops, runs, efficiency) in sorted(
            self.candidates.items(), key=lambda item: item[1].path
        ):
            chosen = "  <- this one" if kind == self.kind else ""
            lines.append(f"{kind:<16}{100 * efficiency:>8.1f} %{path:>15}{hops:>6}{runs:>8}{chosen}")
        return "\n".join(lines)


class Pieces(NamedTuple):
    """What one tile holds of one document, sorted by document: both numbered through the batch, and the
    lowest and highest position.
    """

    document: np.ndarray
    tile: np.ndarray
    first: np.ndarray
    last: np.ndarray


def choose_layout(
    segment_ids: np.ndarray,
    positions: np.ndarray | None = None,
    *,
    devices: int,
    causal: bool = True,
    window: int | None = None,
    tile: int = TILE,
) -> LayoutChoice:
    """The layout of least critical path for a batch.

    Args:
        segment_ids: int [B, T], in the order in which the rows came; 0 is padding.
        positions: int [B, T]; None: each document's from 0.
        devices: of the ring.
        causal: a query attends to positions up to its own only.
        window: it attends to positions less than this far away only; None: to any.
        tile: side of the square tiles that are counted.

    Returns:
        The choice. Zigzag is tried only where twice the devices divide T.

    Raises:
        UserError: arrays of other shapes, or a length that the devices do not divide.
    """
    if segment_ids.ndim != 2 or (positions is not None and positions.shape != segment_ids.shape):
        shapes = f"{segment_ids.shape} and {None if positions is None else positions.shape}"
        raise UserError(f"segment_ids and positions of shapes {shapes}: expected [B, T] for both")
    batch, length = segment_ids.shape
    mask_spec = MaskSpec(causal, window, 1.0)
    tokens = (positions_of(segment_ids) if positions is None else positions), segment_ids
    ideal = visible_pairs(tokens, mask_spec) / tile**2 / max(devices, 1)
    candidates = {}
    found = {}
    for kind in get_args(Layout):
        if kind == "zigzag" and devices > 0 and length % (2 * devices) and not length % devices:
            continue
        laid_out = np.stack([order(length, devices, kind, row, tile) for row in segment_ids])
        laid_out, tiles = _level(
            laid_out, tokens, devices, mask_spec, tile, turning=kind in ("snake", "whole")
        )
        path = int(tiles.max(0).sum())
        runs = batch + int((np.diff(laid_out) != 1).sum())
        candidates[kind] = Candidate(path, int((tiles.max(0) > 0).sum()), runs, ideal / path if path else 1.0)
        found[kind] = laid_out, tiles

    def cost(kind: Layout) -> float:
        return candidates[kind].path * (1 + HOP * candidates[kind].hops)

    alike = [kind for kind in candidates if cost(kind) <= min(map(cost, candidates)) * (1 + ALIKE)]
    kind = min(alike, key=lambda kind: (candidates[kind].hops, candidates[kind].runs))
    laid_out, tiles = found[kind]
    positions, segment_ids = (np.take_along_axis(x, laid_out, 1) for x in tokens)
    if kind == "whole":
        segment_ids = np.stack([_numbered(*row) for row in zip(positions, segment_ids, strict=True)])
    return LayoutChoice(kind, laid_out, segment_ids.astype(np.int32), tiles, candidates)


def choose_layout_for_lengths(
    lengths: Sequence[int], devices: int, *, causal: bool = True, window: int | None = None, tile: int = TILE
) -> LayoutChoice:
    """`choose_layout` for one row of documents, padded to a multiple of what every layout needs: full tiles
    on all devices.

    Args:
        lengths: of the documents, in tokens, in their order.
        devices: of the ring.
        causal: a query attends to positions up to its own only.
        window: it attends to positions less than this far away only; None: to any.
        tile: side of the square tiles that are counted.

    Returns:
        The choice, of arrays [1, T].

    Raises:
        UserError: no documents, an empty one, or no devices.
    """
    if min(lengths, default=0) < 1:
        raise UserError(f"documents of lengths {list(lengths)}: expected at least one, and all at least 1")
    if devices < 1:
        raise UserError(f"a layout over {devices} devices: expected at least 1")
    segments = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
    padding = -len(segments) % lcm(2 * devices, tile * devices)
    return choose_layout(
        np.append(segments, np.zeros(padding, np.int32))[None],
        devices=devices,
        causal=causal,
        window=window,
        tile=tile,
    )


def count(tokens: Tokens | Host, devices: int, mask_spec: MaskSpec, tile: int = TILE) -> np.ndarray:
    """The tiles that each device must compute on each hop: its queries against the keys of device (device -
    hop) % devices.

    Args:
        tokens: positions and segment ids of a laid-out batch, int [B, T] each.
        devices: of the ring.
        mask_spec: which positions a query attends to.
        tile: side of a tile. Tiles are cut inside each device's share; the last is short where `tile` does
            not divide it.

    Returns:
        int64 [devices, hops].
    """
    return _by_hop(_visible_tiles(_host(tokens), devices, mask_spec, tile).sum(0))


def visible_pairs(tokens: Tokens | Host, mask_spec: MaskSpec) -> int:
    """tokens int [B, T] each -> how many pairs of a query and a key the attention mask lets through, in all:
    the same in every layout.
    """
    return int(_visible_tiles(_host(tokens), 1, mask_spec, 1).sum())


def _host(tokens: Tokens | Host) -> Host:
    return np.asarray(tokens[0]), np.asarray(tokens[1])


def positions_of(segment_ids: np.ndarray) -> np.ndarray:
    """segment_ids int [B, T] -> positions int32 [B, T]: every run of one segment id counted from 0."""
    index = np.arange(segment_ids.shape[1])
    new = np.diff(segment_ids, axis=1, prepend=segment_ids[:, :1] - 1) != 0
    return (index - np.maximum.accumulate(np.where(new, index, 0), axis=1)).astype(np.int32)


def _numbered(positions: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
    """The segment ids of a row [T], numbered in the order in which documents' first tokens lie in it."""
    ids, document = np.unique(segment_ids, return_inverse=True)
    by_position = np.lexsort((positions, document))
    first = by_position[np.searchsorted(document[by_position], np.arange(len(ids)))]
    first[ids == 0] = -1
    number = np.argsort(np.argsort(first)) + (0 if (ids == 0).any() else 1)
    return number[document]


def _by_hop(tiles: np.ndarray) -> np.ndarray:
    """[..., queries' device, keys' device] -> [..., device, hop]."""
    device = np.arange(tiles.shape[-1])
    return np.take_along_axis(tiles, (device[:, None] - device) % len(device) + np.zeros_like(tiles), -1)


def _level(
    laid_out: np.ndarray, tokens: Host, devices: int, mask_spec: MaskSpec, tile: int, turning: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The order [B, T] and its tiles [devices, hops]. Turning a row along the ring (`turning`) changes which
    device does the work of a hop, not how much there is: rows are turned, one after the other, so that the
    batch's work is even.
    """
    positions, segment_ids = (np.take_along_axis(x, laid_out, 1) for x in tokens)
    rows = _by_hop(_visible_tiles((positions, segment_ids), devices, mask_spec, tile))
    if not turning or len(rows) == 1:
        return laid_out, rows.sum(0)
    total = np.zeros_like(rows[0])
    turned = []
    for row, tiles in zip(laid_out, rows, strict=True):
        turn = min(range(devices), key=lambda by: (total + np.roll(tiles, by, 0)).max(0).sum())
        total = total + np.roll(tiles, turn, 0)
        turned.append(np.roll(row, turn * (len(row) // devices)))
    return np.stack(turned), total


def _pieces(tokens: Host, devices: int, tile: int) -> Pieces:
    """int [n] each, of the pieces of documents that tiles hold."""
    positions, segment_ids = tokens
    batch, length = segment_ids.shape
    share = max(length // devices, 1)
    tiles_a_share = -(-share // tile)
    token = np.arange(length)
    tile_of = (np.arange(batch)[:, None] * devices + token // share) * tiles_a_share + token % share // tile
    segments = segment_ids.reshape(-1)
    tile_of = tile_of.reshape(-1)
    positions = positions.reshape(-1)
    # first runs, of which there are few; then what is of one tile and document, which may be several runs
    starts = np.flatnonzero(
        (np.diff(segments, prepend=segments[:1] - 1) != 0) | (np.diff(tile_of, prepend=-1) != 0)
    )
    first = np.minimum.reduceat(positions, starts)
    last = np.maximum.reduceat(positions, starts)
    segments = segments[starts]
    tile_of = tile_of[starts]
    row = tile_of // (tiles_a_share * devices)
    sort = np.lexsort((tile_of, segments, row))
    sort = sort[segments[sort] != 0]
    segments = segments[sort]
    tile_of = tile_of[sort]
    row = row[sort]
    new_document = (np.diff(segments, prepend=-1) != 0) | (np.diff(row, prepend=-1) != 0)
    new = np.flatnonzero(new_document | (np.diff(tile_of, prepend=-1) != 0))
    if not len(new):
        return Pieces(*(np.zeros(0, np.int64),) * 4)
    document = np.cumsum(new_document) - 1
    lowest = np.minimum.reduceat(first[sort], new)
    highest = np.maximum.reduceat(last[sort], new)
    return Pieces(document[new], tile_of[new], lowest.astype(np.int64), highest.astype(np.int64))


def _visible_tiles(tokens: Host, devices: int, mask_spec: MaskSpec, tile: int) -> np.ndarray:
    """int64 [B, queries' device, keys' device]: tiles with a visible pair.

    Two pieces of one document have a visible pair where the ranges of their positions come near enough: for
    every piece the others are counted by two binary searches, on the rule of `MaskSpec` as it is for ranges.
    That is exact but for two cases, which `_amend` looks at: tiles that hold more than one document in
    common, counted once for each, and a window so narrow that it may fall between the positions of a piece.
    """
    batch, length = tokens[1].shape
    pieces = _pieces(tokens, devices, tile)
    document, tile_of, first, last = pieces
    tiles = np.zeros((batch, devices, devices), np.int64)
    if not len(document):
        return tiles
    row, device = np.divmod(tile_of // -(-max(length // devices, 1) // tile), devices)
    # One number for document and position, so that one search serves all: a document's numbers lie from base
    # to base + span.
    lowest = first.min() - 1
    span = int(last.max() - first.min()) + 3
    base = document * span - lowest
    reach = span if mask_spec.window is None else min(mask_spec.window, span)
    # a key's piece is seen if it begins no later than `latest`, and does not end before `earliest`
    latest = base + (last if mask_spec.causal else np.minimum(last + reach - 1, lowest + span - 2))
    earliest = base + np.maximum(first - reach + 1, lowest)

    def up_to(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """For every limit, by device: how many of the values are no larger."""
        sort = np.argsort(values, kind="stable")
        seen = np.zeros((len(values) + 1, devices), np.int64)
        seen[np.arange(1, len(values) + 1), device[sort]] = 1
        return seen.cumsum(0)[np.searchsorted(values[sort], limits, "right")]

    np.add.at(tiles, (row, device), up_to(base + first, latest) - up_to(base + last, earliest - 1))
    spread = int((last - first).max())
    narrow = mask_spec.window is not None and 2 * spread >= (
        mask_spec.window if mask_spec.causal else 2 * mask_spec.window - 1
    )
    suspects = np.flatnonzero(narrow | (np.bincount(tile_of)[tile_of] > 1))
    if len(suspects):
        begin = (base + first)[suspects]
        end = (base + last)[suspects]
        q, k = _pairs(begin, end, latest[suspects], earliest[suspects], spread)
        _amend(
            tiles,
            tokens,
            Pieces(*(x[suspects] for x in pieces)),
            q,
            k,
            row[suspects],
            device[suspects],
            mask_spec,
            tile,
        )
    return tiles


def _pairs(
    begin: np.ndarray, end: np.ndarray, latest: np.ndarray, earliest: np.ndarray, spread: int
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of queries' and of keys' pieces, [n] each: the pairs that were counted, one by one."""
    sort = np.argsort(begin, kind="stable")
    low = np.searchsorted(begin[sort], earliest - spread)
    high = np.searchsorted(begin[sort], latest, "right")
    counts = np.maximum(high - low, 0)
    q = np.repeat(np.arange(len(begin)), counts)
    k = sort[np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())]
    seen = end[k] >= earliest[q]
    return q[seen], k[seen]


def _amend(
    tiles: np.ndarray,
    tokens: Host,
    pieces: Pieces,
    q: np.ndarray,
    k: np.ndarray,
    row: np.ndarray,
    device: np.ndarray,
    mask_spec: MaskSpec,
    tile: int,
) -> None:
    """Make what was counted for the pieces q and k right: 1 for a pair of their tiles with a visible pair of
    tokens, not 1 a document.
    """
    _, first, of_pair = np.unique(
        pieces.tile[q] * (pieces.tile.max() + 1) + pieces.tile[k], return_index=True, return_inverse=True
    )
    counted = np.bincount(of_pair, minlength=len(first))
    # The ends of a range are tokens: where two ends are a visible pair, so are the tiles.
    seen = np.zeros(len(first), bool)
    for queries in (pieces.first, pieces.last):
        for keys in (pieces.first, pieces.last):
            seen[of_pair[_visible(queries[q], keys[k], mask_spec)]] = True
    q = q[first]
    k = k[first]
    for some in np.array_split(unsure := np.flatnonzero(~seen), -(-len(unsure) // 64) or 1):
        (q_positions, q_segments), (k_positions, k_segments) = (
            _tiles_of(tokens, pieces.tile[side[some]], tiles.shape[1], tile) for side in (q, k)
        )
        same = (q_segments[:, :, None] == k_segments[:, None, :]) & (q_segments != 0)[:, :, None]
        visible = mask_spec.restrict(same, q_positions[:, :, None], k_positions[:, None, :])
        seen[some] = visible.any((1, 2))
    np.add.at(tiles, (row[q], device[q], device[k]), seen - counted)


def _visible(q_positions: np.ndarray, k_positions: np.ndarray, mask_spec: MaskSpec) -> np.ndarray:
    """int [n] each -> bool [n]: which pairs of tokens of one document are visible."""
    return mask_spec.restrict(np.ones(q_positions.shape, bool), q_positions, k_positions)


def _tiles_of(tokens: Host, numbers: np.ndarray, devices: int, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and segment ids [tiles, tile] of the tiles of these numbers; what a short one lacks is
    padding.
    """
    length = tokens[1].shape[1]
    share = max(length // devices, 1)
    shares, in_share = np.divmod(numbers, -(-share // tile))
    row, device = np.divmod(shares, devices)
    in_share = in_share[:, None] * tile + np.arange(tile)
    at = np.minimum(device[:, None] * share + in_share, length - 1)
    return tokens[0][row[:, None], at], np.where(in_share < share, tokens[1][row[:, None], at], 0)
