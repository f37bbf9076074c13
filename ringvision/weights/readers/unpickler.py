"""Reads a pickle without running it: its opcodes build descriptions, and nothing that it names is ever
imported or called.

In goes a file and where in it a pickle begins; out comes a tree of the descriptions in pickle_objects.py,
where each says where the bytes of its array lie. A name that weights do not need ends the reading with
UserError; a few that training frameworks leave beside weights become Opaque, which is nothing.

Written by hand, although the standard library has `pickle.Unpickler` with a `find_class` to override, for
security: that class still calls whatever `find_class` returns with arguments of the file's choosing (NumPy's
own names alone can be made to ask for gigabytes), and here there is no way from an opcode to a call. What is
left to a hostile file is to use memory and time: its steps are counted, and child.py sets limits.

Opcodes: the comments of CPython's Lib/pickletools.py.
"""

import struct
from collections.abc import Callable
from typing import Any

from ringvision.errors import UserError
from ringvision.weights.readers.pickle_objects import (
    BFLOAT16,
    BYTES,
    DTYPE,
    DTYPES,
    ENCODE,
    FROM_BUFFER,
    JAX_ARRAY,
    KNOWN,
    MAPPINGS,
    NDARRAY,
    OPAQUE,
    OPAQUE_MODULES,
    PARAMETER,
    RECONSTRUCT,
    SCALAR,
    STORAGES,
    TENSOR,
    Array,
    Characters,
    DType,
    Mapping,
    Name,
    Opaque,
    Storage,
    Tensor,
)
from ringvision.weights.readers.weights_file import (
    DEEPEST,
    LONGEST_NAME,
    MOST_STEPS,
    MOST_TENSORS,
    WeightsFile,
)


class Unpickler:
    """Follows one pickle from `offset` to `end`; afterwards `offset` is where the pickle ended.

    Args:
        file: the file that the pickle lies in.
        offset: its first byte.
        end: the byte behind the last that it may use; None: the file's end.
        torch: whether it may speak of torch's storages; those it met are in `storages`.
    """

    def __init__(
        self, file: WeightsFile, offset: int = 0, end: int | None = None, torch: bool = False
    ) -> None:
        self.file = file
        self.offset = offset
        self.end = file.size if end is None else end
        self.torch = torch
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def load(self) -> Any:
        """What the pickle describes.

        Raises UserError where it is damaged or asks for what no weights need.
        """
        self.stack = []
        self.marked = []
        self.memo = {}
        while True:
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise self.damaged(f"it has more than {MOST_STEPS} steps")
            opcode = self.take(1)
            if opcode == b".":
                return self.pop()
            action = ACTIONS.get(opcode)
            if action is None:
                raise self.damaged(
                    f"it uses the opcode {opcode!r}, which no weights need; nothing of it was run"
                )
            action(self)

    # -- the file

    def damaged(self, why: str) -> UserError:
        return self.file.damaged(f"the pickle in it is not sound at byte {self.offset}: {why}")

    def take(self, count: int) -> bytes:
        if self.offset + count > self.end:
            raise self.damaged("it ends in the middle of something")
        self.offset += count
        return self.file.take(self.offset - count, count)

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def characters(self, width: int, text: bool) -> None:
        length = self.number(width)
        if self.offset + length > self.end:
            raise self.damaged(f"it speaks of {length} bytes, which it does not have")
        self.stack.append(Characters(self.offset, length, text))
        self.offset += length

    def text(self, value: Any) -> str:
        """The text of Characters that are one and are short."""
        if not isinstance(value, Characters) or not value.text or value.length > LONGEST_NAME:
            raise self.damaged("something else is in the place of a short text")
        try:
            return self.file.take(value.start, value.length).decode()
        except UnicodeDecodeError:
            raise self.damaged("a text is no UTF-8") from None

    # -- the stack

    def pop(self) -> Any:
        if not self.stack:
            raise self.damaged("it takes more than it put there")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise self.damaged("it takes more than it put there")
        return self.stack[-1]

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.marked:
            raise self.damaged("it goes back to a mark that is not there")
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def pop_or_mark(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        onto = self.top()
        if isinstance(onto, list):
            onto.extend(items)
        elif not isinstance(onto, Opaque):
            raise self.damaged("it appends to what is no list")

    def set_items(self, items: list[Any]) -> None:
        onto = self.top()
        if isinstance(onto, Mapping):
            if len(items) % 2:
                raise self.damaged("a key has no value")
            onto.pairs.extend(zip(items[::2], items[1::2]))
        elif not isinstance(onto, Opaque):
            raise self.damaged("it sets items of what is no dict")

    def mapping_of(self, items: list[Any]) -> None:
        self.stack.append(Mapping())
        self.set_items(items)

    def remember(self, key: int) -> None:
        self.memo[key] = self.top()

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise self.damaged("it recalls what it never remembered")
        self.stack.append(self.memo[key])

    # -- names and what is done to them

    def global_(self) -> None:
        lines = []
        for _ in range(2):
            start = self.offset
            while self.take(1) != b"\n":
                if self.offset - start > LONGEST_NAME:
                    raise self.damaged("a name is too long")
            lines.append(self.file.take(start, self.offset - start - 1))
        try:
            self.named(*(line.decode() for line in lines))
        except UnicodeDecodeError:
            raise self.damaged("a name is no UTF-8") from None

    def stack_global(self) -> None:
        name = self.pop()
        module = self.pop()
        self.named(self.text(module), self.text(name))

    def named(self, module: str, name: str) -> None:
        whole = f"{module}.{name}"
        if whole in KNOWN:
            self.stack.append(Name(whole))
        elif whole in OPAQUE or module.startswith(OPAQUE_MODULES):
            self.stack.append(Opaque())
        else:
            raise UserError(
                f"{self.file.path} asks for {ascii(whole)[1:-1][:100]}, which no weights need: it "
                "may be made to run a program. "
                "Nothing of it was run; use another file, best one of safetensors"
            )

    def new_object(self) -> None:
        _ = self.pop()
        kind = self.pop()
        if not isinstance(kind, Opaque):
            raise self.damaged("it makes an object of its own")
        self.stack.append(Opaque())

    def reduce(self) -> None:
        arguments = self.pop()
        function = self.pop()
        if not isinstance(arguments, tuple):
            raise self.damaged("it calls with what are no arguments")
        if isinstance(function, Opaque):
            self.stack.append(Opaque())
        elif isinstance(function, Name):
            self.stack.append(self.called(function.name, arguments))
        else:
            raise self.damaged("it calls what has no name")

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What a call of `name` would describe."""
        match arguments:
            case (Name(name=kind), _, _) if name in RECONSTRUCT and kind == NDARRAY:
                return Array()
            case (
                Characters(text=False) as data,
                DType() as dtype,
                tuple() as shape,
                Characters() as order,
            ) if name in FROM_BUFFER:
                return Array(dtype.name, shape, self.text(order) == "F", data)
            case (DType() as dtype, Characters(text=False) as data) if name in SCALAR:
                return Array(dtype.name, (), False, data)
            case (Name(name=function), tuple() as inner, tuple() as state, _) if (
                name == JAX_ARRAY and function in RECONSTRUCT
            ):
                return self.built(self.called(function, inner), state)
            case (Name(name=kind), _, _) if name == DTYPE and kind == BFLOAT16:
                return DType("bfloat16")
            case (Characters() as code, _, _) if name == DTYPE and self.text(code) in DTYPES:
                return DType(DTYPES[self.text(code)])
            case (Characters(text=True) as data, Characters() as encoding) if (
                name == ENCODE and self.text(encoding) == "latin1"
            ):
                return Characters(data.start, data.length, False, True)
            case () if name in BYTES:
                return Characters(self.offset, 0, False)
            case (Mapping(pairs=pairs),) if name in MAPPINGS:
                return Mapping(pairs)
            case () if name in MAPPINGS:
                return Mapping()
            case (Storage() as storage, int() as offset, tuple() as shape, tuple() as strides, *_) if (
                name == TENSOR
            ):
                return Tensor(storage, offset, shape, strides)
            case (Tensor() as tensor, *_) if name == PARAMETER:
                return tensor
        raise self.damaged(f"it calls {name} in a way that no weights need")

    def build(self) -> None:
        state = self.pop()
        if not isinstance(
            self.top(), Mapping | Opaque
        ):  # an OrderedDict of torch's brings a table of versions along
            self.stack[-1] = self.built(self.stack[-1], state)

    def built(self, onto: Any, state: Any) -> Any:
        match onto, state:
            case Array(data=None), (
                int(),
                tuple() as shape,
                DType() as dtype,
                bool() as fortran,
                Characters(text=False) as data,
            ):
                onto.dtype = dtype.name
                onto.shape = shape
                onto.fortran = fortran
                onto.data = data
                return onto
            case DType(), (int(), Characters() as order, *_):
                if self.text(order) not in ("<", "|", "="):
                    raise self.damaged("its numbers are big-endian, which is not read")
                return onto
        raise self.damaged("it sets the state of what has none, or of an array of objects")

    def persistent(self) -> None:
        match self.pop():
            case (
                Characters() as word,
                Name(name=kind),
                Characters() as key,
                Characters(),
                int() as count,
                *rest,
            ) if (
                self.torch
                and kind in STORAGES
                and self.text(word) == "storage"
                and all(view is None for view in rest)
            ):
                storage = Storage(self.text(key), STORAGES[kind], count)
            case _:
                raise self.damaged("it asks for something outside it that is no storage of torch's")
        if self.storages.setdefault(storage.key, storage) != storage:
            raise self.damaged(f"the storage {ascii(storage.key)[:40]} is of two kinds")
        self.stack.append(storage)


def _push(value: Callable[[Unpickler], Any]) -> Callable[[Unpickler], None]:
    def push(unpickler: Unpickler) -> None:
        item = value(unpickler)  # first: a mark that is gone back to puts another stack in place
        unpickler.stack.append(item)

    return push


ACTIONS: dict[bytes, Callable[[Unpickler], Any]] = {
    b"\x80": lambda u: u.take(1),
    b"\x95": lambda u: u.take(8),
    b"(": Unpickler.mark,
    b"0": Unpickler.pop_or_mark,
    b"1": Unpickler.pop_mark,
    b"2": _push(Unpickler.top),
    b"N": _push(lambda u: None),
    b"\x88": _push(lambda u: True),
    b"\x89": _push(lambda u: False),
    b"J": _push(lambda u: int.from_bytes(u.take(4), "little", signed=True)),
    b"K": _push(lambda u: u.number(1)),
    b"M": _push(lambda u: u.number(2)),
    b"\x8a": _push(lambda u: int.from_bytes(u.take(u.number(1)), "little", signed=True)),
    b"G": _push(lambda u: struct.unpack(">d", u.take(8))[0]),
    b"\x8c": lambda u: u.characters(1, True),
    b"X": lambda u: u.characters(4, True),
    b"\x8d": lambda u: u.characters(8, True),
    b"C": lambda u: u.characters(1, False),
    b"B": lambda u: u.characters(4, False),
    b"\x8e": lambda u: u.characters(8, False),
    b"\x96": lambda u: u.characters(8, False),
    b"]": _push(lambda u: []),
    b"a": lambda u: u.append([u.pop()]),
    b"e": lambda u: u.append(u.pop_mark()),
    b"l": _push(Unpickler.pop_mark),
    b")": _push(lambda u: ()),
    b"t": _push(lambda u: tuple(u.pop_mark())),
    b"\x85": lambda u: u.tuple_of(1),
    b"\x86": lambda u: u.tuple_of(2),
    b"\x87": lambda u: u.tuple_of(3),
    b"}": _push(lambda u: Mapping()),
    b"d": lambda u: u.mapping_of(u.pop_mark()),
    b"s": lambda u: u.set_items([u.pop(), u.pop()][::-1]),
    b"u": lambda u: u.set_items(u.pop_mark()),
    b"\x8f": _push(lambda u: Opaque()),
    b"\x90": lambda u: u.append(u.pop_mark()),
    b"c": Unpickler.global_,
    b"\x93": Unpickler.stack_global,
    b"\x81": Unpickler.new_object,
    b"R": Unpickler.reduce,
    b"b": Unpickler.build,
    b"Q": Unpickler.persistent,
    b"q": lambda u: u.remember(u.number(1)),
    b"r": lambda u: u.remember(u.number(4)),
    b"\x94": lambda u: u.remember(len(u.memo)),
    b"h": lambda u: u.recall(u.number(1)),
    b"j": lambda u: u.recall(u.number(4)),
}


def leaves(unpickler: Unpickler, root: Any) -> dict[str, Array | Tensor]:
    """The arrays and tensors (descriptions, no numbers: their shapes are [...], whatever the file says) of a
    tree, named by the keys that lead to them, joined by "/": `encoder/conv/kernel`. Of a training checkpoint,
    its "state_dict" alone.

    Raises UserError for a tree too deep or too large (one that holds itself is both), and for two of one
    name.
    """
    found: dict[str, Array | Tensor] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), _state(unpickler, root))]
    visited = 0
    while waiting:
        path, value = waiting.pop()
        visited += 1
        if len(path) > DEEPEST or visited > 4 * MOST_TENSORS:
            raise unpickler.damaged("what it describes is nested too deep or without end")
        if isinstance(value, Array | Tensor):
            name = unpickler.file.name("/".join(path))
            if name in found:
                raise unpickler.damaged(f"{name[:60]} comes twice in it")
            found[name] = value
        elif isinstance(value, Mapping):
            waiting += [((*path, _key(unpickler, key)), child) for key, child in reversed(value.pairs)]
        elif isinstance(value, list | tuple):
            waiting += [((*path, str(number)), child) for number, child in reversed([*enumerate(value)])]
    return found


def _state(unpickler: Unpickler, root: Any) -> Any:
    if isinstance(root, Mapping):
        for key, value in root.pairs:
            if (
                isinstance(value, Mapping)
                and isinstance(key, Characters)
                and _key(unpickler, key) == "state_dict"
            ):
                return value
    return root


def _key(unpickler: Unpickler, key: Any) -> str:
    """A key as a part of a name; one that is no text or number can only lead to what is no tensor."""
    return unpickler.text(key) if isinstance(key, Characters) else str(key) if type(key) is int else "?"
