"""W&B by a module that stands in for it: what it is sent, and that a run never ends because of it."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ringvision.train.record import Record, read_metrics


class Project:
    """Stands in for the package `wandb`. fails: the call that raises."""

    def __init__(self, fails: str = "", resumed_at: int | None = None) -> None:
        self.fails = fails
        self.resumed_at = resumed_at
        self.began: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.ended: list[int] = []
        self.Settings = SimpleNamespace

    def init(self, **settings: Any) -> "Project":
        self._may_fail("init")
        self.began.append(settings)
        return self

    @property
    def resumed(self) -> bool:
        return self.resumed_at is not None

    @property
    def step(self) -> int:
        return self.resumed_at or 0

    def log(self, values: dict[str, float], step: int) -> None:
        self._may_fail("log")
        self.logged.append((step, values))

    def finish(self, exit_code: int) -> None:
        self._may_fail("finish")
        self.ended.append(exit_code)

    def _may_fail(self, call: str) -> None:
        if call == self.fails:
            raise ConnectionError(f"{call}: nobody\nanswers")


@pytest.fixture
def project(monkeypatch):
    """Puts a project in the package's place."""

    def put(**settings: Any) -> Project:
        made = Project(**settings)
        monkeypatch.setitem(sys.modules, "wandb", made)
        return made

    return put


def test_a_run_is_sent_where_a_project_is_named(project, tmp_path):
    there = project()
    with Record(tmp_path, quiet=True, wandb="videos", config={"name": "mine", "steps": 9}) as record:
        record.write(1, {"loss": 2.0})
        record.write(1, {"eval/all": 0.5})
    (began,) = there.began
    assert (began["project"], began["name"], began["config"]["steps"]) == ("videos", "mine", 9)
    assert began["dir"] == str(tmp_path)
    assert there.logged == [(1, {"loss": 2.0}), (1, {"eval/all": 0.5})]
    assert there.ended == [0]


def test_a_run_that_is_resumed_is_the_same_run_there(project, tmp_path):
    first = project()
    with Record(tmp_path, quiet=True, wandb="videos") as record:
        record.write(5, {"loss": 2.0})
    second = project(resumed_at=6)
    with pytest.raises(KeyError), Record(tmp_path, step=3, quiet=True, wandb="videos") as record:
        for step in (4, 5, 6, 7):
            record.write(step, {"loss": 1.0})
        record.rolled_back(5)
        for step in (6, 7, 8):
            record.write(step, {"loss": 0.5})
        raise KeyError
    assert second.began[0]["id"] == first.began[0]["id"]
    assert second.began[0]["resume"] == "allow"
    assert [step for step, _ in second.logged] == [6, 7, 7, 8]
    assert second.ended == [1]
    third = project()
    with Record(tmp_path, quiet=True, wandb="videos"):
        pass
    assert third.began[0]["id"] != first.began[0]["id"], "it starts afresh"


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_run_goes_on_without_it(fails, project, tmp_path, capsys):
    there = project(fails=fails)
    with Record(tmp_path, wandb="videos") as record:
        for step in (1, 2, 3):
            record.write(step, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 3
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("step")]
    assert said == [
        f"W&B does not work and is left out from here on (ConnectionError: {fails}: nobody answers)"
    ]
    assert (there.logged == []) == (fails != "finish")


def test_a_run_goes_on_where_it_is_not_installed(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with Record(tmp_path, wandb="videos") as record:
        record.write(1, {"loss": 1.0})
    assert capsys.readouterr().err.startswith(
        "wandb is not installed, so nothing is sent to W&B: pip install"
    )


def test_it_is_not_even_imported_where_no_project_is_named(project, tmp_path):
    there = project()
    with Record(tmp_path, quiet=True) as record:
        record.write(1, {"loss": 1.0})
    assert there.began == []
    assert not (tmp_path / "wandb.json").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"id": 7}', '{"id": "../../x"}'])
def test_an_identity_that_is_damaged_is_made_anew(text, project, tmp_path, capsys):
    there = project()
    (tmp_path / "wandb.json").write_text(text)
    with Record(tmp_path, step=3, wandb="videos") as record:
        record.write(4, {"loss": 1.0})
    assert there.began[0]["id"] == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert len(there.began[0]["id"]) == 16
    assert "W&B" not in capsys.readouterr().err
