"""How keys come to the queries, by chip and chunk."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ringvision.errors import UserError
from ringvision.mesh import make_mesh
from ringvision.ops import exchange
from ringvision.ops.exchange import CHIPS, chip_of, choose_exchange, hiding_chunk
from ringvision.ops.mask import MaskSpec

CAUSAL = MaskSpec(True, None, 1.0)


def test_the_published_bound():
    """v5p, causal: 1.15K tokens with eight query heads to a KV head, 9.2K with as many of one as of the
    other.
    """
    assert hiding_chunk(CHIPS["TPU v5"], 8, 1, causal=True) == pytest.approx(1150, rel=0.01)
    assert hiding_chunk(CHIPS["TPU v5"], 8, 8, causal=True) == pytest.approx(9200, rel=0.01)
    assert hiding_chunk(CHIPS["TPU v5"], 8, 8, causal=False) == pytest.approx(4600, rel=0.01)


class Device:
    def __init__(self, kind: str) -> None:
        self.device_kind = kind


class Pod(Mesh):
    """Stands for a mesh of four devices of a kind."""

    def __new__(cls, kind: str):
        self = object.__new__(cls)
        self.__dict__.update(kind=kind)
        return self

    def __init__(self, kind: str) -> None:
        pass

    devices = property(lambda self: np.array([Device(self.kind)]))
    shape = property(lambda self: {"context": 4})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5", "TPU v5"),
        ("TPU v5 lite", "TPU v5 lite"),
        ("TPU v6 lite", "TPU v6 lite"),
        ("NVIDIA H100 80GB", "H100"),
        ("cpu", None),
    ],
)
def test_chips_are_told_by_their_kind(kind, name):
    assert chip_of(Pod(kind)) == (CHIPS[name] if name else None)


def shapes(length: int, kv_heads: int = 1) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    return tuple(jax.ShapeDtypeStruct((1, length, heads, 128), "bfloat16") for heads in (8, kv_heads))


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [(8192, "ring"), (1400, "ring"), (1300, "two_way"), (700, "two_way"), (600, "gather"), (16, "gather")],
)
def test_long_chunks_go_round_short_ones_both_ways_and_shorter_ones_are_gathered(chunk, expected):
    assert choose_exchange(None, Pod("TPU v5"), *shapes(4 * chunk), CAUSAL) == expected


def test_what_does_not_fit_is_not_gathered(monkeypatch):
    monkeypatch.setattr(exchange, "GATHERED_AT_MOST", 2**20)
    assert choose_exchange(None, Pod("TPU v5"), *shapes(2048), CAUSAL) == "gather"
    assert choose_exchange(None, Pod("TPU v5"), *shapes(2052), CAUSAL) == "two_way"


def test_cpus_and_single_devices_have_the_ring():
    assert choose_exchange(None, make_mesh(context=8), *shapes(64), CAUSAL) == "ring"
    assert choose_exchange("gather", make_mesh(context=8), *shapes(64), CAUSAL) == "gather"


def test_others_are_refused():
    with pytest.raises(UserError, match="exchange='post': expected one of ring, two_way, gather"):
        choose_exchange("post", make_mesh(context=8), *shapes(64), CAUSAL)
