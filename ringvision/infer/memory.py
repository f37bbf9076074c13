"""Things worth keeping, as many as fit into so many bytes; the one unused for longest goes first."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memory(Generic[Value]):
    """A bounded store. Safe to use from several threads; what one of them has taken, another does not
    find.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> Value | None:
        """The value of `key`, out of the store; None where it is not there."""
        with self._lock:
            value, _ = self._kept.pop(key, (None, 0))
            return value

    def keep(self, key: Hashable, value: Value, nbytes: int) -> None:
        """Store `value`, forgetting others until the limit is met; a value larger than the limit is not
        stored.
        """
        with self._lock:
            self._kept.pop(key, None)
            if nbytes > self.limit:
                return
            self._kept[key] = (value, nbytes)
            while self._total() > self.limit:
                self._kept.popitem(last=False)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        with self._lock:
            return self._total()

    def _total(self) -> int:
        return sum(nbytes for _, nbytes in self._kept.values())
