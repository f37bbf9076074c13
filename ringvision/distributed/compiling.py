"""A compiled function that all processes enter together the first time, however long each compiled it.

    jitted function  --compiled_together-->  the same, with a barrier between compilation and first run

On CPUs the processes' devices connect when a computation runs first, and gloo gives that 30 seconds: a
process that compiled that much longer than another would end both.
"""

from collections.abc import Callable
from typing import Any

from ringvision.distributed.agreement import PATIENCE, barrier, process_count


def compiled_together(name: str, jitted: Any) -> Callable[..., Any]:
    """The function itself on one process; on several one that, at its first call, compiles it for these
    arguments, waits until all have done so, and calls what was compiled, then as ever.

    Args:
        name: of the function, for whom one waits in vain.
        jitted: what `jax.jit` gave; its later arguments have the shapes, dtypes and shardings of the first.

    Returns:
        A function of the same arguments and results.
    """
    if process_count() == 1:
        return jitted
    compiled: list[Any] = []

    def call(*arguments: Any) -> Any:
        if not compiled:
            compiled.append(jitted.lower(*arguments).compile())
            barrier(f"{name} is compiled", seconds=6 * PATIENCE)
        return compiled[0](*arguments)

    return call
