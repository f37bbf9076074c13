"""A trained transformer from its folder, on a mesh.

In: a model folder (config.json with "transformer" and, where it sees, "vocabulary"; model.safetensors, or
several of them) and a mesh. Out: a `Model` whose parameters lie on the devices of the mesh, brought there one
by one; tokens of any length -> logits.
"""

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from ringvision import model_folder, tree
from ringvision.errors import UserError
from ringvision.mesh import RULES, Rules, make_mesh, num_shards
from ringvision.models.parameters import param_shardings
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.vocabulary import Vocabulary

KINDS = ("assistant", "transformer")
DTYPES = ("float32", "bfloat16", "float16", "stored")


class Model:
    """A transformer's parameters on a mesh, and the functions compiled for them."""

    def __init__(
        self,
        config: TransformerConfig,
        vocabulary: Vocabulary | None,
        params: Any,
        mesh: Mesh | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        rules: Rules = RULES,
    ) -> None:
        """Spread the parameters over the mesh.

        Args:
            config: the shape of the transformer.
            vocabulary: which id means what; None: the model reads text alone.
            params: the pytree of `nnx.split(Transformer(...))`, of numpy or jax arrays.
            mesh: None: all devices on the axis `context`.
            settings: the rest of the folder's config.json.
            folder: where the model was read, whose files then tell it from another.
            rules: how the parameters are spread. As they come: over `tensor` and `fsdp`, and on a ring each
                device has them all, since decoding a token reads every weight. `mesh.TRAINING` spreads them
                over the ring too, for a model that does not fit a device.
        """
        self.config = config
        self.vocabulary = vocabulary
        self.folder = folder
        self.settings = dict(settings or {})
        self.mesh = mesh if mesh is not None else make_mesh()
        self.graphdef, _ = nnx.split(_describe(config))
        self.rules = rules
        shapes = nnx.split(_describe(config))[1]
        places = tree.flatten(param_shardings(shapes, self.mesh, rules))
        values = {name: jax.device_put(x, places[name]) for name, x in tree.flatten(params).items()}
        self.params = tree.unflatten(values, shapes)
        self._logits = _compiled(self.graphdef, self.mesh, rules)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over configuration and weights, hexadecimal."""
        digest = hashlib.sha256()
        if self.folder is not None:
            for path in (self.folder / model_folder.CONFIG_FILE, *model_folder.weight_files(self.folder)):
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            digest.update(repr(self.config).encode())
            for name, value in sorted(tree.flatten(self.params).items()):
                digest.update(name.encode() + np.asarray(value).tobytes())
        return digest.hexdigest()

    def logits(self, tokens: Any, positions: Any = None, segment_ids: Any = None) -> jax.Array:
        """The logits of every token, of rows of any number and length.

        Rows and length are padded to what the mesh divides; a new shape is compiled once.

        Args:
            tokens: integers [B, L], both at least 1.
            positions: integers [B, L]; None: 0, 1, 2 …
            segment_ids: integers [B, L]; None: 1 everywhere. 0 is padding, whose logits mean nothing.

        Returns:
            float32 [B, L, vocab_size].

        Raises:
            UserError: other shapes, or tokens outside the vocabulary.
        """
        tokens = _integers("tokens", tokens, None)
        batch, length = tokens.shape
        if positions is None:
            positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
        if segment_ids is None:
            segment_ids = np.ones(tokens.shape, np.int32)
        positions = _integers("positions", positions, tokens.shape)
        segment_ids = _integers("segment_ids", segment_ids, tokens.shape)
        if tokens.min() < 0 or tokens.max() >= self.config.num_ids:
            given = f"tokens from {tokens.min()} to {tokens.max()}"
            expected = f"0 to {self.config.num_ids - 1}"
            raise UserError(
                f"{given} were given; expected {expected}: were they made with another vocabulary?"
            )
        rows = -batch % num_shards(self.mesh, "batch")
        columns = -length % num_shards(self.mesh, "length")
        padded = [np.pad(array, ((0, rows), (0, columns))) for array in (tokens, positions, segment_ids)]
        return self._logits(self.params, *padded)[:batch, :length]


def load_model(
    dir: str | os.PathLike[str],
    mesh: Mesh | None = None,
    *,
    dtype: str | None = None,
    rules: Rules = RULES,
) -> Model:
    """The model in a folder, its weights brought from disk to the devices one tensor at a time.

    Args:
        dir: the model folder.
        mesh: None: all devices on the axis `context`.
        dtype: of its weights and of what is computed with them, "float32", "bfloat16" or "float16"; "stored":
            as they are on disk; None: float32.
        rules: how the weights are spread over the mesh (see `Model`).

    Returns:
        The model, ready to be asked.

    Raises:
        UserError: one line that names everything that is wrong, for a folder without config.json or weights,
            a config that contradicts itself, and for missing, unknown or misshaped tensors.
    """
    settings = model_folder.read_config(dir)
    if settings.get("kind") not in KINDS:
        raise UserError(
            f"{dir} is of kind {settings.get('kind')!r}; give the folder of a model (kind "
            f"{' or '.join(KINDS)})"
        )
    if not isinstance(settings.get("transformer"), Mapping):
        raise UserError(
            f'{dir}/config.json has no "transformer"; expected the sizes of the model; copy the '
            "model folder again"
        )
    config = TransformerConfig.from_dict(settings["transformer"])
    vocabulary = Vocabulary.from_dict(settings["vocabulary"]) if settings.get("vocabulary") else None
    if vocabulary is not None and vocabulary.size != config.vocab_size:
        raise UserError(
            f"{dir}/config.json: the vocabulary has {vocabulary.size} ids, the transformer "
            f"{config.vocab_size} rows; expected as many"
        )
    if vocabulary is not None and vocabulary.stamps != config.stamp_rows:
        raise UserError(
            f"{dir}/config.json: the vocabulary has {vocabulary.stamps} stamps, the transformer "
            f"{config.stamp_rows} stamp_rows; expected as many"
        )
    if dtype not in (None, *DTYPES):
        raise UserError(f"dtype={dtype!r} was given; expected {', '.join(DTYPES)}, or none for float32")
    _, shapes = nnx.split(_describe(config))
    mesh = mesh if mesh is not None else make_mesh()
    places = param_shardings(shapes, mesh, rules)
    params = model_folder.load_params(dir, shapes, places, dtype, read_only=True)
    return Model(config, vocabulary, params, mesh, settings=settings, folder=Path(dir), rules=rules)


def _describe(config: TransformerConfig) -> Transformer:
    """The model with shapes in the place of arrays."""
    return nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))


@lru_cache(maxsize=32)
def _compiled(graphdef: Any, mesh: Mesh, rules: Rules) -> Any:
    """The jitted `_logits`, shared by all models of one shape on one mesh."""
    return jax.jit(partial(_logits, graphdef, mesh=mesh, rules=rules))


def _logits(
    graphdef: Any,
    params: Any,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    *,
    mesh: Mesh,
    rules: Rules,
) -> jax.Array:
    model: Transformer = nnx.merge(graphdef, params)
    return model.logits(tokens, positions, segment_ids, mesh=mesh, rules=rules).astype(jnp.float32)


def _integers(name: str, values: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    array = np.asarray(values)
    if (
        array.ndim != 2
        or array.size == 0
        or not np.issubdtype(array.dtype, np.integer)
        or (shape is not None and array.shape != shape)
    ):
        wanted = (
            f"the shape of the tokens, {list(shape)}"
            if shape
            else "integers [batch, length], both at least 1"
        )
        raise UserError(
            f"{name} of shape {list(array.shape)} and type {array.dtype} were given; expected {wanted}"
        )
    return array.astype(np.int32)
