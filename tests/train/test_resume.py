"""A run that goes on with another config: changes are said, and refused where they change what is learned."""

import dataclasses
import json
from pathlib import Path

import pytest
from tiny_run import config

from ringvision.config import TrainConfig
from ringvision.errors import UserError
from ringvision.train.resume import RUN_FILE, check_resume, differences


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, TrainConfig]:
    setup = config(tmp_path / "data", tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RUN_FILE).write_text(json.dumps(setup.to_dict()))
    return tmp_path / "run", setup


def test_the_same_config_has_no_differences(run):
    folder, setup = run
    assert check_resume(folder, setup) == []
    assert check_resume(folder / "no such run", setup) == []


def test_what_is_only_watched_or_computed_otherwise_may_change(run):
    folder, setup = run
    other = dataclasses.replace(
        setup,
        log_every=7,
        mesh=dataclasses.replace(setup.mesh, data=2),
        checkpoints=dataclasses.replace(setup.checkpoints, keep=5),
    )
    assert check_resume(folder, other) == [
        "mesh.data: 1 -> 2",
        "checkpoints.keep: 2 -> 5",
        "log_every: 1 -> 7",
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer": {"lr": 0.5}}, "optimizer.lr: 0.01 -> 0.5"),
        ({"seed": 3}, "seed: 0 -> 3"),
        ({"data": {"rows": 2}}, "data.rows: 4 -> 2"),
        ({"steps": 9}, "steps: 4 -> 9"),
        ({"compute_dtype": "bfloat16"}, "compute_dtype: float32 -> bfloat16"),
    ],
)
def test_what_changes_the_weights_is_refused_unless_asked_for(run, changes, says):
    folder, setup = run
    whole = {
        name: dataclasses.replace(getattr(setup, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    other = dataclasses.replace(setup, **whole)
    with pytest.raises(UserError, match="--allow-changes") as caught:
        check_resume(folder, other)
    assert says in str(caught.value)
    assert check_resume(folder, other, allow_changes=True) == [says]


def test_a_setting_that_the_run_did_not_know_yet_was_at_its_default(run):
    folder, setup = run
    settings = setup.to_dict()
    del settings["model"]["window"], settings["health"]["window"]
    (folder / RUN_FILE).write_text(json.dumps(settings))
    assert check_resume(folder, setup) == []
    other = dataclasses.replace(setup, model=dataclasses.replace(setup.model, window=5))
    assert check_resume(folder, other, allow_changes=True) == ["model.window: None -> 5"]


def test_settings_that_one_of_them_lacks_are_differences_too():
    assert differences({"a": {"b": 1}, "c": [1, 2]}, {"a": {}, "c": [1], "d": None}) == {
        "a.b": "1 -> nothing",
        "c.1": "2 -> nothing",
        "a": "nothing -> {}",
        "d": "nothing -> None",
    }


def test_a_damaged_record_of_the_config_is_said(run):
    folder, setup = run
    (folder / RUN_FILE).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        check_resume(folder, setup)
