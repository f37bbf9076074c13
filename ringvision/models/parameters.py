"""Parameters that know their logical axes, and what follows from those: where each lies on a mesh.

    param(value, "layers", "embed", "hidden")   where a parameter is made
    axes_of(params)                             name -> ("layers", "embed", "hidden")
    param_shardings(params, mesh, rules)        the same tree with a NamedSharding in the place of each array
    gathered(params, mesh, rules)               the same parameters, whole along the model width, while they
                                                are used; by the compiler
    on_shards(function, params, x)              the same, by hand, for what loops or looks up

In: any pytree that holds NNX parameters: a model's, its gradients, moments, averages, of arrays or of shapes.
`jax.tree.map` keeps what a parameter knows, so whatever is made of parameters in that way lies where they
lie.

NNX has metadata of its own for this (`out_sharding`). It is not used: it lays parameters out as soon as a
mesh is in context, and an axis without a rule is replicated without a word.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ringvision.mesh import RULES, Rules, fitted_spec, mesh_axes, partition_spec
from ringvision.tree import flatten, unflatten

Axes = tuple[str, ...]
RulesByParameter = Callable[[Axes, tuple[int, ...]], Rules]
GATHERED = "gathered"
"""The name (`checkpoint_name`) of parameters that were gathered: the backward pass gathers them again."""


def param(value: jax.Array, *axes: str) -> nnx.Param:
    """A parameter, of any shape and dtype, and the logical axis of each of its dimensions (ringvision/mesh.py
    has the list): `param(float32 [D, F], "embed", "hidden")`.

    ValueError where there are not as many axes as dimensions.
    """
    if len(axes) != len(value.shape):
        raise ValueError(f"a parameter of shape {value.shape} with the axes {axes}: expected one a dimension")
    return nnx.Param(value, logical_axes=axes)


def variables(tree: Any) -> dict[str, Any]:
    """Name -> the NNX parameter itself, or what else stands at a leaf; names as `tree.flatten` gives them."""
    return {name: boxed.content for name, boxed in flatten(_map(_Box, tree)).items()}


def axes_of(tree: Any) -> dict[str, Axes]:
    """Name -> logical axes of every parameter in a tree. ValueError that names the ones without."""
    return {name: _axes(name, leaf) for name, leaf in variables(tree).items()}


def param_shardings(
    tree: Any, mesh: Mesh, rules: Rules | RulesByParameter = RULES, *, plain_arrays: bool = False
) -> Any:
    """Where every array of a tree of parameters lies on a mesh.

    Args:
        tree: of parameters, arrays or shapes in them.
        mesh: the devices.
        rules: where each logical axis goes; or a function that says it for a parameter's axes and shape.
        plain_arrays: the tree may also hold arrays that belong to no parameter (an optimizer's counters and
            coefficients); these are whole on every device.

    Returns:
        The same tree with a `NamedSharding` in the place of each array.

    Raises:
        ValueError: an array has no axes, or not as many as it has dimensions.
    """

    def place(leaf: Any, name: str) -> Any:
        if plain_arrays and not isinstance(leaf, nnx.Variable):
            return NamedSharding(mesh, PartitionSpec())
        axes = _axes(name, leaf)

        def one(x: Any) -> NamedSharding:
            chosen = rules if isinstance(rules, Rules) else rules(axes, x.shape)
            return NamedSharding(mesh, fitted_spec(mesh, axes, x.shape, chosen))

        return jax.tree.map(one, leaf)

    placed = {name: place(leaf, name) for name, leaf in variables(tree).items()}
    return unflatten(placed, _map(_Box, tree))


def sharding_report(tree: Any, mesh: Mesh, rules: Rules = RULES) -> dict[str, str]:
    """Name -> one line for every parameter with a dimension that is spread over fewer devices than its rule
    asks for, since they do not divide it. Empty where all goes by the rules.
    """
    found = {}
    for name, leaf in variables(tree).items():
        axes = _axes(name, leaf)
        shape = jax.tree.leaves(leaf)[0].shape
        wanted = partition_spec(mesh, *axes, rules=rules)
        spec = fitted_spec(mesh, axes, shape, rules)
        for dimension, axis in enumerate(axes):
            asked = tuple(one for one in mesh_axes(wanted, dimension) if mesh.shape[one] > 1)
            given = mesh_axes(spec, dimension)
            if asked != given:
                sizes = " x ".join(f"{one}={mesh.shape[one]}" for one in asked)
                found[name] = (
                    f"{axis} of {shape[dimension]} is not divided by {sizes}: "
                    f"{'spread over ' + ', '.join(given) if given else 'whole on every device'}"
                )
    return found


def gathered(tree: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """The same parameters, each whole along the model width, as a layer needs them while it computes; what is
    spread over `tensor` stays so. Their gradients are summed into the shards that the rules ask for, and
    nowhere are they whole. For use inside jit, also on the slices of a scan over layers.
    """
    whole_rules = replace(rules, embed=())

    def gather(leaf: Any) -> Any:
        axes = _axes("", leaf)

        def one(x: jax.Array) -> jax.Array:
            known = axes[len(axes) - x.ndim :]  # a scan has taken the layers off
            spread = fitted_spec(mesh, known, x.shape, rules)
            whole = fitted_spec(mesh, known, x.shape, whole_rules)
            if spread == whole:
                return x
            return checkpoint_name(
                _gather(x, NamedSharding(mesh, whole), NamedSharding(mesh, spread)), GATHERED
            )

        return jax.tree.map(one, leaf)

    return _map(gather, tree)


def is_spread(mesh: Mesh, rules: Rules) -> bool:
    """Whether `gathered` has anything to gather on this mesh."""
    return any(mesh.shape.get(axis, 1) > 1 for axis in rules.embed)


def on_shards(
    function: Callable[..., jax.Array], params: Any, *arrays: jax.Array, mesh: Mesh, rules: Rules = RULES
) -> jax.Array:
    """`function(params, *arrays)` by each device on its own share of batch and length, for what treats tokens
    alike and reads a parameter in a loop, or looks rows of it up.

    A device gathers the parameters once before, and their gradients are summed and scattered once after. Left
    to itself, the compiler does both on every turn of a loop, and may gather every token's gradient for a
    table. `tensor` is left to it.

    Args:
        function: its result is [B, L, …], like its arrays.
        params: a tree of parameters of one layer, spread by `rules`.
        arrays: [B, L, …], spread over batch and length, which the mesh divides.
        mesh: the devices.
        rules: how the parameters lie.

    Returns:
        [B, L, …], spread like the arrays.
    """
    token_axes = tuple(axis for axis in (*rules.batch, *rules.length) if axis in mesh.shape)
    if all(mesh.shape[axis] == 1 for axis in token_axes):
        return function(params, *arrays)
    only_embed = replace(Rules(**{field.name: () for field in fields(Rules)}), embed=rules.embed)
    places = {name: _local_spec(leaf, mesh, only_embed) for name, leaf in variables(params).items()}
    spread = PartitionSpec(
        *(tuple(a for a in axes if a in mesh.shape) for axes in (rules.batch, rules.length))
    )

    dtypes = {name: x.dtype for name, x in flatten(params).items()}
    # They go in as float32: where they are whole on several devices, their gradients are summed in that type.
    params = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), params)

    def local(params: Any, *arrays: jax.Array) -> jax.Array:
        whole = {
            name: _gather_local(value, places[name], dtypes[name]) for name, value in flatten(params).items()
        }
        return function(unflatten(whole, params), *arrays)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(unflatten(places, params), *(spread for _ in arrays)),
        out_specs=spread,
        axis_names=set(token_axes if mesh.shape.get("tensor", 1) > 1 else mesh.axis_names),
        check_vma=False,
    )(params, *arrays)


def _local_spec(leaf: nnx.Variable, mesh: Mesh, rules: Rules) -> PartitionSpec:
    axes = _axes("", leaf)
    (array,) = jax.tree.leaves(leaf)
    return fitted_spec(mesh, axes[len(axes) - array.ndim :], array.shape, rules)


def _gather_local(x: jax.Array, spec: PartitionSpec, dtype: jnp.dtype) -> jax.Array:
    """A device's float32 shard -> the array in `dtype`, whole along every dimension that `spec` spreads. The
    gradient is summed over the devices in float32 and scattered back: sums in bfloat16 would lose what small
    gradients add, and where `tensor` is left to the CPU's compiler they end the process.
    """
    return checkpoint_name(_all_gather(x, spec, dtype), GATHERED)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _all_gather(x: jax.Array, spec: PartitionSpec, dtype: jnp.dtype) -> jax.Array:
    """One mesh axis after the other: the TPU's compiler makes reduce-scatters of sums along one axis of a
    torus, and all-reduces of those over several.
    """
    x = x.astype(dtype)
    for dimension in range(len(spec)):
        for name in reversed(mesh_axes(spec, dimension)):
            x = jax.lax.all_gather(x, name, axis=dimension, tiled=True)
    return x


def _all_gather_forward(x: jax.Array, spec: PartitionSpec, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    return _all_gather(x, spec, dtype), jnp.zeros((), x.dtype)


def _all_gather_backward(
    spec: PartitionSpec, dtype: jnp.dtype, like: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
    gradient = gradient.astype(like.dtype)
    for dimension in reversed(range(len(spec))):
        for name in mesh_axes(spec, dimension):
            gradient = jax.lax.psum_scatter(gradient, name, scatter_dimension=dimension, tiled=True)
    return (gradient,)


_all_gather.defvjp(_all_gather_forward, _all_gather_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: jax.Array, whole: NamedSharding, spread: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, whole)


def _gather_forward(x: jax.Array, whole: NamedSharding, spread: NamedSharding) -> tuple[jax.Array, None]:
    return _gather(x, whole, spread), None


def _gather_backward(
    whole: NamedSharding, spread: NamedSharding, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, spread),)


_gather.defvjp(_gather_forward, _gather_backward)


class _Box:
    """A leaf of its own for whatever it holds."""

    def __init__(self, content: Any) -> None:
        self.content = content


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """`function` of every NNX variable, and of every other leaf."""
    return jax.tree.map(function, tree, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def _axes(name: str, leaf: Any) -> Axes:
    axes = leaf.get_metadata().get("logical_axes") if isinstance(leaf, nnx.Variable) else None
    if axes is None:
        raise ValueError(
            f"the parameter {name!r} does not say its logical axes: make it with models.parameters.param"
        )
    return axes
