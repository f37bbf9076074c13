"""Ids of codes that lie anywhere, in our order and back; and the tokenizer.json that goes with them."""

import json

import numpy as np
import pytest

from ringvision.errors import UserError
from ringvision.weights.code_ids import CodeIds, ids_by_code, piece_id
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

IDS = CodeIds(vocab_size=9, codes=(5, 2, 7), frame_end=1)
"""Text: 0 1 3 4 6 8."""


def test_text_comes_first_then_codes_in_their_order() -> None:
    np.testing.assert_array_equal(IDS.theirs, [0, 1, 3, 4, 6, 8, 5, 2, 7, 1, 1])
    np.testing.assert_array_equal(IDS.ours, [0, 1, 7, 2, 3, 6, 4, 8, 5])
    np.testing.assert_array_equal(IDS.theirs[IDS.ours], np.arange(9))
    words = IDS.vocabulary(0, 3, 4, 8)
    assert (words.text_size, words.num_codes, words.size, words.bos, words.eos) == (6, 3, 11, 0, 2)
    assert (words.vision_start, words.vision_end) == ((3,), (5,))
    np.testing.assert_array_equal(IDS.theirs[words.codes_to_tokens(np.arange(3))], IDS.codes)
    assert IDS.theirs[words.eof] == IDS.theirs[words.eov] == 1


@pytest.mark.parametrize("columns", [False, True])
def test_rows_of_a_table_go_and_come_back(columns) -> None:
    table = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    transform = IDS.rows(columns=columns)
    ours = transform.into(table, (4, 11) if columns else (11, 4))
    np.testing.assert_array_equal(ours.T if columns else ours, table[IDS.theirs])
    np.testing.assert_array_equal(transform.back(ours), table)
    assert transform.shape(ours.shape) == (9, 4)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Whose pieces have their ids: codes among them, and one special piece outside the model's own
    vocabulary.
    """
    names = {"<s>": 0, "<end>": 1, "code1": 2, "a": 3, "b": 4, "code0": 5, "ab": 6, "code2": 7}
    tokenizer = Tokenizer(models.BPE(vocab=names, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("<eos>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def test_a_tokenizer_is_renumbered(tokenizer) -> None:
    ours = Tokenizer.from_str(json.dumps(IDS.renumber(json.loads(tokenizer.to_str()))))
    for text in ("ab a b", "b <eos>", ""):
        ids = tokenizer.encode(text).ids
        assert ours.encode(text).ids == IDS.ours[ids].tolist()
        assert ours.decode(IDS.ours[ids].tolist()) == tokenizer.decode(ids)
    assert tokenizer.encode("<eos>").ids == [0, 8] and ours.encode("<eos>").ids == [0, 5]
    assert ours.token_to_id("code0") is None and ours.get_vocab_size() == IDS.text_size


def test_older_post_processors_are_renumbered_too(tokenizer) -> None:
    values = {
        **json.loads(tokenizer.to_str()),
        "post_processor": {"type": "BertProcessing", "sep": ["<eos>", 8], "cls": ["<s>", 0]},
    }
    changed = IDS.renumber(values)
    assert changed["post_processor"] == {"type": "BertProcessing", "sep": ["<eos>", 5], "cls": ["<s>", 0]}
    assert values["post_processor"]["sep"] == ["<eos>", 8]


@pytest.mark.parametrize(
    "change",
    [{"model": {}}, {"model": {"vocab": [["a", 0.5]]}}, {"model": {"vocab": {"a": 99}}}, {"model": None}],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer, change) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json that does not fit a model of 9 ids"):
        IDS.renumber({**json.loads(tokenizer.to_str()), **change})


def test_codes_are_found_by_their_names() -> None:
    pieces = {"x": 4, "code 1": 7, "code 0": 9, "code 10x": 3}
    assert ids_by_code(pieces, r"code (\d+)") == (9, 7)
    assert ids_by_code({"cB": 1, "cA": 2}, "c([AB])", {ord("A"): ord("0"), ord("B"): ord("1")}) == (2, 1)
    assert piece_id(pieces, "y", "x") == 4


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CodeIds(9, (1, 1), 2), "2 codes with 1 ids"),
        (lambda: CodeIds(9, (1, 9), 2), "from 0 to 8"),
        (lambda: CodeIds(9, (1, -1), 2), "from 0 to 8"),
        (lambda: CodeIds(9, (1, 2), 2), "another for the end"),
        (lambda: CodeIds(9, (), 2), "0 codes"),
        (lambda: IDS.vocabulary(0, 9, 1, 1), "0 to 8"),
        (lambda: ids_by_code({"code 0": 1, "code 2": 3}, r"code (\d+)"), "2 pieces for codes, the largest 2"),
        (lambda: ids_by_code({}, r"code (\d+)"), "0 pieces"),
        (lambda: ids_by_code({"code 0": "1"}, r"code (\d+)"), "without an id for code 0"),
        (lambda: piece_id({"x": True}, "x", "y"), "x or y"),
    ],
)
def test_what_is_wrong_is_said(make, says) -> None:
    with pytest.raises(UserError, match=says):
        make()
