"""The mesh of devices: five axes, and which of them each kind of array is spread over.

    data, fsdp   split the batch; fsdp also splits the parameters (in training context and ulysses do too)
    tensor       splits heads, the feed-forward width and the vocabulary
    context      splits the length: the ring
    ulysses      splits each of the ring's shares of the length; for attention its devices exchange tokens
                 for heads

In: how many devices each axis gets, from code or from text such as `context=4,data=2`. Out: a
`jax.sharding.Mesh` and the shardings of arrays on it. Everything above says what an array's axes *are*
("batch", "length", ...); only `Rules` says where they go.
"""

import difflib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from ringvision.errors import UserError

AXES = ("data", "fsdp", "tensor", "context", "ulysses")


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    context: int | None = None,
    ulysses: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh with the axes of `AXES`.

    Args:
        data: devices that split the batch.
        fsdp: devices that split the batch and the parameters.
        tensor: devices that split heads, feed-forward width and vocabulary.
        context: devices of the ring; None: all that the other axes leave.
        ulysses: devices that split each of the ring's shares.
        devices: None: all there are.

    Returns:
        The mesh; its axes are of jax's type Auto.

    Raises:
        UserError: an axis is below 1, the axes do not fill the devices exactly, the chips cannot be laid out
            so, or another process has no device in it.
    """
    devices = list(jax.devices() if devices is None else devices)  # in the order of their processes
    there = _described(devices)
    for name, size in (
        ("data", data),
        ("fsdp", fsdp),
        ("tensor", tensor),
        ("context", context),
        ("ulysses", ulysses),
    ):
        if size is not None and size < 1:
            raise UserError(f"mesh axis {name}={size}: expected at least 1")
    others = data * fsdp * tensor * ulysses
    given = f"data={data} x fsdp={fsdp} x tensor={tensor}" + (f" x ulysses={ulysses}" if ulysses > 1 else "")
    if context is None:
        context = len(devices) // others
        if context * others != len(devices):
            raise UserError(
                f"{given} does not divide {there}: choose axes whose product does, and context takes the rest"
            )
    elif others * context != len(devices):
        raise UserError(
            f"{given} x context={context} is {others * context}, but there are {there}: "
            f"expected a product of {len(devices)}"
        )
    sizes = (data, fsdp, tensor, context, ulysses)
    try:
        return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    except NotImplementedError as error:  # a torus of chips that cannot be cut so
        raise UserError(
            f"{given} x context={context} cannot be laid out on these {len(devices)} chips ({error}); choose "
            "other axes, such as powers of two that the sides of the slice divide"
        ) from error


def _described(devices: Sequence[jax.Device]) -> str:
    """`8 devices`, and of how many processes. UserError where a process has no part in what others have."""
    processes = {device.process_index for device in devices}
    if processes <= {jax.process_index()}:
        return f"{len(devices)} devices"
    absent = sorted(set(range(jax.process_count())) - processes)
    if absent and jax.process_count() > 1:
        raise UserError(
            f"a mesh of {len(devices)} devices leaves process {absent[0]} of {jax.process_count()} without "
            f"any; let the axes' product be {jax.device_count()}, or start fewer processes"
        )
    return f"{len(devices)} devices of {len(processes)} processes"


def parse_mesh(text: str) -> dict[str, int]:
    """`"context=4,data=2"` -> `{"context": 4, "data": 2}`, for `make_mesh(**...)`; an empty text gives an
    empty dict.

    UserError where a part is not AXIS=NUMBER, names no axis, or names one twice.
    """
    axes: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in AXES:
            close = difflib.get_close_matches(name, AXES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the axes are {', '.join(AXES)}"
            raise UserError(f"mesh {text!r}: there is no axis {name!r}; {hint}")
        if not equals or not (number.isascii() and number.isdigit()) or int(number) < 1:
            raise UserError(
                f"mesh {text!r}: {part!r} does not say how many devices; write {name}=N with N at "
                f"least 1, as in {name}=4"
            )
        if name in axes:
            raise UserError(f"mesh {text!r}: axis {name} is given twice; give it once")
        axes[name] = int(number)
    return axes


@dataclass(frozen=True)
class Rules:
    """Logical axis -> the mesh axes that it is spread over. Those from `layers` on are axes of parameters
    alone.
    """

    batch: tuple[str, ...] = ("data", "fsdp")
    length: tuple[str, ...] = ("context", "ulysses")
    heads: tuple[str, ...] = ("tensor",)
    kv_heads: tuple[str, ...] = ("tensor",)
    embed: tuple[str, ...] = ("fsdp",)
    """The model width of a parameter; an activation's width is not split: say None."""
    hidden: tuple[str, ...] = ("tensor",)
    vocab: tuple[str, ...] = ("tensor",)
    layers: tuple[str, ...] = ()
    head_dim: tuple[str, ...] = ()
    norm: tuple[str, ...] = ()
    """The model width of a norm's scale: a few kilobytes, whole everywhere."""
    frame: tuple[str, ...] = ()
    """The places of a token within a frame."""
    rank: tuple[str, ...] = ()
    """The inner width of a low-rank pair."""

    def spec(self, *logical: str | None) -> PartitionSpec:
        """The PartitionSpec of an array with these axes (None: not split).

        ValueError where two of them would be spread over the same mesh axis, or one has no rule.
        """
        taken: dict[str, str] = {}
        parts: list[str | tuple[str, ...] | None] = []
        for name in logical:
            if name is not None and name not in self.__dataclass_fields__:
                raise ValueError(
                    f"no rule for the logical axis {name!r}; there are {', '.join(self.__dataclass_fields__)}"
                )
            mesh_axes: tuple[str, ...] = () if name is None else getattr(self, name)
            for axis in mesh_axes:
                if axis in taken:
                    raise ValueError(
                        f"axes {logical}: {taken[axis]!r} and {name!r} would both be spread over the mesh "
                        f"axis {axis!r}"
                    )
                taken[axis] = str(name)
            parts.append(mesh_axes[0] if len(mesh_axes) == 1 else mesh_axes or None)
        return PartitionSpec(*parts)


RULES = Rules()
"""For inference: a token that is decoded reads every weight, so on a ring each device has them all."""
TRAINING = Rules(embed=("fsdp", "context", "ulysses"))
"""For training: parameters, their gradients and the optimizer's moments are spread over all devices that work
on the same rows, since each needs a layer's weights only while it computes that layer."""
UPDATE = Rules(embed=(*TRAINING.embed, "data"))
"""For what only an update needs: gradients once they are summed, the optimizer's moments, the average of the
parameters. It lies as in training and is spread over the replicas of `data` too, each of which updates its
own share (ZeRO's first stage: Rajbhandari et al., 2020)."""


def update_rules(mesh: Mesh | AbstractMesh, num_layers: int) -> Rules:
    """UPDATE for a parameter of the layers: where `data` divides their number, each replica has some of
    them.
    """
    if num_layers % mesh.shape.get("data", 1):
        return UPDATE
    return replace(TRAINING, layers=("data",))


def layerwise_rules(mesh: Mesh | AbstractMesh, num_layers: int) -> Rules:
    """UPDATE for what is computed of whole matrices, such as Muon's steps: layers are shared out over the
    axes that divide `num_layers` into the most shares, and the model width over what is left.
    """
    axes = ("data", *TRAINING.embed)
    choices = [chosen for size in range(len(axes) + 1) for chosen in itertools.combinations(axes, size)]
    shares = {chosen: math.prod(mesh.shape.get(axis, 1) for axis in chosen) for chosen in choices}
    layers = max((chosen for chosen in choices if num_layers % shares[chosen] == 0), key=shares.__getitem__)
    return replace(UPDATE, layers=layers, embed=tuple(axis for axis in UPDATE.embed if axis not in layers))


def partition_spec(mesh: Mesh | AbstractMesh, *logical: str | None, rules: Rules = RULES) -> PartitionSpec:
    """`rules.spec(*logical)` without the mesh axes that this mesh does not have: a mesh may consist of
    `context` alone.
    """
    parts = []
    for part in rules.spec(*logical):
        present = tuple(
            axis for axis in ((part,) if isinstance(part, str) else part or ()) if axis in mesh.shape
        )
        parts.append(present[0] if len(present) == 1 else present or None)
    return PartitionSpec(*parts)


def sharding(mesh: Mesh, *logical: str | None, rules: Rules = RULES) -> NamedSharding:
    """Where an array with these logical axes lies on the mesh: `sharding(mesh, "batch", "length")` for
    tokens.
    """
    return NamedSharding(mesh, partition_spec(mesh, *logical, rules=rules))


def num_shards(mesh: Mesh | AbstractMesh, logical: str, rules: Rules = RULES) -> int:
    """Over how many devices an array's logical axis is spread."""
    return math.prod(mesh.shape.get(axis, 1) for axis in getattr(rules, logical))


def fitted_spec(
    mesh: Mesh | AbstractMesh, logical: tuple[str | None, ...], shape: tuple[int, ...], rules: Rules = RULES
) -> PartitionSpec:
    """The PartitionSpec of an array of this shape: of the mesh axes that its rule names, each dimension is
    spread over those larger than 1, less as many from the end as it takes for the rest to divide it.

    A dimension that nothing divides stays whole on every device (`sharding_report` in models/parameters.py
    lists these).

    Args:
        mesh: the devices.
        logical: the logical axis of each dimension (None: not split).
        shape: as many sizes.
        rules: which mesh axes each logical axis is spread over.

    Returns:
        A spec without trailing Nones, so `PartitionSpec()` for an array that is whole everywhere.

    Raises:
        ValueError: an axis has no rule, two would be spread over one mesh axis, or there are not as many axes
            as dimensions.
    """
    parts: list[str | tuple[str, ...] | None] = []
    for part, size in zip(partition_spec(mesh, *logical, rules=rules), shape, strict=True):
        wanted = (part,) if isinstance(part, str) else tuple(part or ())
        names = tuple(name for name in wanted if mesh.shape[name] > 1)
        while size % math.prod(mesh.shape[name] for name in names):
            names = names[:-1]
        parts.append(names[0] if len(names) == 1 else names or None)
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def mesh_axes(spec: PartitionSpec, dimension: int) -> tuple[str, ...]:
    """The mesh axes over which a spec spreads a dimension; none beyond its end."""
    part = spec[dimension] if dimension < len(spec) else None
    return (part,) if isinstance(part, str) else tuple(part or ())
