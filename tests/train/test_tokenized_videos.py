"""From somebody's videos to answers, in small: clips with questions in a manifest, tokenize, train, ask."""

import json
from pathlib import Path

import pytest
from tiny_run import one_device

import ringvision as rv
from ringvision import shipped
from ringvision.cli import main
from ringvision.data.world import make_scene, write_video
from ringvision.model_folder import read_config
from ringvision.train.record import read_metrics

CONFIG = """
from ringvision.config import CheckpointConfig, EvaluationConfig, OptimizerConfig, TrainConfig
from ringvision.data.sources import DataConfig, TokenizedData
from ringvision.models.presets import TransformerConfig

config = TrainConfig(
    name="clips",
    out="runs/clips",
    model=TransformerConfig(640 + 1026, 32, 2, 2, 1, 16, 48, max_length=512),
    data=DataConfig(
        sources=(TokenizedData(folder="tokens", vision_weight=0.1),),
        text_model={text_model!r}, tokenizer="world-16", length=256, rows=4,
    ),
    steps=100,
    optimizer=OptimizerConfig(warmup_steps=2),
    checkpoints=CheckpointConfig(every=2),
    evaluation=EvaluationConfig(every=0),
    log_every=1,
)
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four clips, named in a JSONL: three with a question and a caption each, one with nothing."""
    rows = []
    for seed in range(4):
        write_video(make_scene(seed), tmp_path / f"clip-{seed}.mp4", fps=4, size=64)
        said = {
            "question": f"Which clip is number {seed}?",
            "answer": f"clip {seed}",
            "caption": "things move",
        }
        rows.append({"path": f"clip-{seed}.mp4", **(said if seed < 3 else {})})
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_clips_with_questions_become_a_model_that_is_asked(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tokens = tmp_path / "tokens"
    run = tmp_path / "run"
    assert main(["tokenize", str(manifest), "--out", str(tokens), "--workers", "1", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["done"] == 4
    config = tmp_path / "clips.py"
    config.write_text(CONFIG.format(text_model=str(shipped.model() / "text.model")))
    request = ["train", str(config), "--data", str(tokens), "--out", str(run), "--steps", "4"]
    assert main([*request, "--mesh", "data=2"]) == 0
    losses = [record["loss"] for record in read_metrics(run)]
    assert len(losses) == 4 and losses[-1] < losses[0]
    settings = read_config(run / "model", "assistant")
    assert (settings["fps"], settings["video_tokenizer"]) == (1.0, "world-16")
    assert "generation" not in settings  # no question about single frames is known for these videos
    model = rv.load(run / "model", mesh=one_device())
    reply = model.ask([tmp_path / "clip-0.mp4"], "Which clip is number 0?", max_tokens=3)
    assert "".join(reply) == reply.text and reply.frames == int(make_scene(0).duration)
    assert main(["train", str(config), "--data", str(tmp_path), "--out", str(run) + "-2"]) == 2
    assert "no shard of codes" in capfd.readouterr().err
