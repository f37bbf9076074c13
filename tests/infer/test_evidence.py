"""Which seconds an answer attended to: the same on every ring and from every kind of cache, and nobody pays
who does not ask.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from ringvision import shipped
from ringvision.infer import evidence as evidence_module
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.evidence import Evidence, Span, attended_frames, frame_weights, frames_of_tokens
from ringvision.mesh import make_mesh

QUESTION = "What colour was the circle?"
NEEDLE = shipped.folder("demos") / "clips" / "needle.mp4"


@pytest.fixture(scope="module")
def alone(folder: Path) -> Assistant:
    return load(folder, make_mesh(context=1, devices=jax.devices()[:1]))


def _shares(assistant: Assistant, clips: list[Path]) -> np.ndarray:
    """float32 [layers, N, 2, frames] of an answer of three tokens that are the same for every assistant."""
    processor = assistant.processor
    read = [processor.read_video(clip, 1.0) for clip in clips]
    prefix = assistant.engine.prefill(processor.prompts.videos(read))
    frame_of, _ = frames_of_tokens(prefix.tokens, processor.prompts, assistant.tokenizer.grid)
    asked = processor.prompts.question(QUESTION)
    return attended_frames(assistant.engine, prefix, asked, [7, 8, 9], frame_of)


@pytest.mark.parametrize(
    ("axes", "cache_dtype", "bound"),
    [
        ({"context": 8}, None, 2e-6),
        ({"context": 2, "data": 2, "tensor": 2}, None, 2e-6),
        ({"context": 4}, "bfloat16", 0.02),
        ({"context": 2}, "int8", 0.02),
    ],
    ids=str,
)
def test_every_ring_and_every_cache_sees_the_same(
    folder: Path,
    alone: Assistant,
    clips: list[Path],
    axes: dict[str, int],
    cache_dtype: str | None,
    bound: float,
) -> None:
    mesh = make_mesh(**axes, devices=jax.devices()[: int(np.prod(list(axes.values())))])
    expected = _shares(alone, clips)
    found = _shares(load(folder, mesh, cache_dtype=cache_dtype), clips)
    assert found.shape == expected.shape == (2, 4, 2, expected.shape[-1])
    assert 0 < expected.min() < expected.sum(-1).max() < 1
    assert np.abs(found - expected).max() < bound


def test_the_first_layer_against_a_softmax_by_hand(alone: Assistant, clips: list[Path]) -> None:
    """By frame: the tokens of its time stamp, its codes and its end."""
    processor = alone.processor
    prompts = processor.prompts
    codes, times = processor.read_video(clips[0], 1.0)
    tokens = prompts.videos([(codes, times)])
    asked = prompts.question(QUESTION)
    whole = np.concatenate([tokens, asked, [7, 8]])
    model = nnx.merge(alone.model.graphdef, alone.model.params)
    graphdef, stacked = nnx.split(model.layers)
    layer = nnx.merge(graphdef, jax.tree.map(lambda x: x[0], stacked))
    positions = np.arange(len(whole), dtype=np.int32)[None]
    q, k, _ = model._queries_keys_values(layer, model._embed(whole[None], positions), positions, None)
    scores = np.einsum("TNH,SNH->NTS", q[0], np.repeat(k[0], 2, axis=1), dtype=np.float64) / np.sqrt(8)
    scores = np.where(np.tri(len(whole), dtype=bool), scores, -np.inf)
    probabilities = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    answer = probabilities[:, -3:].mean(1)  # from the question's last token on
    question = probabilities[:, len(tokens) : -3].mean(1)
    begin = len(prompts.opening()) + len(prompts.start)
    expected = []
    for moment in times:
        end = begin + prompts.period(alone.tokenizer.grid, float(moment))
        expected.append([answer[:, begin:end].sum(1), question[:, begin:end].sum(1)])
        begin = end
    found = _shares(alone, clips[:1])[0]
    assert np.abs(found - np.moveaxis(np.array(expected), 2, 0).transpose(0, 2, 1)).max() < 2e-6


def test_what_only_the_answer_attends_to_counts() -> None:
    """Two heads: one looks at the first frame all the time, the other at the third one, for the answer."""
    shares = np.array([[[[0.9, 0.02, 0.02, 0], [0.9, 0, 0, 0.05]], [[0.1, 0.1, 0.5, 0.1], [0.1] * 4]]])
    weights = frame_weights(shares.astype(np.float32))
    assert weights.argmax() == 2
    assert np.isclose(weights.sum(), 1)
    assert weights[2] > 0.99
    assert not frame_weights(np.zeros((1, 2, 2, 4), np.float32)).any()


@pytest.mark.parametrize(
    ("weights", "videos", "spans"),
    [
        ([0, 0.6, 0.4, 0, 0], [0, 0, 0, 0, 0], [Span(1, 3)]),
        ([0.1, 0.6, 0.1, 0.1, 0.1], [0, 0, 0, 0, 0], [Span(1, 2)]),
        ([0.35, 0.05, 0.4, 0, 0.2], [0, 0, 1, 1, 1], [Span(2, 3, 1), Span(0, 1)]),
        ([0, 0.4, 0.6, 0, 0], [0, 0, 1, 1, 1], [Span(2, 3, 1)]),
        ([0, 0.4, 0.4, 0, 0.2], [0, 0, 1, 1, 1], [Span(1, 2), Span(2, 3, 1)]),
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], []),
    ],
)
def test_the_stretches_that_hold_most(weights: list[float], videos: list[int], spans: list[Span]) -> None:
    """Neighbours of different videos are not one stretch."""
    start = np.arange(5.0)
    assert Evidence(start, start + 1, np.array(videos), np.array(weights)).spans == spans


def test_many_stretches_are_cut_to_a_few() -> None:
    weights = np.array([1, 0, 1, 0, 1, 0, 1, 0, 1, 0]) / 5
    found = Evidence(np.arange(10.0), np.arange(1, 11.0), np.zeros(10, int), weights).spans
    assert len(found) == evidence_module.MOST_SPANS
    assert [span.start for span in found] == [0, 2, 4]


def test_spans_cost_those_who_ask_and_are_computed_once(
    folder: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    whole = evidence_module.attended_frames

    def counting(*given: Any) -> np.ndarray:
        calls.append(given)
        return whole(*given)

    monkeypatch.setattr(evidence_module, "attended_frames", counting)
    assistant = load(folder, make_mesh(context=1, devices=jax.devices()[:1]))
    plain = assistant.ask(clips[0], QUESTION, fps=2.0, max_tokens=6)
    assert plain.text is not None
    assert plain.finish
    assert not calls
    assert plain.spans == plain.spans
    assert len(calls) == 1
    assert plain.timings["evidence"] > 0
    ends = [end for _, end in plain.spans]
    assert max(ends) <= plain.frames / 2
    both = assistant.ask(clips, QUESTION, max_tokens=6)
    assert {span[2] for span in both.spans} <= {0, 1}
    assert len(both.evidence.weights) == both.frames


def test_the_shipped_model_looks_at_the_card(tmp_path: Path) -> None:
    """The card of needle.mp4 is shown in its eighth second, and a kept session tells the same."""
    for _ in range(2):
        assistant = load(mesh=make_mesh(context=2, devices=jax.devices()[:2]), sessions=tmp_path)
        reply = assistant.ask(NEEDLE, "Which digit was on the card?")
        assert reply.text == "0"
        assert reply.spans == [(7.0, 8.0)]
        assert reply.evidence.weights[7] > 0.5
    assert reply.timings["decode"] == 0
