"""What the TPU's compiler makes of the trainer's step: parameters and optimizer spread over the whole pod,
weights that travel once a layer, a loss that travels once a step. scripts/compile_for_pod.py does the same
for models that are too large for a test.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import compile_for_pod
from compile_for_pod import Collective, collectives, lower_step

from ringvision.config import TrainConfig
from ringvision.data.sources import DataConfig, TokenizedData
from ringvision.models.presets import TransformerConfig
from ringvision.ops import exchange

MODEL = TransformerConfig(
    vocab_size=8192,
    embed_dim=512,
    num_layers=3,
    num_heads=4,
    num_kv_heads=4,
    head_dim=128,
    hidden_dim=1536,
    max_length=2**20,
    feed_forward_chunk=128,
    remat="block",
)
LENGTH = 2048
ROWS = 2
LAYER = 4 * (4 * 512 * 512 + 3 * 512 * 1536)
TABLE = 4 * 8192 * 512
PARAMETERS = MODEL.num_layers * LAYER + 2 * TABLE
"""Bytes, without the norms."""


@pytest.fixture(scope="module")
def step() -> Any:
    """Two rows of 2,048 tokens on eight chips, fsdp=2,context=4: 512 tokens a chip, which are four
    feed-forward chunks and two of the loss.
    """
    source = TokenizedData(folder="none")
    data = DataConfig((source,), LENGTH, ROWS, text_model="none", tokenizer="none")
    config = TrainConfig(name="pod", out="none", model=MODEL, data=data, steps=1000, loss_chunk=256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "GATHERED_AT_MOST", 0)  # keys go round: what is gathered are weights
        return lower_step(config, "v5e:2x4", "fsdp=2,context=4", "float32").compile()


@pytest.fixture(scope="module")
def found(step: Any) -> list[Collective]:
    return collectives(step.as_text(), at_least=1 << 17)


def test_parameters_and_optimizer_are_spread_over_every_chip(step: Any) -> None:
    held = step.memory_analysis().argument_size_in_bytes
    assert held == pytest.approx(3 * PARAMETERS / 8, rel=0.05)


def test_what_travels_in_the_scan_is_weights_once_and_keys(found: list[Collective]) -> None:
    """Weights forward and once more for the backward pass, which the compiler makes bfloat16 first, and their
    gradients, over one axis after the other: never once a chunk of the feed-forward layer. No hidden states.
    """
    scan = [one for one in found if one.in_a_loop and one.kind != "collective-permute"]
    weights = MODEL.num_layers * LAYER
    gathered = sum(one.bytes * one.times for one in scan if one.kind == "all-gather")
    assert weights <= gathered <= 1.5 * weights
    reduced = sum(one.bytes * one.times for one in scan if one.kind != "all-gather")
    assert 0.9 * weights <= reduced <= 1.75 * weights
    assert max(one.bytes for one in scan) < LAYER
    assert not [one for one in scan if f"[{ROWS}," in one.array or f",{LENGTH}," in one.array]


def test_the_head_and_the_table_travel_once_a_step(found: list[Collective]) -> None:
    """Over one axis after the other: none of a loop's turns moves either."""
    large = [one for one in found if "8192" in one.array]
    assert {one.times for one in large} == {1}
    assert sum(one.bytes for one in large if one.kind == "all-gather") <= 2 * 1.5 * TABLE
    reduced = sum(one.bytes for one in large if one.kind in ("reduce-scatter", "all-reduce"))
    assert 2 * TABLE <= reduced <= 2 * 1.5 * TABLE
    assert sum(one.kind == "reduce-scatter" for one in large) >= 2


def test_a_program_over_the_limit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiler says becomes part of the report."""

    class Lowered:
        def compile(self) -> None:
            raise compile_for_pod.jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: CompileTimeHbmOom: 116.38G")

    monkeypatch.setattr(compile_for_pod, "lower_step", lambda *_: Lowered())
    report = compile_for_pod.report(compile_for_pod.read_arguments(["v5e:4x4", "--mesh", "context=16"]))
    assert report["fits"] is False
    assert "116.38G" in report["error"]
    assert report["layers"] == 32
