"""Text as something to train on: documents, conversations, what counts in them; what is said of bad ones."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from byte_tokenizer import byte_processor
from pyarrow import parquet

from ringvision.data.loader import Loader
from ringvision.data.sources import BadRecord, DataConfig, TextData, TextSource
from ringvision.data.stream import Example, PromptProcessor, StreamFormat
from ringvision.data.text.folder import MissingTextTokenizer
from ringvision.errors import UserError

PROCESSOR = byte_processor()


def example(source: TextSource, index: int) -> Example:
    return source.example(index, np.random.default_rng(0), 0)


def write(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_a_document_is_bos_text_eos_and_every_token_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "größer"}, {"text": "a"}, {"text": " "}, {"text": None})
    for weight in (1.0, 0.25):
        source = TextData(path, token_weight=weight).open(PROCESSOR, 8)
        assert (source.name, len(source), source.vision, source.notices) == (path, 4, None, ())
        for index, text in enumerate(("größer", "a")):
            made = example(source, index)
            assert made.tokens.tolist() == [1, *PROCESSOR.text.encode(text), 2]
            assert made.loss_mask.tolist() == [0.0] + [1.0] * (len(made.tokens) - 1)
            assert made.weight == weight * (len(made.tokens) - 1)
        assert not example(source, 2).loss_mask.any() and not example(source, 3).loss_mask.any()


def test_what_is_written_in_a_document_is_no_special_token(tmp_path: Path) -> None:
    source = TextData(write(tmp_path / "a.jsonl", {"text": "<s> </s> <vision>"})).open(PROCESSOR, 8)
    tokens = example(source, 0).tokens.tolist()
    assert (tokens.count(1), tokens.count(2)) == (1, 1)
    assert PROCESSOR.text.decode(tokens) == "<s> </s> <vision>"


def test_a_conversation_counts_the_assistants_words(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which colour?"},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "unanswered"},
    ]
    path = write(tmp_path / "a.jsonl", {"messages": messages})
    source = TextData(path, field="messages").open(PROCESSOR, 8)
    made = example(source, 0)
    turns = [("Be brief.\nWhich colour?", "red"), ("Sure?", "yes")]
    assert made.tokens.tolist() == PROCESSOR.example([], turns).tokens.tolist()
    counted = made.tokens[made.loss_mask > 0].tolist()
    assert counted == [*PROCESSOR.text.encode(" red"), 2, *PROCESSOR.text.encode(" yes"), 2]
    assert made.weight == len(counted) and set(made.loss_mask.tolist()) == {0.0, 1.0}


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CHAT = [
    {"role": "user", "content": "a?"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "</s> [assistant] c"},
    {"role": "assistant", "content": "d e"},
    {"role": "user", "content": "and?"},
]


def test_a_chat_template_writes_conversations(tmp_path: Path) -> None:
    """Loss on what the assistant says and the end of its turn; what a user writes ends no turn."""
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    path = write(tmp_path / "a.jsonl", {"messages": CHAT}, {"messages": CHAT[:1]})
    source = TextData(path, field="messages", chat_template=str(tmp_path)).open(PROCESSOR, 8)
    made = example(source, 0)
    text = PROCESSOR.text
    assert text.decode(made.tokens.tolist()).splitlines() == [
        *("[user] a?", "[assistant] b", "[user] </s> [assistant] c", "[assistant] d e"),
    ]
    assert made.tokens.tolist().count(2) == 4
    assert (
        bytes(b for id in made.tokens[made.loss_mask > 0] for b in text.surface(int(id)) or b"|") == b"b|d e|"
    )
    assert made.weight == 6
    assert not example(source, 1).loss_mask.any()


@pytest.mark.parametrize(
    "template, says",
    [
        (
            "{% for m in messages %}{{ m.content if loop.last else '' }}{% endfor %}",
            "writes message 2 in another way",
        ),
        ("{{ raise_exception('system first') }}", "system first"),
        ("{% for", "the chat template"),
    ],
)
def test_a_chat_template_that_does_not_fit_is_said(tmp_path: Path, template: str, says: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    path = write(tmp_path / "a.jsonl", {"messages": CHAT})
    data = TextData(path, field="messages", chat_template=str(tmp_path))
    with pytest.raises(UserError, match=f"record 1: .*{says}") as refused:
        data.open(PROCESSOR, 8)
    assert "\n" not in str(refused.value)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="neither chat_template.jinja nor"):
        data.open(PROCESSOR, 8)


def test_conversations_come_from_tables_too(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    parquet.write_table(pyarrow.table({"chat": [messages], "n": [1]}), tmp_path / "a.parquet")
    source = TextData(str(tmp_path), field="chat").open(PROCESSOR, 8)
    assert example(source, 0).tokens.tolist() == PROCESSOR.example([], [("a?", "b")]).tokens.tolist()


def test_bad_records_are_named(tmp_path: Path) -> None:
    bad = {
        "text is a int, expected text": {"text": 3},
        "has no 'text', only other": {"other": "x"},
        "message 1 is no": {"text": ["x"]},
        "message 2 is no": {"text": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]},
        "message 1 answers no question": {"text": [{"role": "assistant", "content": "b"}]},
        "not valid Unicode": {"text": "\ud800"},
    }
    source = TextData(write(tmp_path / "a.jsonl", {"text": "fine"}, *bad.values())).open(PROCESSOR, 8)
    example(source, 0)
    for number, says in enumerate(bad, 2):
        with pytest.raises(BadRecord, match=f"a.jsonl, record {number}: .*{says}") as refused:
            example(source, number - 1)
        assert "\n" not in str(refused.value)


def test_a_format_that_asks_first_takes_one_turn(tmp_path: Path) -> None:
    processor = PromptProcessor(
        PROCESSOR.text, PROCESSOR.vocabulary, StreamFormat(question="Q: {question} {video} A:")
    )
    turn = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    path = write(tmp_path / "a.jsonl", {"text": turn}, {"text": turn * 2})
    source = TextData(path).open(processor, 8)
    assert example(source, 0).tokens.tolist() == processor.example([], [("a?", "b")]).tokens.tolist()
    with pytest.raises(BadRecord, match="record 2: 2 turns"):
        example(source, 1)


def test_a_document_longer_than_a_row_is_learned_whole(tmp_path: Path) -> None:
    """One lane: its rows one after another are the document, every token predicted once."""
    text = "".join(f"word {number} " for number in range(60))
    (tmp_path / "a.txt").write_text(text[: 10 * 32 - 3])  # ten rows with bos, a space and eos
    source = TextData(str(tmp_path), token_weight=0.5)
    data = DataConfig(sources=(source,), length=32, rows=1)
    loader = Loader(data, [source.open(PROCESSOR, 32)], PROCESSOR, max_length=4096)
    expected = example(source.open(PROCESSOR, 32), 0).tokens
    with closing(loader.batches()) as batches:
        rows = [next(batches).batch for _ in range(10)]
    tokens, targets, positions, weights = (
        np.concatenate([getattr(row, name)[0] for row in rows])
        for name in ("tokens", "targets", "positions", "loss_weights")
    )
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_array_equal(targets[:-1], expected[1:])
    np.testing.assert_array_equal(positions, np.arange(320))
    np.testing.assert_allclose(weights[:-1], 0.5)
    assert weights[-1] == 0


def test_what_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"body": "x", "title": "y"})
    parquet.write_table(pyarrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "damaged.jsonl").write_text("no json\n" * 100)
    for data, says in (
        (TextData(path), "a.jsonl: no record has a field 'text'; there are body, title"),
        (TextData(str(tmp_path / "a.parquet")), "no record has a field 'text'; there are body"),
        (TextData(str(tmp_path / "a.txt"), field="body"), "no record has a field 'body'; there are text"),
        (TextData(str(tmp_path / "a.txt")), "a.txt: byte 1 of it is not UTF-8"),
        (TextData(str(tmp_path / "none")), "no such file or folder"),
        (TextData(str(tmp_path / "damaged.jsonl")), r"record 1: malformed JSON .* none of the 64 first"),
    ):
        with pytest.raises(UserError, match=says) as refused:
            data.open(PROCESSOR, 8)
        assert "\n" not in str(refused.value) and not isinstance(refused.value, BadRecord)
    missing = PromptProcessor(MissingTextTokenizer(tmp_path), PROCESSOR.vocabulary)
    with pytest.raises(UserError, match=r"is text, and the model has no text tokenizer; .*data.text_model"):
        TextData(path, field="body").open(missing, 8)
    problems = TextData("", field="", token_weight=0.0).problems()
    assert [problem.split()[0] for problem in problems] == ["path", "field", "token_weight"]
