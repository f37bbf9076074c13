"""A run of two processes is that of one; they stop together, fail together, and agree before they begin."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from process_pair import run_both
from tiny_run import MODEL, config

from ringvision.checkpoint.manifest import read_manifest
from ringvision.config import TrainConfig
from ringvision.mesh import make_mesh
from ringvision.train.loop import train
from ringvision.train.record import read_metrics

HERE = Path(__file__).parent
AXES = {"data": 2, "fsdp": 2, "context": 2}


@pytest.fixture
def setup(data: Path, tmp_path: Path) -> TrainConfig:
    """Its run.json lies in tmp_path."""
    model = dataclasses.replace(MODEL, num_kv_heads=2)
    found = config(data, tmp_path / "run", model=model, mesh=AXES, checkpoints={"every": 2, "export": False})
    (tmp_path / "run.json").write_text(json.dumps(found.to_dict()))
    return found


def test_two_processes_are_one_run(setup: TrainConfig, tmp_path: Path) -> None:
    outcomes = run_both(HERE / "two_runs.py", "whole", tmp_path, seconds=400)
    failing = outcomes[1]
    assert [status for status, _ in outcomes] == [2, 2], outcomes
    assert "ringvision: its videos are gone" in failing[1]
    assert "ringvision: process 1 ended: its videos are gone" in outcomes[0][1]
    told = [json.loads((tmp_path / f"found-{process}.json").read_text()) for process in range(2)]
    assert told[0] == told[1]
    assert "stopped after step" in told[0], "one was asked, both stopped"
    alone = dataclasses.replace(setup, out=str(tmp_path / "alone"))
    train(alone, quiet=True, mesh=make_mesh(**AXES))
    losses = {
        name: [line["loss"] for line in read_metrics(tmp_path / name)]
        for name in ("run", "run-stopped", "alone")
    }
    assert losses["run"] == losses["run-stopped"]
    np.testing.assert_allclose(losses["run"], losses["alone"], rtol=2e-6)
    whole, stopped = (
        {
            name: file
            for name, file in read_manifest(tmp_path / out / "checkpoints/step-00000004", 4).files.items()
            if name.startswith("arrays")
        }
        for out in ("run", "run-stopped")
    )
    assert whole == stopped, "bit for bit"
    assert (tmp_path / "run-stopped/model/model.safetensors").read_bytes() == (
        tmp_path / "run/model/model.safetensors"
    ).read_bytes()


def test_processes_with_different_configs_do_not_begin(setup: TrainConfig, tmp_path: Path) -> None:
    for status, said in run_both(HERE / "two_runs.py", "other", tmp_path, seconds=400):
        assert status == 2
        assert "the processes disagree about the config" in said
    assert not Path(setup.out).exists()
