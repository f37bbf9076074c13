"""Perplexity by position is what whole logits give in float64, on any mesh, of words and of codes."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_assistant import write_assistant
from tiny_text_model import write_chat_model

from ringvision.data.tokenized import TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.errors import UserError
from ringvision.evaluate.documents import Documents
from ringvision.evaluate.earlier import read_earlier
from ringvision.evaluate.perplexity import KIND, PerplexitySettings, buckets, evaluate_perplexity
from ringvision.infer.model import Model, load_model
from ringvision.mesh import make_mesh
from ringvision.video_tokenizer import identify

TEXTS = [
    "The river is wide. " * 20,
    "A short one.",
    "Another text, of a middling length, about nothing at all.",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("text"), max_length=512)


@pytest.fixture(scope="module")
def model(place: Path) -> Model:
    return load_model(place, make_mesh(devices=jax.devices()[:1]))


def write(path: Path, records: list[object]) -> str:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return str(path)


def expected(model: Model, documents: Documents) -> dict[tuple[bool, int], tuple[float, int]]:
    """By whether it is a code, and by position: the sum of losses in float64, and how many."""
    found: dict[tuple[bool, int], tuple[float, int]] = {}
    for number in range(len(documents)):
        for tokens, counted in documents.pieces(number):
            padded = np.zeros((2, 1, documents.length), np.int32)  # one length: compiled once
            padded[0, 0, : len(tokens)] = tokens
            padded[1, 0, : len(tokens)] = 1
            logits = np.asarray(model.logits(padded[0], segment_ids=padded[1])[0], np.float64)
            lse = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
            for position in range(1, len(tokens)):
                if counted[position]:
                    key = bool(documents.is_code(tokens[position : position + 1])[0]), position
                    loss, count = found.get(key, (0.0, 0))
                    target = tokens[position]
                    found[key] = loss + lse[position - 1] - logits[position - 1, target], count + 1
    return found


@pytest.mark.parametrize("devices", [1, 2])
def test_words_by_position_as_whole_logits_have_them(place: Path, tmp_path: Path, devices: int) -> None:
    model = load_model(place, make_mesh(context=devices, devices=jax.devices()[:devices]))
    data = write(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    documents = Documents(data, place, "text", 100)
    wanted = expected(model, documents)
    result = evaluate_perplexity(model, documents, PerplexitySettings(data, length=100), progress=None)
    assert [(cell["from"], cell["to"]) for cell in result["words"]] == buckets(100)
    for cell in result["words"]:
        held = [wanted[key] for key in wanted if cell["from"] <= key[1] <= cell["to"]]
        assert cell["tokens"] == sum(count for _, count in held)
        assert cell["loss"] == pytest.approx(sum(loss for loss, _ in held) / cell["tokens"], abs=1e-4)
        assert cell["perplexity"] == pytest.approx(np.exp(cell["loss"]))
    assert result["tokens"] == sum(len(text) + 1 for text in TEXTS) and result["codes"] == []
    assert result["loss"] == pytest.approx(
        sum(loss for loss, _ in wanted.values()) / result["tokens"], abs=1e-4
    )


def test_a_long_text_is_cut_and_every_token_of_it_scored_once(place: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"text": TEXTS[0]}])
    pieces = list(Documents(data, place, "text", 100).pieces(0))
    (whole,) = Documents(data, place, "text", 1000).pieces(0)
    assert [len(piece.tokens) for piece in pieces] == [100, 100, 100, 85]
    assert all(piece.tokens[0] == 0 and not piece.counted[0] and piece.counted[1:].all() for piece in pieces)
    assert np.array_equal(np.concatenate([piece.tokens[1:] for piece in pieces]), whole.tokens[1:])


def test_conversations_count_what_the_assistant_says(place: Path, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "hello?"}, {"role": "assistant", "content": "yes"}]
    data = write(tmp_path / "a.jsonl", [{"messages": said}])
    documents = Documents(data, place, "messages", 100)
    ((tokens, counted),) = documents.pieces(0)
    assert documents.processor.text.decode(tokens[counted]).strip().startswith("yes")


def test_videos_count_codes_and_answers(tmp_path: Path) -> None:
    folder = write_assistant(tmp_path / "model")
    model = load_model(folder, make_mesh(devices=jax.devices()[:1]))
    known = identify(folder / "video_tokenizer").hash
    random = np.random.default_rng(0)

    def tokenized(where: Path, tokenizer: str) -> str:
        with TokenizedWriter(where, num_codes=32, format="array_record") as writer:
            writer.add(
                [
                    TokenizedVideo(
                        source=f"/videos/{number}.mp4",
                        sha256="",
                        codes=random.integers(0, 32, (3, 8, 8)),
                        times=np.arange(3.0),
                        fps=1.0,
                        size=16,
                        tokenizer=tokenizer,
                        caption="a red square",
                    )
                    for number in range(2)
                ]
            )
        return str(where)

    data = tokenized(tmp_path / "data", known)
    documents = Documents(data, folder, "text", 512)
    wanted = expected(model, documents)
    result = evaluate_perplexity(model, documents, PerplexitySettings(data, length=512), progress=None)
    assert sum(cell["tokens"] for cell in result["codes"]) == 2 * 3 * 65
    for name, code in (("words", False), ("codes", True)):
        held = [wanted[key] for key in wanted if key[0] == code]
        found = sum(cell["loss"] * cell["tokens"] for cell in result[name])
        assert found == pytest.approx(sum(loss for loss, _ in held), rel=1e-5)
    with pytest.raises(UserError, match="tokenized by another tokenizer"):
        Documents(tokenized(tmp_path / "other", "f" * 64), folder, "text", 512)
    text = write_chat_model(tmp_path / "text")
    with pytest.raises(UserError, match="reads text alone"):
        Documents(data, text, "text", 512)


def test_a_run_goes_on_and_names_what_cannot_be_read(place: Path, model: Model, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"text": TEXTS[1]}, {"text": 7}, {"text": TEXTS[2]}])
    documents = Documents(data, place, "text", 100)
    settings = PerplexitySettings(data, length=100)
    out = tmp_path / "out"
    result = evaluate_perplexity(model, documents, settings, out=out, command="ringvision x", progress=None)
    assert result["documents"] == 2 and result["bad"].keys() == {"1"} and "record 2" in result["bad"]["1"]
    lines = (out / "results.jsonl").read_text().splitlines(keepends=True)
    (out / "results.jsonl").write_text(lines[0] + lines[1][:20])
    again = evaluate_perplexity(model, documents, settings, out=out, command="ringvision x", progress=None)
    assert again == result and (out / "results.jsonl").read_text() == "".join(lines)
    text = (out / "result.md").read_text()
    assert "| words | 1 to 1 |" in text and "Could not be read: 1 documents" in text
    assert (out / "perplexity.png").read_bytes()[:4] == b"\x89PNG"
    evaluate_perplexity(
        model, documents, settings, out=tmp_path / "b", earlier=read_earlier([str(out)], KIND), progress=None
    )
    whole = f"{result['perplexity']:.3f}"
    assert f"| all | {whole} | {whole} |" in (tmp_path / "b" / "result.md").read_text()
    some = PerplexitySettings(data, length=100, documents=2, seed=3)
    drawn = evaluate_perplexity(model, documents, some, progress=None)
    assert drawn["documents"] + len(drawn["bad"]) == 2


def test_what_cannot_be_scored_is_said(place: Path, model: Model, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"text": "x"}])
    documents = Documents(data, place, "text", 1000)
    with pytest.raises(UserError, match="1000 tokens was given, and the model reads 512"):
        evaluate_perplexity(model, documents, PerplexitySettings(data, length=1000), progress=None)
    for settings, says in (
        ({"length": 1}, "length 1"),
        ({"documents": 0}, "documents 0"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(UserError, match=says):
            PerplexitySettings(data, **settings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file of text"):
        Documents(str(tmp_path / "empty"), place, "text", 100)


def test_buckets_are_powers_of_two() -> None:
    assert buckets(2) == [(1, 1)] and buckets(9) == [(1, 1), (2, 3), (4, 7), (8, 8)]
