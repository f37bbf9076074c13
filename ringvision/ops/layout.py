"""Which device of the ring holds which tokens. Positions are data, so a layout is a permutation, made once
where a batch is made.

In: a length, how many devices share it and, for the layouts that look at documents (runs of one segment id),
the row's segment ids. Out: the order in which tokens are laid out; device i holds the i-th share of the
result. Eight chunks or sixteen tokens on four devices:

    contiguous       0 1 2 3 | 4 5 6 7 | 8 9 . . | . . . .
    zigzag           0 7 | 1 6 | 2 5 | 3 4
    striped          0 4 8 12 | 1 5 9 13 | 2 6 10 14 | ...
    document_zigzag  A0 A7 B0 B7 | A1 A6 B1 B6 | ...
    snake            A0 A7 B0 | A1 A6 B1 | A2 A5 B2 | ...
    whole            A E | B H | C G | D F

    contiguous       as it came: under a causal mask the last device does most of the work
    zigzag           in chunks: every device does the same work; for one long document
    striped          in tokens (Brandon et al., 2023)
    document_zigzag  every document by itself in zigzag
    snake            every document in tiles, dealt to and fro: for packed long documents
    whole            every document on one device: for clips, which then need no hops

What a tile costs is why `snake` and `whole` are as they are. A tile is computed if one pair in it is visible,
so a document that starts inside a tile, or is cut there, pays for tiles that it fills in part. Both therefore
cut a document into tiles from its start, and gather what is left over at its end (less than a tile) in tiles
that stand at the end of a share; padding fills those up first. The blocks at the end of documents, which do
not make a full round in `snake`, are dealt so that the devices' work is even. `whole` looks for an
arrangement in which shares are full and work is even; where shares do not come out exactly, a document is
cut, and its end is on the next device: hop 1 has a little to do, the others nothing. A document longer than a
share cannot be whole: then the row stays in the order in which it came.

All of it is decided by the arguments alone (random numbers have a fixed seed): processes that are given the
same rows make the same order.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np

from ringvision.errors import UserError

Layout = Literal["contiguous", "zigzag", "striped", "document_zigzag", "snake", "whole"]
TILE = 128
MOST_DOCUMENTS = 1024
"""For which `whole` searches; more than that in a row are so short that any arrangement will do."""
STARTS = 4
KICKS = 10
SAMPLE = 16384
"""How hard `whole` searches: first arrangements, attempts to leave a local optimum, numbers looked at in one
step.
"""


class Documents(NamedTuple):
    """Of one row, int64: where its documents start and how long they are, and the indices of its padding."""

    starts: np.ndarray
    lengths: np.ndarray
    padding: np.ndarray


def order(
    length: int, devices: int, kind: Layout, segment_ids: np.ndarray | None = None, tile: int = TILE
) -> np.ndarray:
    """The order of a row's tokens in a layout: `x[:, order]` is the laid-out array, and
    `x[:, order][:, inverse(order)]` is x again.

    Args:
        length: of the row, in tokens.
        devices: that share it.
        kind: the layout.
        segment_ids: int [length]; None: one document without padding.
        tile: side of the tiles that the kernel computes; if it does not divide a device's share, the largest
            divisor below it is taken.

    Returns:
        int32 [length].

    Raises:
        UserError: `kind` is not a layout, segment_ids has another shape, or the devices (for zigzag twice the
            devices) do not divide the length.
    """
    if kind not in get_args(Layout):
        raise UserError(f"layout {kind!r}: expected one of {', '.join(get_args(Layout))}")
    if devices < 1:
        raise UserError(f"a layout over {devices} devices: expected at least 1")
    if tile < 1:
        raise UserError(f"a layout by tiles of {tile} tokens: expected at least 1")
    chunks = 2 * devices if kind == "zigzag" else devices
    if length % chunks:
        raise UserError(
            f"a length of {length} in the {kind} layout over {devices} devices: expected a "
            f"multiple of {chunks}; "
            f"pad to {-(-length // chunks) * chunks} with segment 0"
        )
    if segment_ids is not None and segment_ids.shape != (length,):
        raise UserError(
            f"segment_ids of shape {segment_ids.shape} for a layout of one row: expected ({length},)"
        )
    tokens = np.arange(length, dtype=np.int32)
    if kind == "striped":
        return tokens.reshape(-1, devices).T.reshape(-1)
    if kind == "zigzag":
        halves = tokens.reshape(2, devices, -1)
        return np.stack([halves[0], halves[1, ::-1]], axis=1).reshape(-1)
    if kind == "contiguous" or not length:
        return tokens
    segment_ids = np.ones(length, np.int32) if segment_ids is None else segment_ids
    if kind == "document_zigzag":
        return _document_zigzag(segment_ids, devices).astype(np.int32)
    tile = _block(length // devices, tile)
    return (_snake if kind == "snake" else _whole)(
        _documents(segment_ids), devices, length // devices, tile
    ).astype(np.int32)


def orders(segment_ids: np.ndarray, devices: int, kind: Layout, tile: int = TILE) -> np.ndarray:
    """Every row's own `order`: `np.take_along_axis(x, orders, 1)` is the laid-out batch.

    Args:
        segment_ids: int [B, T].
        devices: that share a row.
        kind: the layout.
        tile: side of the tiles that the kernel computes.

    Returns:
        int32 [B, T].

    Raises:
        UserError: as in `order`, or for other axes.
    """
    if segment_ids.ndim != 2:
        raise UserError(f"segment_ids of shape {segment_ids.shape}: expected [B, T]")
    if not len(segment_ids):
        return segment_ids.astype(np.int32)
    return np.stack([order(len(row), devices, kind, row, tile) for row in segment_ids])


def inverse(order: np.ndarray) -> np.ndarray:
    """The permutation that undoes `order` [..., T], int32."""
    return np.argsort(order).astype(np.int32)


def check(positions: np.ndarray, segment_ids: np.ndarray, devices: int, kind: Layout) -> None:
    """Whether a laid-out row can be in the layout that is named.

    What a name promises: in all layouts that a document's positions ascend within a share. In contiguous,
    zigzag and striped also that, with the permutation undone, every document is one run in which positions
    ascend, by one at a time if it is the only one. In whole that a document no longer than a share is on one
    device, or its beginning there and its end on the next.

    Args:
        positions: int [T].
        segment_ids: int [T].
        devices: that share the row.
        kind: the layout.

    Raises:
        UserError: it cannot; the first token that shows this is named.
    """
    length = len(positions)
    positions = np.asarray(positions).astype(np.int64)
    segment_ids = np.asarray(segment_ids)
    by_length = kind in ("contiguous", "zigzag", "striped")
    needs_documents = kind in ("document_zigzag", "snake", "whole")
    undo = inverse(order(length, devices, "contiguous" if needs_documents else kind))
    device = np.arange(length) // max(1, length // devices)
    if kind == "whole":
        _check_whole(positions, segment_ids, device, devices)
    # By document (and share), in the order of the row, for the sort is stable.
    keys = (segment_ids[undo],) if by_length else (segment_ids, device)
    grouped = undo[np.lexsort(keys[::-1])]
    here = grouped[1:]
    before = grouped[:-1]
    same = (segment_ids[here] == segment_ids[before]) & (segment_ids[here] != 0)
    step = positions[here] - positions[before]
    if by_length:
        only = len(np.unique(segment_ids[segment_ids != 0])) == 1
        index = inverse(undo)
        apart = index[here] != index[before] + 1
        wrong = same & (apart | (step != 1 if only else step <= 0))
    else:
        wrong = same & (device[here] == device[before]) & (step <= 0)
    if wrong.any():
        at = np.flatnonzero(wrong)[here[wrong].argmin()]
        token = here[at]
        last = before[at]
        _contradict(
            kind,
            f"token {token} of the row (device {device[token]}, document {segment_ids[token]}) "
            f"has position {positions[token]}, "
            f"and the one before it in its document, token {last}, has {positions[last]}",
        )


def _check_whole(positions: np.ndarray, segment_ids: np.ndarray, device: np.ndarray, devices: int) -> None:
    """`check` for what `whole` promises beside; device int [T] is where each token is."""
    share = len(positions) // devices
    real = np.flatnonzero(segment_ids)
    by_position = real[np.lexsort((positions[real], segment_ids[real]))]
    starts = np.flatnonzero(np.diff(segment_ids[by_position], prepend=0))
    lengths = np.diff(np.append(starts, len(by_position)))
    first = np.repeat(device[by_position[starts]], lengths)  # the device of the document's first token
    far = ((device[by_position] - first) % devices > 1) & (np.repeat(lengths, lengths) <= share)
    if far.any():
        token = by_position[far].min()
        _contradict(
            "whole",
            f"token {token} of the row (document {segment_ids[token]}) is on device "
            f"{device[token]}, far from its document",
        )


def _contradict(kind: str, what: str) -> None:
    raise UserError(
        f"positions contradict layout={kind!r}: {what}; lay tokens, positions and segment_ids "
        "out by the same order"
    )


def _block(share: int, tile: int) -> int:
    """The largest divisor of a share that is at most a tile, and at most half the share: one block a device
    would be no choice at all.
    """
    return next(size for size in range(min(tile, max(1, share // 2)), 0, -1) if share % size == 0)


def _documents(segment_ids: np.ndarray) -> Documents:
    """Of a row's segment ids [T]."""
    starts = np.flatnonzero(np.diff(segment_ids, prepend=segment_ids[0] - 1))
    real = segment_ids[starts] != 0
    return Documents(
        starts[real], np.diff(np.append(starts, len(segment_ids)))[real], np.flatnonzero(segment_ids == 0)
    )


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices start, start + 1, ... of every span, one span after the other."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def _document_zigzag(segment_ids: np.ndarray, devices: int) -> np.ndarray:
    """A document's length divided by the devices leaves a few tokens: they go round, from the device at which
    the last document's ended, so that shares are equal in the end. Padding is one more document. A device's
    part of a document is halved into its two chunks.
    """
    starts = np.flatnonzero(np.diff(segment_ids, prepend=segment_ids[0] - 1))
    each, left = np.divmod(np.diff(np.append(starts, len(segment_ids))), devices)
    turn = (np.arange(devices) - (np.cumsum(left) - left)[:, None]) % devices
    parts = each[:, None] + (turn < left[:, None])
    chunks = np.concatenate([parts // 2, (parts - parts // 2)[:, ::-1]], axis=1)
    there_and_back = np.concatenate([np.arange(devices), np.arange(devices)[::-1]])
    owner = np.repeat(np.tile(there_and_back, len(starts)), chunks.reshape(-1))
    return np.argsort(owner, kind="stable")


def _blocks(documents: Documents, tile: int) -> np.ndarray:
    """int [blocks, tile]: the documents' full tiles in order, then what is left over of them, one after the
    other with padding between: the first documents' have a tile each as long as padding lasts.
    """
    starts, lengths, padding = documents
    left = lengths % tile
    lacking = -left % tile
    filled = np.where(np.cumsum(lacking) <= len(padding), lacking, 0)
    rest = np.insert(
        _spans(starts + lengths - left, left), np.repeat(np.cumsum(left), filled), padding[: filled.sum()]
    )
    return np.concatenate([_spans(starts, lengths - left), rest, padding[filled.sum() :]]).reshape(-1, tile)


def _snake(documents: Documents, devices: int, share: int, tile: int) -> np.ndarray:
    """A block's work is about how many blocks of its documents come before it, the same on every hop, as
    these are spread evenly. So blocks are dealt in rounds to and fro, and what does not make a full round in
    the end, each to the device with the least work so far. Of a long document the last full round is among
    these: a choice of light and heavy ones makes loads come out even.
    """
    _, lengths, _ = documents
    blocks = _blocks(documents, tile)
    full = lengths // tile
    rounds = full // devices - (full >= 8 * devices)
    document = np.repeat(np.arange(len(full)), full)
    index = _spans(np.zeros_like(full), full)
    turn, in_round = np.divmod(index, devices)
    backward = (turn + (np.cumsum(rounds) - rounds)[document]) % 2 == 1
    owner = np.where(turn < rounds[document], np.where(backward, devices - 1 - in_round, in_round), -1)
    last = blocks[len(owner) :]
    of_token = np.full(share * devices, -1)
    of_token[_spans(documents.starts, lengths)] = np.repeat(np.arange(len(lengths)), lengths)
    of_last = of_token[last]
    new = np.concatenate([np.ones((len(last), 1), bool), of_last[:, 1:] != of_last[:, :-1]], 1) & (
        of_last >= 0
    )
    work = np.concatenate(
        [index + 1, (new * (full + 1)[of_last]).sum(1) if len(full) else np.zeros(len(last), int)]
    )
    owner = np.append(owner, np.full(len(last), -1))
    free = np.flatnonzero(owner < 0)
    owner[free] = _deal(work[free], devices)
    return blocks[np.argsort(owner, kind="stable")].reshape(-1)


def _deal(work: np.ndarray, devices: int) -> np.ndarray:
    """An owner for every item, so that all have equally many and work is even: heaviest first, then exchanges
    that relieve the busiest.
    """
    owner = np.empty(len(work), int)
    load = np.zeros(devices, int)
    for round in np.argsort(-work, kind="stable").reshape(-1, devices):
        owner[round] = np.argsort(load, kind="stable")
        load[owner[round]] += work[round]
    while len(work) and devices > 1:
        busiest = load.argmax()
        mine = np.flatnonzero(owner == busiest)
        others = np.flatnonzero(owner != busiest)
        relief = work[mine][:, None] - work[others]
        then = np.maximum(load[busiest] - relief, load[owner[others]] + relief)
        i, j = np.unravel_index(then.argmin(), then.shape)
        if then[i, j] >= load[busiest]:
            break
        load[busiest] -= relief[i, j]
        load[owner[others[j]]] += relief[i, j]
        owner[mine[i]] = owner[others[j]]
        owner[others[j]] = busiest
    return owner


def _whole(documents: Documents, devices: int, share: int, tile: int) -> np.ndarray:
    """Documents one after the other along the ring, in an order that `_arrange` finds, cut where a share
    ends.
    """
    starts, lengths, padding = documents
    row = _arrange(lengths, devices, share, tile, len(padding))
    first = _starts(lengths[row][None], share, len(padding) if len(row) <= MOST_DOCUMENTS else 0)[0]
    after = first + lengths[row]
    parts = (after - 1) // share - first // share + 1
    part = np.repeat(np.arange(len(row)), parts)
    device = first[part] // share + _spans(np.zeros_like(parts), parts)
    begin = np.maximum(first[part], device * share)
    end = np.minimum(after[part], (device + 1) * share)
    origin = starts[row[part]] + begin - first[part]
    laid_out = []
    for one in range(devices):
        here = device == one
        free = share - (end - begin)[here].sum()
        laid_out.append(_blocks(Documents(origin[here], (end - begin)[here], padding[:free]), tile))
        padding = padding[free:]
    return np.concatenate(laid_out).reshape(-1)


def _starts(lengths: np.ndarray, share: int, padding: int) -> np.ndarray:
    """Lengths [orders, documents] -> where documents start when laid one after the other, of the same shape:
    one that would be cut is put off to the next share as long as there is padding to fill the rest of this
    one.
    """
    if not padding:
        return lengths.cumsum(1) - lengths
    at = np.zeros(len(lengths), np.int64)
    left = np.full(len(lengths), padding)
    starts = np.empty(lengths.shape, np.int64)
    for i, length in enumerate(lengths.T):
        free = -at % share
        skipped = np.where((length > free) & (free <= left) & (length <= share), free, 0)
        at = at + skipped
        left = left - skipped
        starts[:, i] = at
        at = at + length
    return starts


def _path(lengths: np.ndarray, devices: int, share: int, tile: int, padding: int) -> np.ndarray:
    """Lengths [orders, documents] -> float64 [orders]: the tiles of the busiest device on hop 0 and on hop 1,
    plus a little for every other device's, which tells two orders with equally busy ones apart. No document
    is longer than a share.
    """
    starts = _starts(lengths, share, padding)
    device = starts // share
    head = np.minimum((device + 1) * share - starts, lengths)
    # what is left over of a head lies across two tiles just where it would if the share were not cut in
    # tiles, unless padding prevents it
    split = (starts % tile + head % tile > tile) & (padding < 2 * devices * tile)
    head, tail = -(-head // tile) + split, -(-(lengths - head) // tile)
    here = (device + np.arange(len(lengths))[:, None] * (devices + 1)).reshape(-1)

    def by_device(device: np.ndarray, tiles: np.ndarray) -> np.ndarray:
        # one more than there are: where nothing of the last document goes
        return np.bincount(device, tiles.reshape(-1), len(lengths) * (devices + 1)).reshape(-1, devices + 1)

    hop_0 = by_device(here, head * (head + 1) / 2) + by_device(here + 1, tail * (tail + 1) / 2)
    hop_1 = by_device(here + 1, head * tail)
    return hop_0.max(1) + hop_1.max(1) + 1e-3 * np.sqrt((hop_0**2 + hop_1**2).sum(1))


def _arrange(lengths: np.ndarray, devices: int, share: int, tile: int, padding: int) -> np.ndarray:
    """The order of documents with the least `_path` found: from several bins, downhill by exchanging two
    documents, then again from the best with a few exchanged at random.
    """
    count = len(lengths)
    if count > MOST_DOCUMENTS or count < 2 or devices < 2 or lengths.max() > share:
        return np.arange(count)
    random = np.random.default_rng(0)
    pairs = np.stack(np.triu_indices(count, 1), 1)
    most = max(SAMPLE // count, 32)

    def downhill(order: np.ndarray) -> tuple[float, np.ndarray]:
        least = _path(lengths[order][None], devices, share, tile, padding)[0]
        while True:
            chosen = pairs if len(pairs) <= most else pairs[random.choice(len(pairs), most, replace=False)]
            orders = np.repeat(order[None], len(chosen), 0)
            np.put_along_axis(orders, chosen, order[chosen[:, ::-1]], 1)
            paths = _path(lengths[orders], devices, share, tile, padding)
            if paths.min() >= least:
                return least, order
            least = paths.min()
            order = orders[paths.argmin()]

    best = min(
        (downhill(_bins(lengths, devices, share, tile, padding, random)) for _ in range(STARTS)),
        key=lambda found: found[0],
    )
    for _ in range(KICKS):
        order = best[1].copy()
        for pair in random.integers(0, count, (2, 2)):
            order[pair] = order[pair[::-1]]
        best = min(best, downhill(order), key=lambda found: found[0])
    return best[1]


def _bins(
    lengths: np.ndarray, devices: int, share: int, tile: int, padding: int, random: np.random.Generator
) -> np.ndarray:
    """An order of documents in which the i-th share's worth of them is about as long and as much work as any
    other. Longest first, each into the emptiest bin; then the documents of two bins are divided between them
    anew, in the best of all ways, as long as that helps.
    """
    tiles = -(-lengths // tile)
    sizes = np.stack([lengths, tiles * (tiles + 1) / 2], 1)
    even = sizes[:, 1].sum() / devices
    tiles_a_token = 0.5 * np.average(lengths, weights=sizes[:, 1]) / tile**2
    """Of hop 1, which a token too many costs, about."""

    def cost(bins: np.ndarray) -> np.ndarray:
        over = bins[..., 0] - share
        work = bins[..., 1] - even
        return (np.maximum(work, 0 if padding else work)) ** 2 + (
            tiles_a_token * np.maximum(over, 0 if padding else over)
        ) ** 2

    owner = np.empty(len(lengths), int)
    bins = np.zeros((devices, 2))
    for document in np.argsort(-lengths * (1 + 0.3 * random.random(len(lengths))), kind="stable"):
        owner[document] = bins[:, 0].argmin()
        bins[owner[document]] += sizes[document]
    for _ in range(12):
        before = cost(bins).sum()
        for a in np.argsort(-cost(bins))[:4]:
            for b in range(devices):
                both = np.flatnonzero((owner == a) | (owner == b))
                if a == b or len(both) < 2:
                    continue
                both = random.choice(both, 10, replace=False) if len(both) > 10 else both
                in_b = (np.arange(2 ** len(both))[:, None] >> np.arange(len(both))) & 1
                given = in_b @ sizes[both] - (owner[both] == b) @ sizes[both]
                costs = cost(bins[a] - given) + cost(bins[b] + given)
                best = costs.argmin()
                if costs[best] < cost(bins[[a, b]]).sum() * (1 - 1e-9):
                    owner[both] = np.where(in_b[best] == 1, b, a)
                    bins[a] = bins[a] - given[best]
                    bins[b] = bins[b] + given[best]
        if cost(bins).sum() >= before * (1 - 1e-9):
            break
    order = []
    excess = 0.0
    left = list(range(devices))
    while left:
        # along the ring, too long bins and too short ones in turn
        next_bin = min(left, key=lambda one: abs(excess + bins[one, 0] - share))
        left.remove(next_bin)
        excess += bins[next_bin, 0] - share
        excess = max(excess, 0) if padding else excess
        members = np.flatnonzero(owner == next_bin)
        # the shortest two stand at the ends, where they may be cut
        order.append(np.roll(members[np.argsort(lengths[members], kind="stable")], -1))
    return np.concatenate(order)
