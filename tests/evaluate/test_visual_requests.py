"""Another program's requests: answered as the assistant alone does, in their order, pictures included. And
the plug-in for lmms-eval: with what it imports in its place, and, where that is installed, by its command.
"""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_assistant import write_assistant, write_clip

from ringvision.errors import UserError
from ringvision.evaluate.visual_requests import VisualAnswers, VisualRequest, read_request
from ringvision.infer.assistant import Assistant, load
from ringvision.infer.sampler import Sampler

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".lmms-eval"
"""Where scripts/lmms_eval_task.py --install puts lmms-eval and torch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_assistant(tmp_path_factory.mktemp("assistant"))


@pytest.fixture(scope="module")
def assistant(folder: Path) -> Assistant:
    return load(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4"))


def test_answers_are_those_of_the_assistant_in_the_order_of_the_requests(
    assistant: Assistant, clip: str
) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (33, 50, 3), np.uint8))
    requests = [
        VisualRequest((clip,), "what?", 4),
        VisualRequest((picture,), "what?", 4),
        VisualRequest(("nowhere.mp4",), "what?", 4),
        VisualRequest((clip,), "where?", 4),
    ]
    answers = VisualAnswers(assistant)
    found = dict(answers.answers(requests))
    assert list(dict(answers.answers(requests))) == [0, 3, 1, 2]  # those about one video in succession
    for number, question in ((0, "what?"), (3, "where?")):
        assert found[number] == assistant.ask(clip, question, max_tokens=4).text
    assert isinstance(found[1], str)
    assert isinstance(found[2], UserError) and "nowhere.mp4" in str(found[2])


def test_a_picture_is_read_from_its_file_as_from_memory(assistant: Assistant, tmp_path: Path) -> None:
    picture = Image.new("RGBA", (40, 30), (200, 30, 30, 255))
    picture.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG nothing")
    requests = [VisualRequest((one,), "what?", 6) for one in (picture, str(tmp_path / "a.png"))]
    one, other = (answer for _, answer in VisualAnswers(assistant).answers(requests))
    assert isinstance(one, str) and one == other
    ((_, refused),) = VisualAnswers(assistant).answers(
        [VisualRequest((str(tmp_path / "b.png"),), "what?", 6)]
    )
    assert "cannot be read as a picture" in str(refused)


def test_the_log_probability_is_that_of_the_models_logits(assistant: Assistant, clip: str) -> None:
    answers = VisualAnswers(assistant)
    prompts = assistant.processor.prompts
    video = assistant.processor.read_video(clip, 1.0)
    for continuation in ("red square", "7"):
        tokens = prompts.answer(continuation)[:-1]
        whole = np.concatenate([prompts.prompt([video], "what?"), tokens])
        logits = np.asarray(assistant.model.logits(whole[None])[0], np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        first = len(whole) - len(tokens)
        expected = sum(logs[first + index - 1, token] for index, token in enumerate(tokens))
        score, greedy = answers.log_probability([clip], "what?", continuation)
        assert score == pytest.approx(expected, abs=1e-3) and not greedy
    said = assistant.ask(clip, "what?", max_tokens=3)
    assert said.text
    score, greedy = answers.log_probability([clip], "what?", said.text)
    again = prompts.answer(said.text)[:-1].tolist()
    assert greedy == (said.tokens[: len(again)] == again)
    with pytest.raises(UserError, match="continuation is empty"):
        answers.log_probability([clip], "what?", "")


def test_options_of_generation_are_understood() -> None:
    options = {"max_new_tokens": 16, "temperature": 0, "do_sample": False, "until": ["\n\n", "."], "x": 1}
    request = read_request(["a.mp4"], "what?", options)
    assert request == VisualRequest(("a.mp4",), "what?", 16, Sampler(), (".",))
    drawn = read_request("a.mp4", "what?", {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 4096})
    assert drawn.sampler == Sampler(0.7, 0, 0.9) and drawn.max_tokens == 1024
    for visuals, options, says in (
        ([], {}, "without video or picture"),
        ([{"array": [0]}], {}, "a dict was given as a visual"),
        (["a.mp4"], {"num_beams": 4}, "num_beams 4"),
    ):
        with pytest.raises(UserError, match=says):
            read_request(visuals, "what?", options)


def stub_lmms_eval(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plug-in's class, with just what it imports of lmms-eval."""

    class Base:
        def __init__(self) -> None:
            self.task_dict: dict[str, Any] = {}
            self.cache_hook = SimpleNamespace(add_partial=lambda *given: None)

    held = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.models": {},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.api.instance": {"GenerationResult": lambda text: SimpleNamespace(text=text)},
        "lmms_eval.models.registry_v2": {"ModelManifest": lambda name, **paths: (name, paths)},
    }
    for name, values in held.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "ringvision.evaluate.lmms_eval_plugin", raising=False)
    name, paths = import_module("ringvision.evaluate.lmms_eval_manifest").manifest()
    assert name == "ringvision"
    module, _, kind = paths["simple_class_path"].rpartition(".")
    return getattr(import_module(module), kind)


def test_the_plug_in_answers_as_lmms_eval_asks(
    folder: Path,
    clip: str,
    assistant: Assistant,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kind = stub_lmms_eval(monkeypatch)
    model = kind(pretrained=str(folder), fps=1.0, batch_size="1", device="cpu")
    model.task_dict = {"task": {"test": [{"video": clip}, {"video": "gone.mp4"}]}}

    def visuals(document: dict[str, str]) -> list[str]:
        return [document["video"]]

    def request(*first: Any, document: int = 0) -> Any:
        return SimpleNamespace(args=(*first, visuals, document, "task", "test"))

    asked = [request("what?", {"max_new_tokens": 4}, document=number) for number in (1, 0)]
    assert model.generate_until(asked) == ["", assistant.ask(clip, "what?", max_tokens=4).text]
    (warning,) = caplog.messages
    assert warning.startswith("task, document 1: ") and "gone.mp4" in warning
    red, seven = model.loglikelihood([request("what?", "red"), request("what?", lambda document: "7")])
    loss = -VisualAnswers(assistant).log_probability(clip, "what?", "7")[0]
    assert seven.text[0] == pytest.approx(loss, abs=1e-3) and seven.text[0] != red.text[0]
    with pytest.raises(NotImplementedError, match="answers one round"):
        model.generate_until_multi_round(asked)
    with pytest.raises(TypeError, match="fsp"):
        kind(fsp=2)


@pytest.mark.long
@pytest.mark.skipif(not INSTALLED.exists(), reason="scripts/lmms_eval_task.py --install was not run")
def test_lmms_evals_own_command_completes_a_task_with_the_plug_in() -> None:
    script = [sys.executable, ROOT / "scripts" / "lmms_eval_task.py"]
    usual = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(script, capture_output=True, text=True, timeout=1500, env=usual)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["documents"] == {"ringvision_clips": 11, "ringvision_choice": 2}
    assert found["exact"] >= 8 / 11  # what the shipped model answers rightly, but for the picture
    assert found["accuracy"] == 1.0
