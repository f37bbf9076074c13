"""A run as a whole, on one device: it is stopped, killed, damaged and fed bad batches, and goes on."""

import dataclasses
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import config, one_device, same

from ringvision.checkpoint import Checkpoints
from ringvision.cli import main
from ringvision.config import StageConfig, TrainConfig
from ringvision.data.loader import Loaded, Loader
from ringvision.data.mixture import Mixture
from ringvision.data.sources import BadRecord
from ringvision.errors import Interrupted, UserError
from ringvision.model_folder import load_model, read_config
from ringvision.train import loop
from ringvision.train.export_run import export_run
from ringvision.train.record import read_metrics
from ringvision.train.run_status import read_ledger, read_status
from ringvision.train.state import TrainState


def small(data: Path, out: Path, **changes: Any) -> TrainConfig:
    """A run of six steps that is saved after every second, without a model folder but the last."""
    return config(data, out, **{"steps": 6, "checkpoints": {"every": 2, "export": False}, **changes})


def train(setup: TrainConfig, **options: Any) -> TrainState:
    return loop.train(setup, quiet=True, mesh=one_device(), **options)


def losses(folder: str | Path) -> list[tuple[float, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(folder)]


def at_batch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Loaded], Loaded | None]) -> None:
    """From now on the batch of this number is what `act` makes of it."""
    batches = Loader.batches

    def acting(loader: Loader, state: Any = None) -> Generator[Loaded, None, None]:
        for loaded in batches(loader, state):
            yield (act(loaded) or loaded) if loaded.state["step"] == number else loaded

    monkeypatch.setattr(Loader, "batches", acting)


def ask_to_stop(number: int) -> Callable[[Loaded], None]:
    return lambda _: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainState]:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, train(small(data, folder))


def test_a_run_in_stages_is_one_run(data: Path, tmp_path: Path) -> None:
    stages = (StageConfig(steps=3), StageConfig(steps=3, length=320, rows=2, rope_theta=5e4))
    setup = small(data, tmp_path / "straight", steps=0, stages=stages)
    state = train(setup)
    assert [step for step, _ in losses(setup.out)] == [1, 2, 3, 4, 5, 6]
    with Checkpoints(Path(setup.out) / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [4, 6]
    told = read_config(Path(setup.out) / "model")
    assert (told["transformer"]["rope_theta"], told["transformer"]["max_length"]) == (5e4, 320)
    assert told["trained"]["steps"] == 6
    parted = dataclasses.replace(setup, out=str(tmp_path / "parted"))
    for step in (2, 3, 4):
        assert int(train(parted, stop_at=step).step) == step
    assert export_run(Path(parted.out), tmp_path / "exported")["step"] == 4
    assert read_config(tmp_path / "exported")["transformer"] == told["transformer"]
    assert same(train(parted), state)
    assert losses(parted.out) == losses(setup.out)


def test_what_is_damaged_is_passed_over_into_the_stage_before(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(small(data, tmp_path).optimizer, kind="muon")
    stages = (StageConfig(steps=2), StageConfig(steps=2, optimizer=other))
    setup = small(data, tmp_path / "run", steps=0, stages=stages)
    state = train(setup)
    damaged = next((tmp_path / "run/checkpoints/step-00000004").glob("arrays-*.bin"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert export_run(tmp_path / "run", tmp_path / "exported")["step"] == 2
    assert same(loop.train(setup, mesh=one_device()), state)
    assert "the checkpoint of step 4 is damaged and was passed over" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_goes_on_as_if_it_had_not(
    data: Path, tmp_path: Path, straight: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    setup = small(data, tmp_path)
    with monkeypatch.context() as patch:
        at_batch(patch, 3, ask_to_stop(number))
        with pytest.raises(Interrupted, match=r"stopped after step \d, which is saved; the same command"):
            train(setup)
    found = read_status(tmp_path)
    assert found is not None
    assert (found.state, 3 <= found.step <= 4) == ("stopped", True)
    assert same(train(setup), straight[1])
    assert losses(tmp_path) == losses(straight[0])
    with monkeypatch.context() as patch:
        at_batch(patch, 6, ask_to_stop(number))
        setup = dataclasses.replace(setup, out=str(tmp_path / "last"))
        assert same(train(setup), straight[1]), "the last step is the end anyway"
    assert (tmp_path / "last/model").is_dir()


def test_the_command_line(
    data: Path,
    tmp_path: Path,
    straight: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    (tmp_path / "run.json").write_text(json.dumps(small(data, out).to_dict()))
    file = tmp_path / "tiny.py"
    file.write_text(
        "import json\nfrom pathlib import Path\nfrom ringvision.config import TrainConfig\n"
        "config = TrainConfig.from_dict(json.loads(Path(__file__).with_name('run.json').read_text()))\n"
    )
    trained = loop.train
    monkeypatch.setattr(loop, "train", lambda *args, **rest: trained(*args, **rest, mesh=one_device()))

    def run(*words: str) -> tuple[int, str]:
        status = main(["train", str(file), *words])
        return status, capsys.readouterr().err

    with monkeypatch.context() as patch:
        at_batch(patch, 4, ask_to_stop(signal.SIGTERM))
        status, said = run()
    assert status == 130
    assert said.splitlines()[-1].startswith("ringvision: stopped after step ")
    assert "the same command goes on from there" in said
    status, said = run("--optimizer.lr", "0.5")
    assert status == 2
    assert "optimizer.lr: 0.01 -> 0.5" in said
    status, said = run("--log-every", "2")
    assert status == 0
    assert "changed since the run began: log_every: 1 -> 2" in said
    assert same(load_model(out / "model"), load_model(straight[0] / "model"))
    status, said = run("--seed", "3", "--allow-changes")
    assert (status, "changed since the run began: seed: 0 -> 3" in said) == (0, True)
    assert main(["watch", str(out)]) == 0
    assert "loss" in capsys.readouterr().out
    assert main(["export", str(out), str(tmp_path / "exported")]) == 0
    for name in ("model.safetensors", "config.json", "text.model"):
        assert (tmp_path / "exported" / name).read_bytes() == (out / "model" / name).read_bytes(), name


def test_a_run_that_has_saved_nothing_promises_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Loaded) -> None:
        raise UserError("its videos are gone")

    with monkeypatch.context() as patch:
        at_batch(patch, 1, fail)
        with pytest.raises(UserError, match="videos are gone"):
            train(small(data, tmp_path))
    assert int(train(small(data, tmp_path, seed=1), stop_at=1).step) == 1
    with pytest.raises(UserError, match="seed: 1 -> 2"):
        train(small(data, tmp_path, seed=2))


def test_a_run_that_was_killed_at_its_end_still_leaves_a_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = small(data, tmp_path, steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_export", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(setup)
    assert not (tmp_path / "model").exists()
    train(setup)
    assert read_config(tmp_path / "model")["trained"]["steps"] == 2


def test_lines_may_be_rarer_than_checkpoints(data: Path, tmp_path: Path) -> None:
    train(small(data, tmp_path, steps=4, log_every=3, checkpoints={"every": 1, "export": True}))
    assert [step for step, _ in losses(tmp_path)] == [3, 4]


def test_a_full_disk_is_one_line_and_the_run_goes_on_from_before(
    data: Path, tmp_path: Path, straight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = small(data, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_: Loaded) -> None:
        while not (tmp_path / "checkpoints/step-00000002").is_dir():  # it is written in the background
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))

    with monkeypatch.context() as patch:
        at_batch(patch, 3, fill)
        try:
            with pytest.raises(UserError, match="no checkpoint could be written .*: File too large") as said:
                train(setup)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "the run goes on from the checkpoint before" in str(said.value)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [2]
    assert same(train(setup), straight[1])
    assert losses(tmp_path) == losses(straight[0])


def test_bad_records_over_the_limit_stop_a_run_that_can_go_on(
    data: Path, tmp_path: Path, straight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Mixture.example

    def unreadable(mixture: Mixture, source: int, position: int, step: int) -> Any:
        if step >= 2 and position % 3 == 0:
            raise BadRecord(f"record at {position} is torn")
        return example(mixture, source, position, step)

    setup = small(data, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "example", unreadable)
        with pytest.raises(UserError, match=r"records cannot be read, more than data.bad_records .* is torn"):
            train(setup)
    assert same(train(setup), straight[1])


def test_settings_that_cannot_be_written_are_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run.partial").mkdir()
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        train(small(data, tmp_path))


def test_where_the_time_went(data: Path, tmp_path: Path) -> None:
    train(small(data, tmp_path, steps=2))
    books = read_ledger(tmp_path)
    assert {"stepping", "starting", "saving", "waiting for data"} <= set(books)
    assert books["starting"] > 0
    assert all(np.isfinite(seconds) and seconds >= 0 for seconds in books.values())
