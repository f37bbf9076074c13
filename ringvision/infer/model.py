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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision import model_folder, tree
from ringvision.errors import UserError
from ringvision.mesh import make_mesh, num_shards
from ringvision.models.transformer import Transformer, TransformerConfig
from ringvision.vocabulary import Vocabulary

KINDS = ("assistant", "transformer")
DTYPES = ("float32", "bfloat16", "float16", "stored")


class Model:
    """A transformer's parameters on a mesh, and the functions compiled for them.

    params: the pytree of `nnx.split(Transformer(...))`, numpy or jax arrays; copied to every device of the
    mesh. settings: the rest of the folder's config.json. identity: what tells this model from another; taken
    from the folder's files where there is one.
    """

    def __init__(
        self,
        config: TransformerConfig,
        vocabulary: Vocabulary | None,
        params: Any,
        mesh: Mesh | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.folder = folder
        self.settings = dict(settings or {})
        self.mesh = mesh if mesh is not None else make_mesh()
        self.graphdef, _ = nnx.split(_describe(config))
        self.params = jax.device_put(params, NamedSharding(self.mesh, PartitionSpec()))
        self._logits = _compiled(self.graphdef, self.mesh)

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
        """tokens, positions, segment_ids: integers [B, L], any B and L of at least 1 -> float32 [B, L,
        vocab_size].

        Positions default to 0, 1, 2 …, segment ids to 1; segment 0 is padding, and its logits mean nothing.
        Rows and length are padded to what the mesh divides; a new shape is compiled once. UserError for other
        shapes, or tokens outside the vocabulary.
        """
        tokens = _integers("tokens", tokens, None)
        batch, length = tokens.shape
        if positions is None:
            positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
        if segment_ids is None:
            segment_ids = np.ones(tokens.shape, np.int32)
        positions = _integers("positions", positions, tokens.shape)
        segment_ids = _integers("segment_ids", segment_ids, tokens.shape)
        if tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            given = f"tokens from {tokens.min()} to {tokens.max()}"
            expected = f"0 to {self.config.vocab_size - 1}"
            raise UserError(
                f"{given} were given; expected {expected}: were they made with another vocabulary?"
            )
        rows = -batch % (self.mesh.shape["data"] * self.mesh.shape["fsdp"])
        columns = -length % num_shards(self.mesh, "length")
        padded = [np.pad(array, ((0, rows), (0, columns))) for array in (tokens, positions, segment_ids)]
        return self._logits(self.params, *padded)[:batch, :length]


def load_model(dir: str | os.PathLike[str], mesh: Mesh | None = None, *, dtype: str | None = None) -> Model:
    """The model in `dir` on `mesh` (all devices on the axis `context` when None).

    dtype: of its weights and of what is computed with them, "float32", "bfloat16" or "float16"; "stored": as
    they are on disk; None: float32. Weights come from disk to the devices one tensor at a time.

    UserError, one line that names everything that is wrong, for a folder without config.json or weights, a
    config that contradicts itself, and for missing, unknown or misshaped tensors.
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
    if dtype not in (None, *DTYPES):
        raise UserError(f"dtype={dtype!r} was given; expected {', '.join(DTYPES)}, or none for float32")
    _, shapes = nnx.split(_describe(config))
    mesh = mesh if mesh is not None else make_mesh()
    params = model_folder.load_params(
        dir, shapes, NamedSharding(mesh, PartitionSpec()), dtype, read_only=True
    )
    return Model(config, vocabulary, params, mesh, settings=settings, folder=Path(dir))


def _describe(config: TransformerConfig) -> Transformer:
    """The model with shapes in the place of arrays."""
    return nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))


@lru_cache(maxsize=32)
def _compiled(graphdef: Any, mesh: Mesh) -> Any:
    """The jitted `_logits`, shared by all models of one shape on one mesh."""
    return jax.jit(partial(_logits, graphdef, mesh=mesh))


def _logits(
    graphdef: Any, params: Any, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array, *, mesh: Mesh
) -> jax.Array:
    model: Transformer = nnx.merge(graphdef, params)
    return model.logits(tokens, positions, segment_ids, mesh=mesh).astype(jnp.float32)


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
