"""A bounded store forgets what was unused for longest."""

from ringvision.infer.memory import Memory


def test_the_oldest_goes_first() -> None:
    memory: Memory[str] = Memory(10)
    memory.keep("a", "A", 4)
    memory.keep("b", "B", 4)
    assert memory.take("a") == "A"
    memory.keep("a", "A", 4)
    memory.keep("c", "C", 4)
    assert memory.take("b") is None
    assert (len(memory), memory.nbytes) == (2, 8)


def test_what_is_taken_is_gone_and_what_is_too_large_is_not_kept() -> None:
    memory: Memory[str] = Memory(10)
    memory.keep("a", "A", 4)
    assert memory.take("a") == "A"
    assert memory.take("a") is None
    memory.keep("a", "A", 4)
    memory.keep("a", "large", 11)
    assert memory.take("a") is None
    assert memory.nbytes == 0


def test_keeping_again_replaces() -> None:
    memory: Memory[str] = Memory(10)
    memory.keep("a", "old", 9)
    memory.keep("a", "new", 3)
    assert memory.nbytes == 3
    assert memory.take("a") == "new"
