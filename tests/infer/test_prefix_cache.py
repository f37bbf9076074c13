"""A bounded store forgets what was unused for longest, and gives what it keeps to any number of readers."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ringvision.infer.engine import Prefix
from ringvision.infer.prefix_cache import ContentCache, PrefixCache


def _cache(limit: int) -> ContentCache[str]:
    """Of texts, a byte a letter."""
    return ContentCache(limit, len)


def test_the_oldest_goes_first() -> None:
    cache = _cache(10)
    cache.put("a", "AAAA")
    cache.put("b", "BBBB")
    assert cache.get("a") == "AAAA"
    cache.put("c", "CCCC")
    assert cache.get("b") is None
    assert (len(cache), cache.nbytes) == (2, 8)


def test_many_read_the_same_and_what_is_too_large_is_not_kept() -> None:
    cache = _cache(10)
    cache.put("a", "AAAA")
    assert cache.get("a") is cache.get("a")
    cache.put("a", "A" * 11)
    assert cache.get("a") is None
    assert cache.nbytes == 0
    assert cache.get_or_make("a", lambda: "A" * 11) == "A" * 11
    assert len(cache) == 0


def test_keeping_again_replaces() -> None:
    cache = _cache(10)
    cache.put("a", "A" * 9)
    cache.put("a", "new")
    assert cache.nbytes == 3
    assert cache.get("a") == "new"


def test_the_bound_holds_whatever_comes() -> None:
    cache = _cache(100)
    random = np.random.default_rng(0)
    for number, size in enumerate(random.integers(1, 60, 300)):
        cache.put(int(number) % 40, "x" * int(size))
        assert cache.nbytes <= 100


def test_a_value_is_made_once_while_threads_wait_for_it() -> None:
    cache = _cache(100)
    made: list[str] = []
    start = threading.Barrier(6)

    def make() -> str:
        time.sleep(0.05)
        made.append("x")
        return "value"

    def ask(_: int) -> str:
        start.wait()
        return cache.get_or_make("key", make)

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(ask, range(6))) == {"value"}
    assert made == ["x"]


def test_a_value_that_cannot_be_made_is_asked_for_again() -> None:
    cache = _cache(100)

    def fail() -> str:
        raise OSError

    for _ in range(2):
        try:
            cache.get_or_make("key", fail)
        except OSError:
            continue
        raise AssertionError("it was made")
    assert cache.get_or_make("key", lambda: "value") == "value"


class _Bytes:
    nbytes = 8


def test_the_longest_shared_beginning_is_found() -> None:
    cache = PrefixCache(100)
    for name, tokens in (("a", [1, 2, 3]), ("b", [1, 2, 3, 4, 5]), ("c", [7])):
        cache.put(name, Prefix(_Bytes(), np.array(tokens)))  # type: ignore[arg-type]

    def found(*tokens: int) -> tuple[list[int] | None, int]:
        prefix, shared = cache.longest(np.array(tokens))
        return None if prefix is None else prefix.tokens.tolist(), shared

    assert found(1, 2, 3, 4, 9) == ([1, 2, 3, 4, 5], 4)
    assert found(7, 7) == ([7], 1)
    assert found(8) == (None, 0)
    assert cache.nbytes == 24
