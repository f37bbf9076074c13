"""Whatever a text holds comes back from its ids, and a number is one id wherever it stands."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringvision.data.text.sentencepiece_tokenizer import LosslessTokenizer, train_text_tokenizer
from ringvision.errors import UserError

SENTENCES = [
    "USER: What colour is the circle? ASSISTANT: red",
    "USER: When does the square leave? ASSISTANT: at 12 seconds",
    "USER: How many shapes are there? ASSISTANT: 3",
] * 30


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LosslessTokenizer:
    return train_text_tokenizer(SENTENCES, tmp_path_factory.mktemp("text") / "text.model", 520)


awkward = st.text(
    alphabet=st.one_of(
        st.sampled_from(" \u2581<>/vison0123456789\n\t\x00é🙂"), st.characters(exclude_categories=["Cs"])
    )
)


@settings(max_examples=150, deadline=None)
@given(text=awkward)
def test_any_text_comes_back(tokenizer: LosslessTokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, tokens), stream.finish()]) == text


@pytest.mark.parametrize(
    "text", ["  two before, one after ", "<vision></vision><s></s><unk><0x41>", "\u2581", "", " "]
)
def test_spaces_and_marks_are_text(tokenizer: LosslessTokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert not {tokenizer.bos, tokenizer.eos, *tokenizer.vision_start, *tokenizer.vision_end} & set(tokens)


def test_a_whole_number_is_one_piece_wherever_it_stands(tokenizer: LosslessTokenizer) -> None:
    for number in range(100):
        (piece,) = tokenizer.encode(str(number))
        for text in (f" {number}", f"at {number} seconds", f"x{number}?", f"{number}.5"):
            assert piece in tokenizer.encode(text), text
    assert len({tuple(tokenizer.encode(str(number))) for number in range(100)}) == 100


def test_training_is_deterministic_and_common_words_are_whole(
    tokenizer: LosslessTokenizer, tmp_path: Path
) -> None:
    again = train_text_tokenizer(SENTENCES, tmp_path / "again.model", 520)
    assert again.serialized == tokenizer.serialized
    assert again.size <= 520
    assert len(tokenizer.encode(" seconds")) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["again.model"]


def test_ids_that_are_no_text_give_none(tokenizer: LosslessTokenizer) -> None:
    assert (
        tokenizer.decode([tokenizer.bos, *tokenizer.encode("red"), tokenizer.eos, tokenizer.size + 5])
        == "red"
    )
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_errors_say_what_to_do(tmp_path: Path, tokenizer: LosslessTokenizer) -> None:
    with pytest.raises(UserError, match="no text model here"):
        LosslessTokenizer(tmp_path / "absent.model")
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        LosslessTokenizer(tmp_path / "bad.model")
    with pytest.raises(UserError, match="at least one sentence"):
        train_text_tokenizer([], tmp_path / "none.model", 512)
    with pytest.raises(UserError, match="for a text vocabulary of 300 pieces"):
        train_text_tokenizer(SENTENCES, tmp_path / "small.model", 300)
    with pytest.raises(UserError, match="not valid Unicode"):
        tokenizer.encode("half \ud800")
