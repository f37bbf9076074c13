"""What processes tell each other: small values, and whether they agree.

    a value of each process  --gathered-->  the list of all, the same on each

It goes through jax's coordination service and not through the devices, so that a background thread may do it
while a step runs. Where there is one process nothing waits.
"""

import json
import threading
from collections import Counter
from typing import Any

import jax

from ringvision.errors import UserError

PATIENCE = 600.0
"""Seconds for which one process waits for another where nothing else is said."""

_rounds: Counter[str] = Counter()
"""How often each name of `gathered` was used, on this process as on every other."""
_lock = threading.Lock()


def is_main() -> bool:
    """Whether this is process 0, which alone writes what is written once."""
    return process_index() == 0


def process_index() -> int:
    """Which process this is, from 0."""
    return _state().process_id if jax.distributed.is_initialized() else jax.process_index()


def process_count() -> int:
    """How many processes there are."""
    return _state().num_processes if jax.distributed.is_initialized() else jax.process_count()


def gathered(name: str, value: Any, *, seconds: float = PATIENCE) -> list[Any]:
    """The values of all processes, in their order: the same list on each.

    Every process must call it, with the same names in the same order; several threads may, each with names of
    its own.

    Args:
        name: what is exchanged; a name may be used again.
        value: what JSON can hold, a few kilobytes at most.
        seconds: for how long to wait for the others.

    Returns:
        One value a process.

    Raises:
        UserError: a process did not come in time.
    """
    text = json.dumps(value)
    if process_count() == 1:
        return [json.loads(text)]
    with _lock:
        round_ = _rounds[name]
        _rounds[name] += 1
    client = service_client()
    folder = f"ringvision/{name}"
    milliseconds = int(1000 * seconds)
    client.key_value_set(f"{folder}/{round_}/{process_index()}", text)
    whole = f"{folder}/{round_}/all"
    if not is_main():
        return json.loads(_await(client, whole, milliseconds, f"process 0 in {name!r}"))
    texts = [
        _await(client, f"{folder}/{round_}/{process}", milliseconds, f"process {process} in {name!r}")
        for process in range(process_count())
    ]
    client.key_value_set(whole, f"[{','.join(texts)}]")
    if round_:  # who takes part in this round has read the last one
        client.key_value_delete(f"{folder}/{round_ - 1}/")
    return json.loads(f"[{','.join(texts)}]")


def barrier(name: str, *, seconds: float = PATIENCE) -> None:
    """Return when every process has called it with this name. UserError where one did not in time."""
    gathered(name, None, seconds=seconds)


def agreed(name: str, text: str) -> None:
    """UserError on every process where they give different texts.

    Args:
        name: what the text is, for the message: "the config".
        text: of this process; short, so the hash of what is long.
    """
    texts = gathered(f"agreed {name}", text)
    if len(set(texts)) == 1:
        return
    holders = {text: [i for i, other in enumerate(texts) if other == text] for text in dict.fromkeys(texts)}
    said = "; ".join(f"{text[:64]} on {_processes(where)}" for text, where in list(holders.items())[:4])
    raise UserError(f"the processes disagree about {name}: {said}; start all of them with the same")


def service_client() -> Any:
    """jax's client of the coordination service. UserError where this process has none."""
    if not jax.distributed.is_initialized():
        raise UserError(
            f"{process_count()} processes run, but they have no coordinator; start them with --coordinator, "
            "--processes and --process"
        )
    return _state().client


def _await(client: Any, key: str, milliseconds: int, what: str) -> str:
    try:
        return client.blocking_key_value_get(key, milliseconds)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition(":")[0]
        waited = f"waited {milliseconds / 1000:g} s for {what} in vain"
        if reason != "DEADLINE_EXCEEDED":
            waited = f"the connection to process 0 broke off ({reason}) while waiting for {what}"
        raise UserError(f"{waited}; see what that process says and start all of them again") from error


def _processes(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:6])) + (" …" if len(numbers) > 6 else "")
    return f"process{'es' * (len(numbers) > 1)} {shown}"


def _state() -> Any:
    from jax._src import distributed  # the service's client has no public name

    return distributed.global_state
