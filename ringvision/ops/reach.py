"""The order in which queries are taken where some look back all the way and others only a little.

A tile of the score matrix is left out where none of its queries reaches its keys. Where words that see
everything stand between the tokens of a video (the time before each frame), every tile of queries has one of
them, and no tile would be left out. So those that look back all the way are taken first and the others after
them, both in the order in which they stand, and results are put back into theirs. What comes out is the same:
positions are data.

In: the tokens of queries. Out: a `QueryOrder`, by which arrays are put in order and back.

Letters: B batch, T queries, G rows that a query has in a kernel that folds groups.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ringvision.ops.mask import Tokens


class QueryOrder(NamedTuple):
    """Made by `order_queries`. `order` int32 [B, T]: which query is taken in each place; `place` int32 [B,
    T]: in which place each query is taken. Both None: as they stand.
    """

    order: jax.Array | None = None
    place: jax.Array | None = None

    def apply(self, x: jax.Array) -> jax.Array:
        """[B, T, ...], of any dtype -> the same in the order in which queries are taken."""
        return x if self.order is None else _take_rows(x, self.order, axis=1)

    def undo(self, x: jax.Array, *, axis: int = 1) -> jax.Array:
        """The inverse, for queries along any axis but the first; there may be G neighbouring rows for each:
        [B, ..., T G, ...] -> the same.
        """
        if self.place is None:
            return x
        groups = x.shape[axis] // self.place.shape[1]
        rows = self.place[:, :, None] * groups + jnp.arange(groups)  # (B, T, G)
        return _take_rows(x, rows.reshape(rows.shape[0], -1), axis=axis)


def order_queries(tokens: Tokens) -> QueryOrder:
    """tokens int32 [B, T] -> the order in which to take queries; as they stand where none has an `earliest`,
    or there is one alone. Positions count from 0: whoever may attend to 0 looks back all the way.
    """
    if tokens.earliest is None or tokens.earliest.shape[1] == 1:
        return QueryOrder()
    order = jnp.argsort(tokens.earliest > 0, axis=1, stable=True)
    return QueryOrder(order, jnp.argsort(order, axis=1))


def _take_rows(x: jax.Array, rows: jax.Array, *, axis: int) -> jax.Array:
    """x [B, ..., T, ...] and rows int32 [B, T'], which of the T -> [B, ..., T', ...]."""
    return jax.vmap(lambda x, rows: jnp.take(x, rows, axis=axis - 1))(x, rows)
