"""What was computed once, kept by its content for whoever needs it again: codes of videos, and prefixes.

In: a key that says all that a value depends on. Out: the value, made once and read by any number of threads
at the same time. As many are kept as fit into so many bytes; what was unused for longest goes first, and
lives on for those who still read it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np

from ringvision.infer.engine import Prefix, shared_length

Value = TypeVar("Value")


class ContentCache(Generic[Value]):
    """A bounded store of values that nobody changes.

    limit: bytes; size: of a value. A value larger than the limit is given out and not kept.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self.limit = limit
        self._size = size
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable) -> Value | None:
        """The value of `key`, which then is the one used last; None where it is not kept."""
        with self._lock:
            value = self._kept.get(key)
            if value is not None:
                self._kept.move_to_end(key)
            return value

    def put(self, key: Hashable, value: Value) -> None:
        """Keeps `value`, and forgets others until the limit is met."""
        with self._lock:
            self._kept.pop(key, None)
            if self._size(value) <= self.limit:
                self._kept[key] = value
            while sum(map(self._size, self._kept.values())) > self.limit:
                self._kept.popitem(last=False)

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of `key`, from `make` where it is not kept. Who asks for it while another thread makes
        it waits for that.
        """
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                value = self.get(key)
                if value is None:
                    value = make()
                    self.put(key, value)
                return value
        finally:
            with self._lock:
                self._making.pop(key, None)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Of all that is kept."""
        with self._lock:
            return sum(map(self._size, self._kept.values()))


class PrefixCache(ContentCache[Prefix]):
    """Prefixes, which are also found by how they begin. limit: bytes of their caches, over all devices."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, lambda prefix: prefix.nbytes)

    def longest(self, tokens: np.ndarray) -> tuple[Prefix | None, int]:
        """The prefix that shares the most first tokens with int32 [n] `tokens`, and how many; (None, 0) where
        none shares any.
        """
        best: Prefix | None = None
        most = 0
        with self._lock:
            kept = list(self._kept.values())
        for prefix in kept:
            if (shared := shared_length(prefix.tokens, tokens)) > most:
                best = prefix
                most = shared
        return best, most
