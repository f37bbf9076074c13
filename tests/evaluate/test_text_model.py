"""A text model continues what it is given, from the words that open its answer, as greedy decoding does."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from greedy import greedy
from tiny_text_model import write_chat_model

from ringvision.evaluate.text_model import load_text_model
from ringvision.infer.engine import Engine
from ringvision.mesh import make_mesh


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("chat"), max_length=512)


def test_the_template_stands_around_the_prompt_and_before_the_opening(place: Path) -> None:
    model = load_text_model(place, make_mesh(context=2, devices=jax.devices()[:2]))
    assert model.max_length == 512 and model.hash == model.model.hash
    tokens = model.tokens("Where? <|end|>", "It is")
    assert [int(token) for token in tokens if token < 2] == [0, 1, 0]  # what the prompt spells is no special
    assert model.text.decode(tokens) == "user\nWhere? <|end|>assistant\nIt is"
    answer = model.complete(tokens, 12)
    expected = greedy(Engine(model.model), tokens, 12, ids=(0, model.text.size))
    ends = [index for index, token in enumerate(expected) if token in model.stops]
    assert answer == model.text.decode(expected[: ends[0] if ends else 12])


def test_without_a_template_the_text_is_continued_as_it_is(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for path in place.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_text_model(folder, make_mesh(devices=jax.devices()[:1]))
    tokens = model.tokens("Where?", "It is")
    assert model.template is None and tokens[0] == model.text.bos
    assert model.text.decode(tokens) == "Where?\nIt is"
    assert np.array_equal(model.tokens("Where?"), tokens[: len("Where?") + 1])
