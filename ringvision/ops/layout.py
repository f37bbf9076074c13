"""Which device of the ring holds which tokens. Positions are data, so a layout is a permutation, made once where a batch is made.

In: a length and how many devices share it. Out: the order in which tokens are laid out; device i holds the i-th share of the result.
Eight chunks or sixteen tokens on four devices:

    contiguous   0 1 2 3 | 4 5 6 7 | 8 9 . . | . . . .    as it came: under a causal mask the last device does most of the work
    zigzag       0 7 | 1 6 | 2 5 | 3 4                    in chunks: every device does the same work; for one long document
    striped      0 4 8 12 | 1 5 9 13 | 2 6 10 14 | ...    in tokens: for packed documents (Brandon et al., 2023)
"""

from typing import Literal, get_args

import numpy as np

from ringvision.errors import UserError

Layout = Literal["contiguous", "zigzag", "striped"]


def order(length: int, devices: int, kind: Layout) -> np.ndarray:
    """int32 [length]: `x[:, order]` is the laid-out array, `x[:, order][:, inverse(order)]` is x again.

    UserError where `kind` is not a layout, or the devices (for zigzag twice the devices) do not divide the length.
    """
    if kind not in get_args(Layout):
        raise UserError(f"layout {kind!r}: expected one of {', '.join(get_args(Layout))}")
    if devices < 1:
        raise UserError(f"a layout over {devices} devices: expected at least 1")
    chunks = 2 * devices if kind == "zigzag" else devices
    if length % chunks:
        raise UserError(
            f"a length of {length} in the {kind} layout over {devices} devices: expected a multiple of {chunks}; "
            f"pad to {-(-length // chunks) * chunks} with segment 0"
        )
    tokens = np.arange(length, dtype=np.int32)
    if kind == "striped":
        return tokens.reshape(-1, devices).T.reshape(-1)
    if kind == "zigzag":
        halves = tokens.reshape(2, devices, -1)
        return np.stack([halves[0], halves[1, ::-1]], axis=1).reshape(-1)
    return tokens


def inverse(order: np.ndarray) -> np.ndarray:
    """The permutation that undoes `order`, int32."""
    return np.argsort(order).astype(np.int32)
