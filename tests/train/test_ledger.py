"""Every second is booked once, under what the run was doing then."""

import json

import jax
import jax.numpy as jnp
import pytest

from ringvision.train.ledger import KINDS, Ledger, table


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def test_nested_time_counts_once():
    clock = Clock()
    ledger = Ledger(clock)
    clock.passes(1)
    with ledger.spend("stepping"):
        clock.passes(2)
        with ledger.spend("waiting for data"):
            clock.passes(4)
            assert ledger.doing == "waiting for data"
        clock.passes(8)
        with pytest.raises(KeyError), ledger.spend("saving"):
            clock.passes(16)
            raise KeyError
        assert ledger.doing == "stepping"
        with ledger.spend("stepping"):
            clock.passes(32)
    clock.passes(64)
    assert ledger.seconds == {"stepping": 42, "waiting for data": 4, "saving": 16, "other": 65}
    assert list(ledger.seconds) == [kind for kind in KINDS if kind in ledger.seconds]
    assert ledger.total == 127


def test_time_that_is_still_being_spent_is_there():
    clock = Clock()
    ledger = Ledger(clock)
    with ledger.spend("compiling"):
        clock.passes(3)
        assert ledger.seconds == {"compiling": 3}


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="sleeping"), Ledger().spend("sleeping"):
        pass


def test_the_next_process_goes_on_from_the_checkpoint():
    clock = Clock()
    first = Ledger(clock)
    with first.spend("stepping"):
        clock.passes(10)
    notes = json.loads(json.dumps(first.to_dict()))
    with first.spend("stepping"):
        clock.passes(7)  # then it was killed
    second = Ledger.from_dict(notes, clock)
    second.lost(7)
    with second.spend("stepping"):
        clock.passes(20)
    assert second.seconds == {"stepping": 30, "lost": 7}


def test_notes_that_are_no_seconds_are_left_out():
    notes = {
        "stepping": "many",
        "saving": True,
        "lost": float("nan"),
        "other": -3,
        "gossip": 5,
        "starting": 2,
    }
    assert Ledger(Clock(), notes).seconds == {"starting": 2}


def test_compilation_in_the_middle_of_a_step_is_noticed():
    ledger = Ledger()
    with ledger.noticing_compilation(), ledger.spend("stepping"):
        jax.jit(lambda x: jnp.tanh(x) @ x + 17.25)(jnp.ones((3, 3))).block_until_ready()
    seconds = ledger.seconds
    assert 0 < seconds["compiling"] < ledger.total
    assert seconds["stepping"] > 0
    with ledger.spend("evaluating"):
        jax.jit(lambda x: jnp.tanh(x) @ x - 3.75)(jnp.ones((3, 3))).block_until_ready()
    assert ledger.seconds["compiling"] == seconds["compiling"], "nobody listens any more"


def test_the_table_adds_up():
    lines = table({"stepping": 2970.25, "lost": 29.75}).splitlines()
    assert [line.split() for line in lines] == [
        ["stepping", "2,970.2", "s", "99.0%"],
        ["lost", "29.8", "s", "1.0%"],
        ["in", "all", "3,000.0", "s", "100.0%"],
    ]
    assert len({len(line) for line in lines}) == 1
    assert table({}).split() == ["in", "all", "0.0", "s", "0.0%"]
