"""What a run begins with: random parameters by its seed, or those of a model folder.

TrainConfig  --first_state-->  TrainState on a mesh
             --abstract_state, saved_state-->  the same without arrays, which a checkpoint is restored
             into
TrainState of a stage  --next_state-->  that before the first step of the next stage
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from ringvision import shipped
from ringvision.config import TrainConfig
from ringvision.data.sources import SourceConfig, TextData
from ringvision.data.sources.text import OF_INIT_FROM
from ringvision.data.stream import PromptProcessor
from ringvision.distributed import host_copy
from ringvision.errors import UserError
from ringvision.model_folder import load_model, load_params, read_config
from ringvision.models.presets import TransformerConfig
from ringvision.models.transformer import Transformer
from ringvision.train.part import Part
from ringvision.train.state import TrainState, optimizer, shardings, start
from ringvision.tree import flatten, unflatten
from ringvision.vocabulary import Vocabulary


def completed(config: TrainConfig) -> TrainConfig:
    """The config with what it leaves to the model that it starts from: its shape, where it names no other,
    and its chat template. UserError where init_from holds no model.
    """
    if config.init_from is None:
        return config
    data = replace(config.data, sources=_with_template(config.data.sources, config.init_from))
    stages = tuple(
        stage
        if stage.sources is None
        else replace(stage, sources=_with_template(stage.sources, config.init_from))
        for stage in config.stages
    )
    if config.model is not None:
        return replace(config, data=data, stages=stages)
    settings = read_config(config.init_from)
    if not isinstance(settings.get("transformer"), dict):
        raise UserError(
            f"{config.init_from}/config.json describes no transformer; init_from takes a model folder, as "
            "`ringvision import` or `ringvision train` writes it"
        )
    model = TransformerConfig.from_dict(settings["transformer"])
    return replace(config, model=model, data=data, stages=stages)


def _with_template(sources: tuple[SourceConfig, ...], model: str) -> tuple[SourceConfig, ...]:
    """The sources, their conversations written as that model's chat template says where they ask for it."""
    return tuple(
        replace(source, chat_template=model)
        if isinstance(source, TextData) and source.chat_template == OF_INIT_FROM
        else source
        for source in sources
    )


def describe(config: TrainConfig) -> Any:
    """The graph of the model, without arrays."""
    return nnx.split(nnx.eval_shape(lambda: Transformer(config.transformer, rngs=nnx.Rngs(0))))[0]


def _random_params(config: TrainConfig) -> Any:
    """Random parameters by config.seed."""
    return nnx.split(Transformer(config.transformer, rngs=nnx.Rngs(config.seed)))[1]


def _start(config: TrainConfig, tx: optax.GradientTransformation, part: Part, params: Any) -> TrainState:
    trained, frozen = part.start(params)
    return start(trained, tx, config, frozen=frozen)


def abstract_state(
    config: TrainConfig, tx: optax.GradientTransformation, mesh: Mesh, part: Part
) -> TrainState:
    """The state without arrays.

    Args:
        config: of the run.
        tx: its optimizer.
        mesh: the devices that the arrays will be spread over.
        part: which parameters are trained.

    Returns:
        A TrainState of jax.ShapeDtypeStruct, with shardings.
    """
    shapes = jax.eval_shape(lambda: _start(config, tx, part, _random_params(config)))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings(shapes, mesh),
    )


def saved_state(run: TrainConfig, step: int, mesh: Mesh, code_offset: int) -> TrainState:
    """What a checkpoint of a run holds, without arrays: of one that ends a stage, the state of that stage.

    Args:
        run: all stages; it says its model.
        step: of the checkpoint.
        mesh: the devices that the arrays will be spread over.
        code_offset: the first token that is no text.

    Returns:
        A TrainState of jax.ShapeDtypeStruct, with shardings.
    """
    config = run.of_stage(run.stage_at(max(step - 1, 0)))
    return abstract_state(config, optimizer(config), mesh, Part(config, code_offset))


def first_state(
    config: TrainConfig, tx: optax.GradientTransformation, mesh: Mesh, processor: PromptProcessor
) -> TrainState:
    """The state before step 1: random weights by config.seed, or those of the model folder config.init_from.

    Args:
        config: of the run.
        tx: its optimizer.
        mesh: the devices that the arrays are spread over.
        processor: whose vocabulary the model has.

    Returns:
        The state, each array sharded as train/state.py says.

    Raises:
        UserError: where config.init_from is no model, or one of another vocabulary or shape than this run's;
            or the video tokenizer has another number of codes than the data.
    """
    part = Part.of(config, processor.vocabulary)
    state_shardings = shardings(
        jax.eval_shape(lambda: _start(config, tx, part, _random_params(config))), mesh
    )
    if config.init_from is None:
        state = jax.jit(
            lambda: _start(config, tx, part, _random_params(config)), out_shardings=state_shardings
        )()
        return (
            state
            if not config.embed_codebook
            else _with_codebook(state, config, tx, processor, state_shardings)
        )
    settings = read_config(config.init_from)
    own = settings.get("vocabulary")
    expected = None if processor.vocabulary.text_alone else processor.vocabulary
    if (Vocabulary.from_dict(own) if own else None) != expected:
        raise UserError(
            f"{config.init_from} has another vocabulary than this run; use its text model, its "
            "tokenizer and its vocab_size"
        )
    shapes = jax.eval_shape(partial(_random_params, config))
    params = load_params(config.init_from, shapes, shardings(shapes, mesh))
    return jax.jit(partial(_start, config, tx, part), out_shardings=state_shardings)(params)


def next_state(
    config: TrainConfig, tx: optax.GradientTransformation, mesh: Mesh, part: Part, before: TrainState
) -> TrainState:
    """The state before the first step of a stage: the parameters of the stage before, a new optimizer,
    average and health.

    Args:
        config: of the stage.
        tx: its optimizer.
        mesh: its devices; arrays that lie otherwise are moved.
        part: which parameters are trained; the same as before.
        before: the state after the stage before.

    Returns:
        The state; its step goes on.
    """
    places = shardings(abstract_state(config, tx, mesh, part), mesh)
    params, frozen, step = jax.device_put(
        (before.params, before.frozen, before.step), (places.params, places.frozen, places.step)
    )

    def begin(params: Any, frozen: Any, step: jax.Array) -> TrainState:
        return replace(start(params, tx, config, frozen=frozen), step=step)

    return jax.jit(begin, out_shardings=places)(params, frozen, step)


def _with_codebook(
    state: TrainState,
    config: TrainConfig,
    tx: optax.GradientTransformation,
    processor: PromptProcessor,
    state_shardings: Any,
) -> TrainState:
    """The state with the codes' embeddings made from the video tokenizer's codebook, so that codes that look
    alike begin alike: a random projection of the standardised codebook, of the same standard deviation as the
    random rows that it replaces.
    """
    if config.data.tokenizer is None:
        raise UserError(
            "embed_codebook is set and data.tokenizer is None; name the tokenizer, or leave it out"
        )
    codebook = load_model(shipped.tokenizer(config.data.tokenizer))["codebook"]
    codebook = (codebook - codebook.mean(0)) / codebook.std(0)
    table = np.array(host_copy(state.params["embed"]["table"][...]))
    first = processor.vocabulary.code_offset
    if len(codebook) != processor.vocabulary.num_codes:
        raise UserError(
            f"{config.data.tokenizer} has {len(codebook)} codes, the data has "
            f"{processor.vocabulary.num_codes}; tokenize the data with it"
        )
    random = np.random.default_rng([config.seed, 4])
    projection = random.standard_normal((codebook.shape[1], table.shape[1])) / math.sqrt(codebook.shape[1])
    table[first : first + len(codebook)] = (codebook @ projection) * table.std()  # (codes, D)
    placed = jax.device_put(table, state_shardings.params["embed"]["table"].get_value())
    params = unflatten({**flatten(state.params), "embed.table": placed}, state.params)
    return jax.jit(partial(start, tx=tx, config=config), out_shardings=state_shardings)(params)
