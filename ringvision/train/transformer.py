"""Training the transformer: code shards in, a model folder out.

    config.data, config.text_model
      -> config.out/{metrics.jsonl, tensorboard/, curves.png, checkpoints/, model/{config.json,
      model.safetensors, text.model}}

A run goes on from its newest checkpoint. The batch of a step depends on (seed, step) alone, so on the same
devices a run that was stopped gives the same weights, bit for bit, as one that never was. The model folder is
written with every checkpoint, so that it can be asked while the training goes on.
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision import shipped
from ringvision.checkpoint import Checkpoints
from ringvision.config import TrainConfig
from ringvision.data.loader import Loader
from ringvision.data.packing import Batch
from ringvision.data.shards import Shards
from ringvision.data.stream import PromptProcessor
from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer
from ringvision.errors import UserError
from ringvision.mesh import TRAINING, make_mesh, num_shards, parse_mesh, partition_spec
from ringvision.model_folder import load_model, load_params, read_config, save_model
from ringvision.models.transformer import Transformer
from ringvision.ops.layout_choice import plan
from ringvision.ops.losses import chunked_cross_entropy
from ringvision.train.answer_accuracy import mark, table
from ringvision.train.part import Part
from ringvision.train.record import Record
from ringvision.train.state import TrainState, optimizer, schedule, shardings, start, update
from ringvision.tree import flatten, unflatten
from ringvision.vocabulary import Vocabulary

CURVES = ("loss", "answer_accuracy", "eval/all", "gradient_norm", "learning_rate", "tokens_per_second")
Metrics = dict[str, jax.Array]

ASKED_ABOUT_A_FRAME = "What was there at {seconds}?"
"""What a model of the world is asked, in the end, to judge what it draws (infer/prompt_form.py)."""


def train(
    config: TrainConfig, *, stop_at: int | None = None, quiet: bool = False, mesh: Mesh | None = None
) -> TrainState:
    """Train until config.steps, or until step `stop_at` to go on another day. -> the state, which is also on
    disk.

    mesh: of the caller's own devices, in the place of config.mesh, which takes all there are. UserError where
    data, text model and model do not fit together, the mesh does not divide a batch, or the loss is no longer
    a number (the last checkpoint is then from before that).
    """
    out = Path(config.out)
    if mesh is None:
        axes: dict[str, Any] = {**parse_mesh(config.mesh)}
        mesh = make_mesh(**axes)
    processor, loader = open_data(config)
    put = placer(config, mesh)
    part = Part.of(config, processor.vocabulary)
    tx = optimizer(config)
    checkpoints = Checkpoints(out / "checkpoints")
    if (latest := checkpoints.latest()) is not None:
        state = checkpoints.restore(abstract_state(config, tx, mesh, part), latest)
    else:
        state = first_state(config, tx, mesh, processor)
    step_fn = compile_step(part, tx, config, mesh, state)
    examine = open_evaluation(config, processor, part, mesh, put)

    step = int(state.step)
    last = min(config.steps, stop_at or config.steps)
    with Record(out, step=step, quiet=quiet) as record:
        (out / "run.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
        every = "" if state.frozen is None else f" of {count(state.frozen):,}"
        record.say(
            f"{config.name}: {count(state.params):,}{every} parameters on {mesh.size} devices, "
            f"from step {step} to {last}"
        )
        batches = loader.batches(step)
        window = Window()
        rate = schedule(config)
        while step < last:
            batch = next(batches)
            state, metrics = step_fn(state, put(batch))
            step += 1
            window.add(metrics, batch)
            if step % config.log_every == 0 or step == last:
                record.write(step, {**window.close(step), "learning_rate": float(rate(step - 1))})
            if examine and (step % config.eval_every == 0 or step == last):
                scores, asked = examine(state)
                record.write(
                    step, {f"eval/{name}": score for name, score in scores.items()}, table(scores, asked)
                )
                window.restart()
            if step % config.checkpoint_every == 0 or step == last:
                window.check(step)
                checkpoints.save(step, state)
                export(out / "model", part, processor, loader.shards, state)
                record.curves_png(out / "curves.png", CURVES)
                window.restart()
        batches.close()
    return state


# --------------------------------------------------------------------------------------------------- the step


def loss_fn(params: Any, batch: Batch, *, graphdef: Any, mesh: Mesh, chunk: int) -> tuple[jax.Array, Metrics]:
    """-> (mean loss over the batch's weights, {"answer_accuracy": share of that weight whose target has the
    highest logit}).
    """
    model: Transformer = nnx.merge(graphdef, params)
    hidden = model.hidden(batch.tokens, batch.positions, batch.segment_ids, mesh=mesh, rules=TRAINING)
    loss, weight, correct = chunked_cross_entropy(
        hidden, model.head(), batch.targets, batch.loss_weights, chunk=chunk, mesh=mesh, rules=TRAINING
    )
    weight = jax.numpy.maximum(weight, 1e-6)
    return loss / weight, {"answer_accuracy": correct / weight}


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    part: Part,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    chunk: int,
    ema: float,
) -> tuple[TrainState, Metrics]:
    """One step: a pure function of the state and the batch."""
    graphdef, _ = part.describe()

    def loss_of(trained: Any) -> tuple[jax.Array, Metrics]:
        return loss_fn(part.join(trained, state.frozen), batch, graphdef=graphdef, mesh=mesh, chunk=chunk)

    (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    state = update(state, gradients, tx, ema=ema)
    return state, {"loss": loss, **metrics, "gradient_norm": optax.global_norm(gradients)}


def compile_step(
    part: Part, tx: optax.GradientTransformation, config: TrainConfig, mesh: Mesh, state: TrainState
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step jitted: the old state's memory becomes the new one's, and outputs lie where the inputs lay, so
    it compiles once.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    step = partial(train_step, part=part, tx=tx, mesh=mesh, chunk=config.loss_chunk, ema=config.ema)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings(state, mesh), whole))


# -------------------------------------------------------------------------------------------- beginning a run


def open_data(config: TrainConfig) -> tuple[PromptProcessor, Loader]:
    """The weaver and the batches of a run. UserError where shards, text model and transformer do not fit
    together.
    """
    text = LosslessTokenizer(config.text_model)
    shards = Shards(config.data)
    vocabulary = Vocabulary(
        text.size, shards.info.num_codes, text.bos, text.eos, text.vision_start, text.vision_end
    )
    if config.model.vocab_size < vocabulary.size:
        raise UserError(
            f"model.vocab_size is {config.model.vocab_size}; {config.text_model} has {text.size} "
            f"pieces and {config.data}"
            f" {shards.info.num_codes} codes, so give at least {vocabulary.size}"
        )
    processor = PromptProcessor(
        text,
        Vocabulary.from_dict({**vocabulary.to_dict(), "vision_size": config.model.vocab_size - text.size}),
    )
    return processor, open_loader(
        config, shards, processor, config.seed, (config.grow_from, config.grow_steps)
    )


def open_loader(
    config: TrainConfig, shards: Shards, processor: PromptProcessor, seed: int, grow: tuple[int, int] = (0, 0)
) -> Loader:
    return Loader(
        shards, processor, length=config.length, rows=config.rows, seed=seed,
        turns_min=config.turns_min, turns_max=config.turns_max, vision_weight=config.vision_weight, question_weight=config.question_weight,
        grow_from=grow[0], grow_steps=grow[1], favour=config.favour,
    )  # fmt: skip


def open_evaluation(
    config: TrainConfig, processor: PromptProcessor, part: Part, mesh: Mesh, put: Callable[[Any], Any]
) -> Callable[[TrainState], tuple[dict[str, float], dict[str, int]]] | None:
    """A function that marks the model (the averaged one where there is one) on config.eval_data; None where
    there is nothing to mark.
    """
    if config.eval_data is None or not config.eval_every:
        return None
    shards = Shards(config.eval_data)
    trained = Shards(config.data).info
    if shards.info.hash != trained.hash:
        raise UserError(
            f"{config.eval_data} was tokenized by {shards.info.tokenizer} "
            f"({shards.info.hash[:8]}), {config.data} by {trained.tokenizer}"
            f" ({trained.hash[:8]}); tokenize both with one tokenizer"
        )
    eval_batches = open_loader(config, shards, processor, seed=0).eval_batches(config.eval_examples)
    graphdef = describe(config)
    return lambda state: mark(eval_batches, exported(state, part), graphdef, mesh, put)


def describe(config: TrainConfig) -> Any:
    """The graph of the model, without arrays."""
    return nnx.split(nnx.eval_shape(lambda: Transformer(config.model, rngs=nnx.Rngs(0))))[0]


def _drawn(config: TrainConfig) -> Any:
    """Random parameters by config.seed."""
    return nnx.split(Transformer(config.model, rngs=nnx.Rngs(config.seed)))[1]


def _start(config: TrainConfig, tx: optax.GradientTransformation, part: Part, params: Any) -> TrainState:
    trained, frozen = part.start(params)
    return start(trained, tx, average=config.ema > 0, frozen=frozen)


def abstract_state(
    config: TrainConfig, tx: optax.GradientTransformation, mesh: Mesh, part: Part
) -> TrainState:
    """The state's shapes, dtypes and shardings, without arrays."""
    shapes = jax.eval_shape(lambda: _start(config, tx, part, _drawn(config)))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings(shapes, mesh),
    )


def first_state(
    config: TrainConfig, tx: optax.GradientTransformation, mesh: Mesh, processor: PromptProcessor
) -> TrainState:
    """The state before step 1: random weights by config.seed, or those of the model folder
    config.init_from.
    """
    part = Part.of(config, processor.vocabulary)
    places = shardings(jax.eval_shape(lambda: _start(config, tx, part, _drawn(config))), mesh)
    if config.init_from is None:
        state = jax.jit(lambda: _start(config, tx, part, _drawn(config)), out_shardings=places)()
        return state if not config.embed_codebook else _with_codebook(state, config, tx, processor, places)
    settings = read_config(config.init_from)
    if settings.get("vocabulary") != json.loads(json.dumps(processor.vocabulary.to_dict())):
        raise UserError(
            f"{config.init_from} has another vocabulary than this run; use its text model, its "
            "tokenizer and its vocab_size"
        )
    shapes = jax.eval_shape(partial(_drawn, config))
    params = load_params(config.init_from, shapes, shardings(shapes, mesh))
    return jax.jit(partial(_start, config, tx, part), out_shardings=places)(params)


def _with_codebook(
    state: TrainState,
    config: TrainConfig,
    tx: optax.GradientTransformation,
    processor: PromptProcessor,
    places: Any,
) -> TrainState:
    """The state with the codes' embeddings drawn from the video tokenizer's codebook, so that codes that look
    alike begin alike.

    A random projection of the standardised codebook, of the same spread as the random rows that it replaces.
    """
    codebook = load_model(shipped.tokenizer(config.tokenizer))["codebook"]
    codebook = (codebook - codebook.mean(0)) / codebook.std(0)
    table = np.array(state.params["embed"]["table"][...])
    first = processor.vocabulary.code_offset
    if len(codebook) != processor.vocabulary.num_codes:
        raise UserError(
            f"{config.tokenizer} has {len(codebook)} codes, {config.data} has "
            f"{processor.vocabulary.num_codes}; tokenize the data with it"
        )
    random = np.random.default_rng([config.seed, 4])
    projection = random.standard_normal((codebook.shape[1], table.shape[1])) / math.sqrt(codebook.shape[1])
    table[first : first + len(codebook)] = (codebook @ projection) * table.std()
    placed = jax.device_put(table, places.params["embed"]["table"].get_value())
    params = unflatten({**flatten(state.params), "embed.table": placed}, state.params)
    return jax.jit(partial(start, tx=tx, average=config.ema > 0), out_shardings=places)(params)


def placer(config: TrainConfig, mesh: Mesh) -> Callable[..., Any]:
    """put(batch, *others): lays a batch, and other arrays [rows, length] that go with it, on the mesh: rows
    over data and fsdp, length over the ring, in the layout that suits the documents in it
    (ops/layout_choice.py). UserError where the mesh does not divide a batch.
    """
    groups = num_shards(mesh, "batch")
    devices = num_shards(mesh, "length")
    ring = mesh.shape["context"]
    if config.rows % groups or config.length % devices:
        raise UserError(
            f"a batch of {config.rows} x {config.length} on data x fsdp = {groups} and context x "
            f"ulysses = {devices};"
            " give rows and length that these divide"
        )
    place = NamedSharding(mesh, partition_spec(mesh, "batch", "length"))

    def put(batch: Batch, *others: np.ndarray) -> Any:
        arrays = batch, *others
        if ring > 1:
            chosen = plan(batch.segment_ids, batch.positions, devices=ring)
            arrays = jax.tree.map(lambda array: np.take_along_axis(array, chosen.order, 1), arrays)
            arrays = replace(arrays[0], segment_ids=chosen.segment_ids), *arrays[1:]
        arrays = jax.tree.map(
            lambda array: jax.make_array_from_callback(array.shape, place, lambda index: array[index]), arrays
        )
        return arrays if others else arrays[0]

    return put


# ----------------------------------------------------------------------------------- what a run leaves behind


def exported(state: TrainState, part: Part) -> Any:
    """The parameters that go into the model folder: the whole model, of the average where there is one."""
    return part.whole(state.params if state.average is None else state.average, state.frozen)


def export(folder: Path, part: Part, processor: PromptProcessor, shards: Shards, state: TrainState) -> None:
    """Write the model folder that `ringvision ask --model` reads."""
    config = part.config
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / "text.model.partial"
    assert isinstance(processor.text, LosslessTokenizer)  # the only kind that a trainer reads
    aside.write_bytes(processor.text.serialized)
    os.replace(aside, folder / "text.model")
    settings = {
        "kind": "assistant",
        "name": config.name,
        "transformer": config.model.to_dict(),
        "vocabulary": processor.vocabulary.to_dict(),
        "stream": processor.format.to_dict(),
        "video_tokenizer": config.tokenizer,
        "video_tokenizer_hash": shards.info.hash,
        "fps": shards.info.fps,
        "generation": {"question": ASKED_ABOUT_A_FRAME, "candidates": 64},
        "trained": {"steps": int(state.step), "tokens": int(state.step) * config.rows * config.length},
    }
    save_model(folder, settings, flatten(exported(state, part)))


def count(params: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


class Window:
    """The metrics between two lines of the record, fetched from the devices only when the line is written."""

    def __init__(self) -> None:
        self._metrics: list[Metrics] = []
        self._newest: Metrics = {}
        self._filled = 0
        self._slots = 0
        self.restart()

    def restart(self) -> None:
        """Start the clock anew, so that what is not training does not count as training."""
        self._began = time.monotonic()
        self._steps = 0
        self._tokens = 0

    def add(self, metrics: Metrics, batch: Batch) -> None:
        jax.block_until_ready(self._newest)  # one step ahead is enough
        self._newest = metrics
        self._metrics.append(metrics)
        tokens = int(np.count_nonzero(batch.segment_ids))
        self._steps = self._steps + 1
        self._tokens = self._tokens + tokens
        self._filled = self._filled + tokens
        self._slots = self._slots + batch.tokens.size

    def close(self, step: int) -> dict[str, float]:
        """The means since the last line. UserError where the newest loss is no number."""
        self.check(step)
        values = {name: float(np.mean([metrics[name] for metrics in self._metrics])) for name in self._newest}
        seconds = time.monotonic() - self._began
        if self._steps:
            values |= {"seconds_per_step": seconds / self._steps, "tokens_per_second": self._tokens / seconds}
        values["fill"] = self._filled / self._slots
        self._metrics = []
        self._filled = 0
        self._slots = 0
        self.restart()
        return values

    def check(self, step: int) -> None:
        """UserError where the newest loss or gradient is no finite number."""
        for name, value in self._newest.items():
            if not np.isfinite(value):
                raise UserError(
                    f"{name} is {float(value)} at step {step}; go back to the last checkpoint with a "
                    "lower lr or clip_norm"
                )
