"""Several processes find each other, agree, stop at one step, and save and restore together."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from process_pair import free_port, run_both
from two_processes import VALUES

from ringvision import distributed
from ringvision.checkpoint import Checkpoints
from ringvision.cli import main, read
from ringvision.cli.devices import ProcessOptions
from ringvision.cli.train import Train, TrainTokenizer
from ringvision.distributed import StopRequest
from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.model_folder import load_model, read_config

HERE = Path(__file__).parent
LATE = """
import sys
from ringvision import distributed
from ringvision.errors import UserError
try:
    distributed.start(sys.argv[1], 2, 0, seconds=0.5)
except UserError as error:
    sys.exit(f"said: {error}")
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder that two processes of four devices worked in, where this one had saved something for them;
    and what each found.
    """
    folder = tmp_path_factory.mktemp("both")
    split = jax.device_put(VALUES, jax.NamedSharding(make_mesh(), jax.P("context")))
    with Checkpoints(folder / "run") as checkpoints:
        checkpoints.save(3, {"split": split, "whole": jax.numpy.int32(5), "number": 7}, {"process": "alone"})
    outcomes = run_both(HERE / "two_processes.py", str(folder), seconds=120)
    assert [status for status, _ in outcomes] == [0, 0], outcomes
    return folder, [json.loads((folder / f"found-{process}.json").read_text()) for process in range(2)]


def found(both: tuple[Path, list[dict[str, Any]]], name: str) -> Any:
    """What both processes found, where they found the same."""
    one, other = (results[name] for results in both[1])
    assert one == other
    return one


def test_what_processes_tell_each_other(both: Any) -> None:
    assert found(both, "gathered") == 2 * [[{"is": 0}, {"is": 1}]]
    assert found(both, "agreed") == "nothing"
    assert "about the config: 00 on process 0; 11 on process 1; start" in found(both, "disagreed")
    assert "waited 0.2 s for process 1 in 'late' in vain" in both[1][0]["late"]


def test_meshes_of_two_processes(both: Any) -> None:
    assert found(both, "order") == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found(both, "own") == 4
    assert "does not divide 8 devices of 2 processes" in found(both, "not_filled")
    for process, results in enumerate(both[1]):
        assert f"4 devices leaves process {process} of 2 without any" in results["left_out"]


def test_both_stop_at_the_step_in_which_one_was_asked(both: Any) -> None:
    assert found(both, "stopped") == 5


def test_checkpoints_go_from_one_process_to_two_and_back(both: Any) -> None:
    assert found(both, "latest") == 3
    assert found(both, "equal")
    assert found(both, "notes") == [{"process": "alone"}]
    like = {
        "split": jax.ShapeDtypeStruct(
            VALUES.shape, VALUES.dtype, sharding=jax.NamedSharding(make_mesh(), jax.P(None, "context"))
        ),
        "whole": jax.ShapeDtypeStruct((), np.int32),
        "number": 0,
    }
    checkpoints = Checkpoints(both[0] / "run")
    restored = checkpoints.restore(like)
    assert (restored.step, restored.notes) == (7, [{"process": 0}, {"process": 1}])
    assert np.array_equal(restored.tree["split"], 2 * VALUES)
    assert (int(restored.tree["whole"]), restored.tree["number"]) == (5, 7)
    assert checkpoints.steps() == [4, 7], "the damaged one does not count"


def test_both_pass_over_what_is_damaged(both: Any) -> None:
    step, said = found(both, "skipped")
    assert step == 4
    assert "step 5 is damaged" in said
    assert "notes-00001-of-00002.json changed" in said


def test_a_disk_that_is_full_on_one_ends_the_save_on_both(both: Any) -> None:
    one, other = (results["full"] for results in both[1])
    assert "process 1 failed in writing it (its files): File too large; put that right" in one
    assert "File too large; put that right" in other
    assert all(results["full_seconds"] < 30 for results in both[1])


def test_a_model_folder_is_written_by_one(both: Any) -> None:
    assert all(np.array_equal(array, VALUES) for array in load_model(both[0] / "model").values())
    assert read_config(both[0] / "model")["kind"] == "trial"
    assert (both[0] / "model" / "folder" / "card").read_bytes() == b"text"
    assert all("File too large; put that right" in results["model"] for results in both[1])


def test_a_failure_on_one_is_one_on_both(both: Any) -> None:
    assert both[1][0]["together"] == "process 1 failed in opening the data: no data here"
    assert both[1][1]["together"] == "ValueError: no data here"


def test_a_process_that_ends_takes_the_other_along() -> None:
    (status, said), (_, failed) = run_both(HERE / "two_processes.py", "fail-1", seconds=120)
    assert status == 2
    assert "ringvision: process 1 ended: its videos are gone" in said
    assert "ringvision: its videos are gone" in failed
    assert "Check failure" not in said + failed, "no process is aborted"


def test_alone_nothing_waits() -> None:
    assert distributed.gathered("alone", {"a": [1]}) == [{"a": [1]}]
    assert distributed.is_main()
    distributed.barrier("alone")
    distributed.agreed("the config", "anything")
    flags = distributed.signals(make_mesh(data=2, context=4), 3)
    assert (flags.dtype, flags.tolist()) == (np.int32, 8 * [3])
    assert [shard.data.size for shard in flags.addressable_shards] == 8 * [1]


@pytest.mark.parametrize(
    ("given", "environment", "says"),
    [
        (("host:1", None, 0), {}, r"--processes \(RINGVISION_PROCESSES\) is missing"),
        ((None, None, None), {"PROCESS": "1"}, "--coordinator .* and --processes .* is missing"),
        (("host", 2, 0), {}, "'host', expected HOST:PORT"),
        (("host:0", 2, 0), {}, "'host:0', expected HOST:PORT"),
        (("host:1", 2, 2), {}, "process 2 of 2 was given; they count from 0 to 1"),
        (("host:1", 2, -1), {}, "process -1 of 2 was given"),
        (("host:1", 2, None), {"PROCESS": "one"}, "RINGVISION_PROCESS is 'one', expected a whole number"),
        (("127.0.0.1:PORT", 2, None), {"PROCESS": "1"}, "could not be reached within 0.3 s .*refused"),
        ((None, 2, 1), {"COORDINATOR": "no.such.host.invalid:1"}, "could not be reached"),
    ],
)
def test_processes_that_cannot_begin_say_why(
    monkeypatch: pytest.MonkeyPatch, given: Any, environment: dict[str, str], says: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"RINGVISION_{name}", value)
    coordinator, processes, process = given
    address = coordinator and coordinator.replace("PORT", str(free_port()))
    with pytest.raises(UserError, match=says):
        distributed.start(address, processes, process, seconds=0.3)


def test_one_process_needs_no_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    ProcessOptions().start()
    ProcessOptions("127.0.0.1:1", processes=1, process=0).start()
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "node[01-02]", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    distributed.start()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(UserError, match=r"the coordinator node01:61447 could not be reached"):
        distributed.start(seconds=0.1)
    assert not jax.distributed.is_initialized()


def test_the_command_line_takes_processes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--coordinator", "10.0.0.1:8476", "--processes", "2", "--process", "0"]
    command = read(["train", "demo", *words, "--steps", "3"])
    assert isinstance(command, Train)
    assert command.processes == ProcessOptions("10.0.0.1:8476", 2, 0)
    assert command.overrides == ("--steps", "3")
    assert main(["train", "demo", "--processes", "2"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ringvision: --coordinator (RINGVISION_COORDINATOR) and --process")
    assert said.count("\n") == 1
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    with pytest.raises(UserError, match="started on 2 processes"):
        TrainTokenizer("world")._train(None)


def test_processes_that_do_not_come_are_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LATE, f"127.0.0.1:{free_port()}"],
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1  # sys.exit's; not a signal's
    assert "said: not all 2 processes came" in result.stderr


def test_a_request_to_stop_is_noted_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal is signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        assert stop.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_in_another_thread_there_is_no_request_to_stop() -> None:
    asked = []

    def run() -> None:
        with StopRequest() as stop:
            asked.append(stop.asked)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert asked == [False]
