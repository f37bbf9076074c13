"""One step of the tokenizer's training, a pure function.

    TokenizerState, frames uint8 [N, H, W, 3] -> train_step -> TokenizerState, {name: scalar}

- Reconstruction: L1 + L2 in the network's range; a pixel counts more where the frame it is compared with has
  an edge.
- Codebook: rows follow the running mean of the latents that chose them (van den Oord et al., "Neural Discrete
  Representation Learning", 2017, appendix A.1); the commitment loss pulls latents to their rows. A
  row that few latents choose starts again from a latent of this batch, chosen in proportion to how badly the
  codebook serves it.
- Adversarial: hinge, with a fixed weight; compiled in only when `adversarial` is asked for.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ringvision.config import TokenizerTrainConfig
from ringvision.models.discriminator import Discriminator, hinge_loss
from ringvision.models.vqgan import VQGAN

CODEBOOK_DECAY = 0.99  # of the running means: about a hundred steps
DEAD_BELOW = 0.05  # of the use that a row would have if all were used alike
FRESH = 0.1  # of the same: a row that starts again and is never chosen is dead 69 steps later
FINAL_LR = 0.02  # of the peak, at the end of the cosine


@jax.tree_util.register_dataclass
@dataclass
class TokenizerState:
    """All that a run carries from step to step. counts [K] and sums [K, C] are the running use of the
    codebook's rows.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    counts: jax.Array
    sums: jax.Array
    judge_params: Any
    judge_opt_state: Any


@dataclass(frozen=True)
class TokenizerTraining:
    """What stays the same during a run: the two networks' structure, their optimizers, the config."""

    config: TokenizerTrainConfig
    graph: nnx.GraphDef
    judge_graph: nnx.GraphDef
    tx: optax.GradientTransformation
    judge_tx: optax.GradientTransformation

    @classmethod
    def start(cls, config: TokenizerTrainConfig) -> tuple["TokenizerTraining", TokenizerState]:
        """A fresh run: networks random by config.seed; no row of the codebook has been used yet."""
        graph, params = nnx.split(VQGAN(config.vqgan, rngs=nnx.Rngs(config.seed)))
        judge_graph, judge_params = nnx.split(
            Discriminator(in_channels=config.vqgan.in_channels, rngs=nnx.Rngs(config.seed + 1))
        )
        lr = config.optimizer.lr
        rate = optax.warmup_cosine_decay_schedule(
            0.0, lr, max(1, config.optimizer.warmup_steps), max(2, config.steps), lr * FINAL_LR
        )
        tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b1=0.9, b2=0.99))
        judge_tx = optax.adam(lr, b1=0.5, b2=0.99)
        size = config.vqgan.codebook_size
        width = config.vqgan.embed_dim
        state = TokenizerState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(params),
            counts=jnp.zeros(size),
            sums=jnp.zeros((size, width)),
            judge_params=judge_params,
            judge_opt_state=judge_tx.init(judge_params),
        )
        return cls(config, graph, judge_graph, tx, judge_tx), state

    def compile(self, *, adversarial: bool):
        """-> train_step(state, frames) -> (state, scalars), jitted; the state handed in is used up
        (donated).
        """
        return jax.jit(partial(train_step, self, adversarial=adversarial), donate_argnums=0)


def train_step(
    training: TokenizerTraining, state: TokenizerState, frames: jax.Array, *, adversarial: bool
) -> tuple[TokenizerState, dict[str, jax.Array]]:
    """One step: a pure function of the state and the frames.

    Args:
        training: what stays the same during a run.
        state: before the step.
        frames: uint8 [N, H, W, 3].
        adversarial: whether the adversarial loss counts, and the discriminator learns.

    Returns:
        The state after it, and float32 [] each: loss, l1, l2, commitment, dead, and the adversarial ones.
    """
    config = training.config
    images = frames.astype(jnp.float32) / 127.5 - 1
    weights = edge_weights(images, config.loss.edge_weight)

    def loss_of(params: Any) -> tuple[jax.Array, tuple[Any, ...]]:
        model = nnx.merge(training.graph, params)
        z = model.latents(images)
        z_q, codes = model.quantize(jax.lax.stop_gradient(z))
        z_q = jax.lax.stop_gradient(z_q)
        outputs = model.decode(
            z + jax.lax.stop_gradient(z_q - z), clip=False
        )  # straight through: z gets z_q's gradient
        error = jnp.abs(outputs - images)
        scalars = {
            "l1": jnp.mean(weights * error),
            "l2": jnp.mean(weights * error**2),
            "commitment": jnp.mean((z - z_q) ** 2),
        }
        loss = scalars["l1"] + scalars["l2"] + config.loss.codebook_weight * scalars["commitment"]
        if adversarial:
            judge = nnx.merge(training.judge_graph, state.judge_params)
            scalars["fooled"] = -jnp.mean(judge(outputs))
            loss += config.loss.adversarial_weight * scalars["fooled"]
        return loss, (scalars, z, z_q, codes, outputs)

    (loss, (scalars, z, z_q, codes, outputs)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = training.tx.update(grads, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    rows, counts, sums, dead = update_codebook(state.counts, state.sums, z, z_q, codes, key)
    params["codebook"] = params["codebook"].replace(rows)
    judge_params = state.judge_params
    judge_opt_state = state.judge_opt_state
    if adversarial:

        def judge_loss_of(judge_params: Any) -> jax.Array:
            judge = nnx.merge(training.judge_graph, judge_params)
            return hinge_loss(judge(images), judge(jax.lax.stop_gradient(outputs)))

        scalars["judge"], judge_grads = jax.value_and_grad(judge_loss_of)(judge_params)
        judge_updates, judge_opt_state = training.judge_tx.update(judge_grads, judge_opt_state)
        judge_params = optax.apply_updates(judge_params, judge_updates)
    scalars = {"loss": loss, **scalars, "dead": dead}
    return TokenizerState(
        state.step + 1, params, opt_state, counts, sums, judge_params, judge_opt_state
    ), scalars


def update_codebook(
    counts: jax.Array, sums: jax.Array, z: jax.Array, z_q: jax.Array, codes: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The codebook after a batch, whose rows follow the running means of the latents that chose them.

    Args:
        counts: float32 [K], how often each row was chosen, a running mean.
        sums: float32 [K, C], the latents that chose it, summed alike.
        z: float32 [N, h, w, C], the batch's latents.
        z_q: float32 [N, h, w, C], the rows that they chose.
        codes: int32 [N, h, w], the numbers of these rows.
        key: of the random choice of latents from which rows start again.

    Returns:
        The codebook float32 [K, C], counts, sums, and how many rows were started again, int32 [].
    """
    size, width = sums.shape
    latents = z.reshape(-1, width)
    chosen = codes.reshape(-1)
    counts = CODEBOOK_DECAY * counts + (1 - CODEBOOK_DECAY) * jnp.zeros(size).at[chosen].add(1.0)
    sums = CODEBOOK_DECAY * sums + (1 - CODEBOOK_DECAY) * jnp.zeros((size, width)).at[chosen].add(latents)
    fair = chosen.size / size
    dead = counts < DEAD_BELOW * fair
    error = jnp.sum((z - z_q).reshape(-1, width) ** 2, axis=-1)
    fresh = latents[jax.random.categorical(key, jnp.log(error + 1e-12), shape=(size,))]
    counts = jnp.where(dead, FRESH * fair, counts)
    sums = jnp.where(dead[:, None], FRESH * fair * fresh, sums)
    return sums / counts[:, None], counts, sums, jnp.sum(dead)


def edge_weights(images: jax.Array, strength: float) -> jax.Array:
    """images [N, H, W, 3] in [-1, 1] -> [N, H, W, 1]: 1 where it is flat, up to 1 + strength at and beside an
    edge.
    """
    if strength == 0:
        return jnp.ones((*images.shape[:3], 1))
    down = jnp.pad(jnp.diff(images, axis=1), ((0, 0), (0, 1), (0, 0), (0, 0)))
    across = jnp.pad(jnp.diff(images, axis=2), ((0, 0), (0, 0), (0, 1), (0, 0)))
    steepness = jnp.clip(jnp.max(jnp.abs(down) + jnp.abs(across), axis=-1), 0, 1)
    spread = (
        jax.lax.reduce_window(steepness, 0.0, jax.lax.add, (1, 3, 3), (1, 1, 1), "SAME") / 3
    )  # a straight full step gives 1
    return 1 + strength * jnp.clip(spread, 0, 1)[..., None]
