"""From config.data to batches on the mesh.

TrainConfig  --open_data-->  PromptProcessor, Loader
Batch [B, L] in numpy  --batch_sharder's put-->  the same, spread over the mesh
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ringvision.config import TrainConfig
from ringvision.data.loader import Loader
from ringvision.data.packing import Batch
from ringvision.data.stream import PromptProcessor
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer
from ringvision.errors import UserError
from ringvision.mesh import num_shards, partition_spec
from ringvision.ops.layout_choice import choose_layout
from ringvision.vocabulary import Vocabulary


def open_data(config: TrainConfig) -> tuple[PromptProcessor, Loader]:
    """What turns videos and words into tokens, and the batches of a run. UserError where data, text model and
    transformer do not fit together.
    """
    data = config.data
    text = LosslessTokenizer(data.text_model)
    source = data.open()
    num_codes = source.info.num_codes
    vocabulary = Vocabulary(text.size, num_codes, text.bos, text.eos, text.vision_start, text.vision_end)
    if config.transformer.vocab_size < vocabulary.size:
        raise UserError(
            f"model.vocab_size is {config.transformer.vocab_size}; {data.text_model} has {text.size} pieces "
            f"and {data.folder} {num_codes} codes, so give at least {vocabulary.size}"
        )
    # rows of the model that no token needs belong to the vision part
    vision_size = config.transformer.vocab_size - text.size
    processor = PromptProcessor(text, replace(vocabulary, vision_size=vision_size))
    return processor, Loader(source, processor, data, seed=config.seed)


def batch_sharder(config: TrainConfig, mesh: Mesh) -> Callable[..., Any]:
    """A function that spreads batches over a mesh: rows over data and fsdp, length over the ring, in the
    layout that suits the documents in them (ops/layout_choice.py).

    It is put(batch, *others): a batch, arrays [B, L], and other arrays [B, L] that go with it; it gives a
    tuple where there are others. UserError where the mesh does not divide a batch.
    """
    rows = config.data.rows
    length = config.data.length
    groups = num_shards(mesh, "batch")
    devices = num_shards(mesh, "length")
    ring = mesh.shape["context"]
    if rows % groups or length % devices:
        raise UserError(
            f"a batch of {rows} x {length} on data x fsdp = {groups} and context x ulysses = {devices}; give "
            "rows and length that these divide"
        )
    sharding = NamedSharding(mesh, partition_spec(mesh, "batch", "length"))

    def put(batch: Batch, *others: np.ndarray) -> Any:
        arrays = batch, *others
        if ring > 1:
            chosen = choose_layout(batch.segment_ids, batch.positions, devices=ring)
            arrays = jax.tree.map(lambda array: np.take_along_axis(array, chosen.order, 1), arrays)
            arrays = replace(arrays[0], segment_ids=chosen.segment_ids), *arrays[1:]
        arrays = jax.tree.map(
            lambda array: jax.make_array_from_callback(array.shape, sharding, lambda index: array[index]),
            arrays,
        )
        return arrays if others else arrays[0]

    return put
