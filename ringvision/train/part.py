"""Which part of a model a run trains.

    parameters --Part.start--> (trained, frozen) --Part.join--> parameters of Part.describe's graph
    --Part.whole--> plain parameters

    "all"        trained: all parameters, as they are; frozen: None
    "new_rows"   trained: the rows of the embedding and the columns of the head from the first code on, and
                 the places in the frame where there are any; frozen: the whole model as it was. The text's
                 rows are those, bit for bit, whatever is trained
    "lora"       trained: low-rank pairs beside the matrices of the layers (models/lora.py); frozen: the whole
                 model

Only what is trained has gradients and moments.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ringvision.config import TrainConfig
from ringvision.models import lora
from ringvision.models.parameters import variables
from ringvision.models.transformer import Transformer
from ringvision.tree import flatten, unflatten
from ringvision.vocabulary import Vocabulary

ROWS = {"embed.table": 0, "unembed.kernel": 1}
"""The parameters with one row a token, and along which axis."""
CODES_ALONE = "cells.table"
"""A parameter that codes use and text does not."""


@dataclass(frozen=True)
class Part:
    """What `config.trainable` says. code_offset: the first row that is new."""

    config: TrainConfig
    code_offset: int

    @classmethod
    def of(cls, config: TrainConfig, vocabulary: Vocabulary) -> "Part":
        return cls(config, vocabulary.code_offset)

    @property
    def kind(self) -> str:
        return self.config.trainable

    def describe(self) -> tuple[Any, Any]:
        """The graph of the model that is trained, pairs included, and its parameters' shapes; no arrays."""
        return nnx.split(nnx.eval_shape(self._make))

    def start(self, params: Any) -> tuple[Any, Any]:
        """The parameters of a model, as `nnx.split(Transformer(...))` gives them -> (trained, frozen). Works
        inside jit.
        """
        if self.kind == "all":
            return params, None
        if self.kind == "lora":
            _, drawn = nnx.split(self._make())
            return {name: pair for name, pair in variables(drawn).items() if lora.is_pair(name)}, params
        named = variables(params)
        rows = {name: self._new_rows(named[name], axis) for name, axis in ROWS.items() if name in named}
        copies = {name: jax.tree.map(jnp.copy, named[name]) for name in (CODES_ALONE,) if name in named}
        return rows | copies, params

    def _new_rows(self, table: nnx.Param, axis: int) -> nnx.Param:
        return jax.tree.map(lambda x: jax.lax.slice_in_dim(x, self.code_offset, None, axis=axis), table)

    def join(self, trained: Any, frozen: Any) -> Any:
        """The parameters of `describe`'s graph. Differentiable in `trained`."""
        if self.kind == "all":
            return trained
        flat = flatten(frozen)
        trained = flatten(trained)
        if self.kind == "lora":
            return unflatten({**flat, **trained}, self.describe()[1])
        for name, value in trained.items():
            if name in ROWS:
                kept = jax.lax.slice_in_dim(flat[name], 0, self.code_offset, axis=ROWS[name])
                value = jnp.concatenate([kept, value], axis=ROWS[name])
            flat[name] = value
        return unflatten(flat, frozen)

    def whole(self, trained: Any, frozen: Any) -> Any:
        """The parameters of a plain Transformer: what `join` gives, pairs multiplied out into their
        matrices.
        """
        if self.kind != "lora":
            return self.join(trained, frozen)
        return unflatten(
            lora.merged(
                {**flatten(frozen), **flatten(trained)},
                rank=self.config.lora.rank,
                alpha=self.config.lora.alpha,
            ),
            frozen,
        )

    def _make(self) -> Transformer:
        model = Transformer(self.config.transformer, rngs=nnx.Rngs(self.config.seed))
        if self.kind == "lora":
            lora.attach(
                model,
                rank=self.config.lora.rank,
                alpha=self.config.lora.alpha,
                rngs=nnx.Rngs(jax.random.fold_in(jax.random.key(self.config.seed), 5)),
            )
        return model
