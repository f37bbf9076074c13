"""A tokenizer.json gives the ids that the package `tokenizers` gives, comes back whole, and makes special
tokens of no user's text.
"""

import json
from pathlib import Path
from typing import Any

import foreign_sentencepiece
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringvision.data.text.folder import load_text_tokenizer, save_text_tokenizer
from ringvision.data.text.isolation.client import IsolatedTokenizer
from ringvision.data.text.isolation.hugging_face import HuggingFaceTokenizer
from ringvision.data.text.sentencepiece_tokenizer import TextTokenizer, train_text_tokenizer
from ringvision.errors import UserError
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SENTENCES = [
    "What colour is the circle? It is red.",
    "a deep  blue\tsea of 1234 words",
    "naïve café, 日本語 and 🙂",
] * 20
SPECIALS = ["<|start|>", "<|end|>", "<s>"]


def byte_level(**settings: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def pieces_with_spaces() -> Tokenizer:
    """The sentencepiece kind, as Llama 2 is converted."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ["▁", "a", "b", "c", "▁a", "ab", "▁ab", "abc"]:
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b"), ("ab", "c")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(
        models.Unigram(
            [("<unk>", 0.0), ("</s>", -1.0), ("▁", -2.0), *((letter, -3.0) for letter in "abc</s>▁"[:3])], 0
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path, **config: Any) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        byte_level(),
        tmp_path_factory.mktemp("bytes"),
        bos_token="<|start|>",
        eos_token={"content": "<|end|>"},
    )


@pytest.fixture(scope="module")
def text(folder: Path) -> TextTokenizer:
    return load_text_tokenizer(folder)


awkward = st.text(
    alphabet=st.one_of(
        st.sampled_from(" \n\t<|>end1é🙂\u2581\ufdd0"), st.characters(exclude_categories=["Cs"])
    )
)
texts = st.lists(st.one_of(awkward, st.sampled_from([*SPECIALS, "<tool>", "<|", "|>", "<"])), max_size=6).map(
    "".join
)


@settings(max_examples=100, deadline=None)
@given(written=texts)
def test_any_text_comes_back_without_a_special_token(text: TextTokenizer, written: str) -> None:
    tokens = text.encode(written)
    assert text.decode(tokens) == written
    assert not set(tokens) & set(text.specials.values())
    stream = text.stream()
    assert "".join([*map(stream.push, tokens), stream.finish()]) == written


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(texts, min_size=1, max_size=3), glue=st.sampled_from(["<{}>", "<|e{}d|>", "{}"]))
def test_what_a_user_writes_stays_text_inside_a_template(
    text: TextTokenizer, parts: list[str], glue: str
) -> None:
    """Ids of special tokens are those that the template itself wrote, in whatever company a user's words
    stand.
    """
    guard = text.guard(parts)
    rendered = "<|start|>" + "<|end|>".join(glue.replace("{}", text.protect(part, guard)) for part in parts)
    tokens = text.encode_marked(rendered, guard)
    found = [token for token in tokens if token in set(text.specials.values())]
    assert found == [text.bos] + [text.eos] * (len(parts) - 1)
    assert text.decode(tokens) == "".join(glue.replace("{}", part) for part in parts)


def test_ids_are_those_of_the_package(text: TextTokenizer, folder: Path) -> None:
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for sentence in SENTENCES[:3]:
        assert text.encode(sentence) == reference.encode(sentence, add_special_tokens=False).ids
        marked = f"<|start|>{sentence}<|end|>\n<tool>{sentence}"
        assert text.encode_marked(marked) == reference.encode(marked, add_special_tokens=False).ids
    assert (text.size, text.bos, text.eos) == (reference.get_vocab_size(), 0, 1)


def test_a_character_is_never_cut(text: TextTokenizer) -> None:
    stream = text.stream()
    pieces = [stream.push(token) for token in text.encode("é🙂日")]
    assert "\ufffd" not in "".join(pieces)
    assert text.decode(text.encode("🙂")[:-1]).count("\ufffd") >= 1


@pytest.mark.parametrize("make", [pieces_with_spaces, metaspace])
def test_a_space_before_the_text_is_taken_away_again(make: Any, tmp_path: Path) -> None:
    tokenizer = make()
    text = HuggingFaceTokenizer(write(tokenizer, tmp_path, eos_token="</s>"))
    for written in ("abc", " abc", "ab  c"):
        tokens = text.encode(written)
        assert tokens == tokenizer.encode(written, add_special_tokens=False).ids
        if make is pieces_with_spaces:
            assert text.decode(tokens) == tokenizer.decode(tokens) == written
    marked = "abc</s>abc ab"
    assert text.encode_marked(marked) == tokenizer.encode(marked, add_special_tokens=False).ids


def test_a_special_token_that_is_a_word_of_the_vocabulary_is_not_made(tmp_path: Path) -> None:
    text = HuggingFaceTokenizer(write(metaspace(), tmp_path, eos_token="</s>"))
    assert text.eos in text.encode_marked("a</s>b")
    assert text.eos not in text.encode("a</s>b")


def test_special_tokens_may_swallow_white_space(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<|turn|>", lstrip=True, rstrip=True, normalized=False)])
    text = HuggingFaceTokenizer(write(tokenizer, tmp_path))
    marked = "a  <|turn|>\n b"
    assert text.encode_marked(marked) == tokenizer.encode(marked, add_special_tokens=False).ids
    protected = text.protect(marked, "\ufdd0")
    assert text.decode(text.encode_marked(protected, "\ufdd0")) == marked


def test_sentencepiece_of_other_people(tmp_path: Path) -> None:
    """Without `<vision>` or a promise to lose nothing; the leading space is the model's own."""
    import sentencepiece

    foreign_sentencepiece.train(tmp_path, SENTENCES, vocab_size=330)
    text = load_text_tokenizer(tmp_path)
    assert isinstance(text, IsolatedTokenizer)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert (text.bos, text.eos) == (1, 2)
    for written in ("a deep blue sea", "<vision>", "é🙂", "a</s>"):
        assert text.encode(written) == reference.encode(written)
        assert text.decode(text.encode(written)) == written
        stream = text.stream()
        assert "".join([*map(stream.push, text.encode(written)), stream.finish()]) == written
    assert text.encode_marked("<s>a</s>") == [1, *text.encode("a"), 2]
    assert len(text.encode("<vision>")) > 1


def test_a_folder_tells_which_tokenizer_it_holds(folder: Path, tmp_path: Path) -> None:
    assert save_text_tokenizer(folder, tmp_path / "copy") == ["tokenizer.json", "tokenizer_config.json"]
    assert load_text_tokenizer(tmp_path / "copy").encode("red") == load_text_tokenizer(folder).encode("red")
    own = train_text_tokenizer(SENTENCES, tmp_path / "own" / "text.model", 520)
    assert load_text_tokenizer(tmp_path / "own").encode("red 12") == own.encode("red 12")
    with pytest.raises(UserError, match="holds no text tokenizer"):
        load_text_tokenizer(tmp_path)


def test_what_is_damaged_or_unknown_is_said(tmp_path: Path) -> None:
    def refused(content: str, match: str) -> None:
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=match):
            HuggingFaceTokenizer(tmp_path)

    refused("[", "cannot be read as JSON")
    refused("[" * 100_000, "cannot be read as JSON")
    refused("[1]", "holds a list")
    refused("{}", "no tokenizer that the package")
    one = Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).to_str()
    refused(one.replace('"a":0', '"a":4294967295'), "ids up to 4294967295")
    refused(Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str(), "not supported")
    with pytest.raises(UserError, match="cannot be read"):
        HuggingFaceTokenizer(tmp_path / "nowhere")


def test_half_a_surrogate_pair_is_refused(text: TextTokenizer) -> None:
    for encode in (text.encode, text.encode_marked):
        with pytest.raises(UserError, match="not valid Unicode"):
            encode("half \ud800")
