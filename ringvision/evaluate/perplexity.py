"""Perplexity by position: how well a model predicts each next token, by how many tokens it has read before.

    documents → tokens [B, L] ─Transformer.hidden→ ─chunked cross-entropy→ sums by position → perplexity

Every token is given and its probability taken (teacher forcing), nothing is generated. Positions are counted
in buckets of powers of two: 1, 2 to 3, 4 to 7 and so on. Logits exist for CHUNK positions at a time; what is
spread over the ring is the hidden states of one batch.
"""

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.errors import UserError
from ringvision.evaluate.documents import BadRecord, Documents, Piece
from ringvision.evaluate.earlier import Scores, comparison
from ringvision.evaluate.result_log import ResultLog, Row
from ringvision.evaluate.whole_numbers import check_least
from ringvision.infer.model import Model
from ringvision.mesh import Rules, num_shards
from ringvision.models.transformer import Transformer
from ringvision.ops.losses import Groups, chunked_cross_entropy

KIND = "perplexity"
LENGTH = 4096
CHUNK = 512
SHORTEST = 256
"""Tokens that the shortest pieces are padded to; longer ones to a power of two: few lengths are compiled."""
WORDS = "words"
CODES = "codes"


@dataclass(frozen=True)
class PerplexitySettings:
    """What is scored.

    data: the path. field: of its records. length: tokens of the longest piece. documents: how many, drawn by
    `seed` (None: all). UserError for what cannot be.
    """

    data: str
    field: str = "text"
    length: int = LENGTH
    documents: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, length=2, documents=1, seed=0)


def evaluate_perplexity(
    model: Model,
    documents: Documents,
    settings: PerplexitySettings,
    *,
    out: str | os.PathLike[str] | None = None,
    earlier: Mapping[str, Scores] | None = None,
    command: str = "",
    progress: TextIO | None = sys.stderr,
) -> dict[str, Any]:
    """Scores documents.

    Args:
        model: what is evaluated.
        documents: what is read, in pieces of settings.length.
        settings: which of them.
        out: a folder for settings.json, results.jsonl, result.json, result.md and perplexity.png; from there
            a run that was stopped goes on (None: nothing is written).
        earlier: scores of earlier runs that stand beside these, as read_earlier gives them.
        command: that was given, for the record.
        progress: where it is printed how far it is (None: nowhere).

    Returns:
        {"loss": mean in nats, "perplexity", "tokens": that were scored, "documents", "bad": documents that
        cannot be read, "words", "codes": [{"from", "to": positions, "loss", "perplexity", "accuracy": how
        often the likeliest token was right, "tokens"}], "scores", "record"}.

    Raises:
        UserError: the pieces are longer than the model reads, none of the documents can be read; for `out` as
            ResultLog.
    """
    if settings.length > model.config.max_length:
        raise UserError(
            f"a length of {settings.length} tokens was given, and the model reads {model.config.max_length}; "
            "give a shorter --length"
        )
    score = _scorer(model, settings.length)
    numbers = np.arange(len(documents))
    if settings.documents is not None:
        numbers = np.random.default_rng([settings.seed, 18]).permutation(numbers)[: settings.documents]
    bad: dict[str, str] = {}
    with ResultLog(out, {"kind": KIND, **asdict(settings), "model": model.hash}, command) as log:
        for number in numbers.tolist():
            if str(number) not in log:
                try:
                    log.add({"key": str(number), **_document(documents, number, score)})
                except BadRecord as error:
                    bad[str(number)] = str(error)
                _say(progress, log, len(numbers))
        if not sum(row["tokens"] for row in log.rows.values()):
            raise UserError(
                f"{settings.data}: no token to predict; {next(iter(bad.values()), 'give longer text')}"
            )
        result = _scores(log, bad)
        log.finish(result, perplexity_text(result, earlier))
        if log.folder is not None:
            _draw(log.folder / "perplexity.png", result)
    return result


def _say(output: TextIO | None, log: ResultLog, documents: int) -> None:
    tokens = sum(row["tokens"] for row in log.rows.values())
    if output is not None:
        print(f"{len(log.rows)} of {documents} documents, {tokens} tokens", file=output, flush=True)


# ------------------------------------------------------------------------------------------------- scoring


Scorer = Callable[[Sequence[Piece], Callable[[np.ndarray], np.ndarray]], np.ndarray]


def _document(documents: Documents, number: int, score: Scorer) -> Row:
    """The sums of a document: {"tokens", "words", "codes": [[loss, tokens, right] of each bucket]}."""
    sums = score(list(documents.pieces(number)), documents.is_code)  # (2, buckets, 3)
    return {
        "tokens": int(sums[..., 1].sum()),
        WORDS: np.round(sums[0].astype(np.float64), 4).tolist(),
        CODES: np.round(sums[1].astype(np.float64), 4).tolist(),
    }


def buckets(length: int) -> list[tuple[int, int]]:
    """The first and last position of each bucket of predicted tokens, for pieces of so many tokens."""
    return [(1 << power, min((2 << power) - 1, length - 1)) for power in range((length - 1).bit_length())]


def _scorer(model: Model, length: int) -> Scorer:
    """Pieces -> float32 [2, buckets, 3]: the sums of loss, tokens and right guesses of words and of codes."""
    mesh = model.mesh
    rows = num_shards(mesh, "batch")
    shards = num_shards(mesh, "length")
    count = len(buckets(length))
    compiled = jax.jit(
        partial(_sums, graphdef=model.graphdef, mesh=mesh, rules=model.rules, groups=2 * count),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )

    def score(pieces: Sequence[Piece], is_code: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        total = np.zeros((2, count, 3), np.float64)
        for first in range(0, len(pieces), rows):
            some = pieces[first : first + rows]
            longest = max(len(piece.tokens) for piece in some)
            columns = max(SHORTEST, 1 << (longest - 1).bit_length())
            columns = -(-columns // shards) * shards
            batch = _batch(some, rows, columns, count, is_code)
            total += np.asarray(compiled(model.params, **batch), np.float64).reshape(2, count, 3)
        return total

    return score


def _batch(
    pieces: Sequence[Piece], rows: int, columns: int, count: int, is_code: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """Arrays [rows, columns]: each token's target is the next one, and its group the target's bucket."""
    tokens, targets, segment_ids, groups = np.zeros((4, rows, columns), np.int32)
    weights = np.zeros((rows, columns), np.float32)
    for row, piece in enumerate(pieces):
        size = len(piece.tokens)
        after = np.arange(1, size)  # positions of the targets
        tokens[row, :size] = piece.tokens
        segment_ids[row, :size] = 1
        targets[row, : size - 1] = piece.tokens[1:]
        weights[row, : size - 1] = piece.counted[1:]
        bucket = np.frexp(after)[1] - 1  # the power of two at or below each
        groups[row, : size - 1] = bucket + count * is_code(piece.tokens[1:])
    positions = np.broadcast_to(np.arange(columns, dtype=np.int32), tokens.shape)
    return {
        "tokens": tokens,
        "targets": targets,
        "positions": positions,
        "segment_ids": segment_ids,
        "weights": weights,
        "ids": groups,
    }


def _sums(
    params: Any,
    *,
    tokens: jax.Array,
    targets: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
    weights: jax.Array,
    ids: jax.Array,
    graphdef: Any,
    mesh: Mesh,
    rules: Rules,
    groups: int,
) -> jax.Array:
    """int32 and float32 [B, L] -> float32 [groups, 3]: loss, weight and right guesses of each group."""
    model: Transformer = nnx.merge(graphdef, params)
    hidden = model.hidden(tokens, positions, segment_ids, mesh=mesh, rules=rules)  # (B, L, D)
    sums = chunked_cross_entropy(
        hidden,
        model.head().astype(hidden.dtype),
        targets,
        weights,
        chunk=CHUNK,
        groups=Groups(ids, groups),
        mesh=mesh,
        rules=rules,
    )
    return sums.groups.astype(jnp.float32)


# ------------------------------------------------------------------------------------------------- results


def _scores(log: ResultLog, bad: Mapping[str, str]) -> dict[str, Any]:
    rows = list(log.rows.values())
    held = {
        name: np.array([row[name] for row in rows]).sum(axis=0) for name in (WORDS, CODES)
    }  # (buckets, 3)
    loss, tokens, _ = (held[WORDS] + held[CODES]).sum(axis=0)
    cells = {
        name: [
            {"from": low, "to": high, **_means(*sums[place])}
            for place, (low, high) in enumerate(buckets(log.settings["length"]))
            if sums[place][1]
        ]
        for name, sums in held.items()
    }
    mean = _means(loss, tokens, 0)
    named = {
        f"{name} {cell['from']} to {cell['to']}": cell["perplexity"]
        for name, found in cells.items()
        for cell in found
    }
    return {
        "loss": mean["loss"],
        "perplexity": mean["perplexity"],
        "tokens": mean["tokens"],
        "documents": len(rows),
        "bad": dict(bad),
        **cells,
        "scores": {"all": mean["perplexity"], **named},
        "record": {**log.settings, "runs": log.runs},
    }


def _means(loss: float, tokens: float, right: float) -> dict[str, Any]:
    mean = float(loss / tokens)
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700.0)),
        "accuracy": float(right / tokens),
        "tokens": int(tokens),
    }


def perplexity_text(result: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> str:
    """The scores for people, in markdown.

    Args:
        result: as evaluate_perplexity gives it.
        earlier: the scores of other runs by name, for a table beside them.
    """
    lines = [
        f"Perplexity {result['perplexity']:.3f} (loss {result['loss']:.4f}) of {result['tokens']} tokens in "
        f"{result['documents']} documents.",
        "",
        "| | positions | perplexity | loss | likeliest right | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name in (WORDS, CODES):
        for cell in result[name]:
            lines.append(
                f"| {name} | {cell['from']} to {cell['to']} | {cell['perplexity']:.3f} | "
                f"{cell['loss']:.4f} | {cell['accuracy']:.1%} | {cell['tokens']} |"
            )
    if bad := result["bad"]:
        lines += ["", f"Could not be read: {len(bad)} documents, the first: {next(iter(bad.values()))}"]
    if beside := comparison(result["scores"], earlier or {}, ".3f"):
        lines += ["", *beside]
    if command := result["record"]["runs"][-1]["command"]:
        lines += ["", f"`{command}`"]
    return "\n".join(lines) + "\n"


def _draw(path: os.PathLike[str], result: Mapping[str, Any]) -> None:
    """Perplexity over positions, both on logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in (WORDS, CODES):
        if cells := result[name]:
            middles = [math.sqrt(cell["from"] * cell["to"]) for cell in cells]
            axes.plot(middles, [cell["perplexity"] for cell in cells], marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("position of the predicted token")
    axes.set_ylabel("perplexity")
    axes.legend()
    axes.grid(alpha=0.3)
    try:
        figure.savefig(os.fspath(path), dpi=110)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
