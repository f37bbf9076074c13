"""Names of a pytree's leaves.

params (a pytree)  <-flatten, unflatten->  {"layers.attention.query": array}
"""

from collections.abc import Mapping
from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
    """Name every leaf of a pytree by its path: `{"layers": {"attention": {"query": x}}}` ->
    `{"layers.attention.query": x}`.

    Works on NNX states (the `.value` of a variable is left out of the name), on optax states and dataclasses
    registered as pytrees. Raises ValueError where two leaves would share a name.
    """
    names: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = _name(path)
        if name in names:
            raise ValueError(f"two leaves of the tree are both called {name!r}")
        names[name] = leaf
    return names


def unflatten(flat: Mapping[str, Any], like: Any) -> Any:
    """The inverse of `flatten`: the tree `like` with each leaf replaced by the array, of any shape, of its
    name. KeyError names a missing one.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: flat[_name(path)], like)


def _name(path: tuple[Any, ...]) -> str:
    parts = []
    for key in path:
        part = getattr(key, "key", getattr(key, "idx", getattr(key, "name", None)))
        parts.append(str(key) if part is None else str(part))
    if len(parts) > 1 and parts[-1] == "value" and isinstance(path[-1], jax.tree_util.GetAttrKey):
        parts.pop()  # NNX: a variable's array is its attribute `value`
    return ".".join(parts)
