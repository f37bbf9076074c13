"""Image tokenizers of the VQGAN's kind, as four families name them; one table, filled with each family's
words.

    LWM         encoder/DownsamplingBlock_{i}/ResnetBlock_{j}/Conv_0/kernel
    vqgan-jax   encoder/down_{i}/block_{j}/conv1/kernel
    taming      encoder.down.{i}.block.{j}.conv1.weight [out, in, h, w]
    diffusers   encoder.down_blocks.{i}.resnets.{j}.conv1.weight [out, in, h, w]   (aMUSEd)

The levels of the decoder are counted from the lowest resolution by LWM and diffusers, from the highest by the
others. The architecture is inferred from the tensors' names and shapes, all but what they cannot say
(resolution, groups of a norm), and a config in their folder overrides it. LWM's network clips to [-1, 1] and
aMUSEd's takes pixels in [0, 1]; the others' values are left alone.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ringvision.errors import UserError
from ringvision.models.vqgan import VQGAN, VQGANConfig
from ringvision.weights.family import Family, Folder, Settings, root_of, shapes_of, shown
from ringvision.weights.table import SAME, TORCH_CONVOLUTION, TORCH_POINT, NameRow, Shape, Table, Transform
from ringvision.weights.tensors import Tensors, TensorSpec

RESOLUTION = 256
MOST_LEVELS = 16
_BLOCK = re.compile(r"(Attn)?(Down|Up)(En|De)coderBlock2D")
MODULES = (
    "encoder.conv_in",
    "encoder.levels.{i}.blocks.{j}",
    "encoder.levels.{i}.attentions.{j}",
    "encoder.levels.{i}.resample.conv",
    "encoder.middle.block1",
    "encoder.middle.attention",
    "encoder.middle.block2",
    "encoder.norm_out",
    "encoder.conv_out",
)
"""Our modules with weights; the decoder has the same."""
PARTS = ("norm1", "conv1", "norm2", "conv2", "shortcut")
ATTENTION = ("norm", "query", "key", "value", "out")


@dataclass(frozen=True)
class Style:
    """A family's words. halves: its names of MODULES, in the encoder and in the decoder. parts, attention:
    its names of PARTS and ATTENTION. leaves: of kernel, scale and bias.
    """

    name: str
    halves: tuple[tuple[str, ...], tuple[str, ...]]
    parts: tuple[str, ...]
    attention: tuple[str, ...]
    leaves: tuple[str, str, str]
    codebook: str
    convolution: Transform = SAME
    point: Transform = SAME
    ignorable: tuple[str, ...] = ()
    clip: bool = False
    pixel_range: tuple[float, float] = (-1.0, 1.0)

    @property
    def join(self) -> str:
        """What stands between the levels of a name."""
        return "." if self.leaves == _TORCH else "/"

    def rows(self) -> tuple[NameRow, ...]:
        """The whole table."""
        rows = [NameRow("codebook", self.codebook)]
        for name in ("quant_conv", "post_quant_conv"):
            rows += self._leaves(name, name, self.convolution)
        for half, names in zip(("encoder", "decoder"), self.halves):
            for ours, theirs in zip(MODULES, names):
                rows += self._module_rows(ours.replace("encoder", half, 1), theirs)
        return tuple(rows)

    def _module_rows(self, ours: str, theirs: str) -> list[NameRow]:
        last = ours.rpartition(".")[2]
        if "attention" in ours:
            inner = zip(ATTENTION, self.attention)
            transform = self.point
        elif "block" in ours:
            inner = zip(PARTS, self.parts)
            transform = self.convolution
        else:
            return self._leaves(ours, theirs, None if last == "norm_out" else self.convolution)
        return [
            row
            for part, word in inner
            for row in self._leaves(
                f"{ours}.{part}", f"{theirs}{self.join}{word}", None if "norm" in part else transform
            )
        ]

    def _leaves(self, ours: str, theirs: str, kernel: Transform | None) -> list[NameRow]:
        """A convolution's kernel and bias, or a norm's scale and bias where `kernel` is None."""
        weight, scale, bias = (f"{theirs}{self.join}{leaf}" for leaf in self.leaves)
        first = (
            NameRow(f"{ours}.scale", scale) if kernel is None else NameRow(f"{ours}.kernel", weight, kernel)
        )
        return [first, NameRow(f"{ours}.bias", bias)]


def _flax_half(half: str, block: str, resample: str) -> tuple[str, ...]:
    level = f"{block}_{{i}}"
    names = (
        f"Conv_0 {level}/ResnetBlock_{{j}} {level}/AttnBlock_{{j}} {level}/{resample}_0/Conv_0 "
        "MidBlock_0/ResnetBlock_0 MidBlock_0/AttnBlock_0 MidBlock_0/ResnetBlock_1 GroupNorm_0 Conv_1"
    )
    return tuple(f"{half}/{name}" for name in names.split())


def _taming_half(half: str, level: str, resample: str, join: str, number: str) -> tuple[str, ...]:
    names = (
        "conv_in",
        f"{level}block{number}{{j}}",
        f"{level}attn{number}{{j}}",
        f"{level}{resample}.conv",
        "mid.block_1",
        "mid.attn_1",
        "mid.block_2",
        "norm_out",
        "conv_out",
    )
    return tuple(f"{half}.{name}".replace(".", join) for name in names)


def _diffusers_half(half: str, blocks: str, resample: str) -> tuple[str, ...]:
    level = f"{blocks}.{{i}}"
    names = (
        f"conv_in {level}.resnets.{{j}} {level}.attentions.{{j}} {level}.{resample}.0.conv "
        "mid_block.resnets.0 mid_block.attentions.0 mid_block.resnets.1 conv_norm_out conv_out"
    )
    return tuple(f"{half}.{name}" for name in names.split())


_TAMING = ("norm1", "conv1", "norm2", "conv2", "nin_shortcut"), ("norm", "q", "k", "v", "proj_out")
_FLAX = ("kernel", "scale", "bias")
_TORCH = ("weight", "weight", "bias")
_DIFFUSERS_HALVES = (
    _diffusers_half("encoder", "down_blocks", "downsamplers"),
    _diffusers_half("decoder", "up_blocks", "upsamplers"),
)
_LWM_HALVES = (
    _flax_half("encoder", "DownsamplingBlock", "Downsample"),
    _flax_half("decoder", "UpsamplingBlock", "Upsample"),
)
DIFFUSERS = Style(
    "VQModel of diffusers (aMUSEd)",
    _DIFFUSERS_HALVES,
    ("norm1", "conv1", "norm2", "conv2", "conv_shortcut"),
    ("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
    _TORCH,
    "quantize.embedding.weight",
    TORCH_CONVOLUTION,
    TORCH_POINT,
    pixel_range=(0.0, 1.0),
)
LWM = Style(
    "LWM's VQGAN",
    _LWM_HALVES,
    ("GroupNorm_0", "Conv_0", "GroupNorm_1", "Conv_1", "Conv_2"),
    ("GroupNorm_0", "Conv_0", "Conv_1", "Conv_2", "Conv_3"),
    _FLAX,
    "quantize/embeddings",
    clip=True,
)
STYLES = {
    "encoder/DownsamplingBlock_0/ResnetBlock_0/Conv_0/kernel": LWM,
    "encoder/down_0/block_0/conv1/kernel": Style(
        "vqgan-jax",
        (
            _taming_half("encoder", "down_{i}.", "downsample", "/", "_"),
            _taming_half("decoder", "up_{-i}.", "upsample", "/", "_"),
        ),
        *_TAMING,
        _FLAX,
        "quantize/embedding/embedding",
    ),
    "encoder.down.0.block.0.conv1.weight": Style(
        "taming-transformers' VQGAN",
        (
            _taming_half("encoder", "down.{i}.", "downsample", ".", "."),
            _taming_half("decoder", "up.{-i}.", "upsample", ".", "."),
        ),
        *_TAMING,
        _TORCH,
        "quantize.embedding.weight",
        TORCH_CONVOLUTION,
        TORCH_CONVOLUTION,
        (
            r"(.*\.)?loss\..*",
            r"(.*\.)?discriminator\..*",
            r"(?!.*state_dict).*(callbacks|optimizer_states|lr_schedulers|global_step|epoch).*",
        ),
    ),
    "encoder.down_blocks.0.resnets.0.conv1.weight": DIFFUSERS,
}
"""By a name that each family's files have."""


def recognise(tensors: Tensors, config: Mapping[str, Any]) -> Family | None:
    """A VQGAN of one of the four families. UserError where the config contradicts itself or asks for what is
    not known here.
    """
    marks = {marker: root for marker in STYLES if (root := root_of(tensors.specs, marker)) is not None}
    if not marks:
        return None
    marker, prefix = next(iter(marks.items()))
    style = STYLES[marker]
    half_table = Table(style.rows(), prefix)
    levels = 1 + max(
        (int(match[1]) for name in tensors.specs if (match := _level(half_table, name))), default=0
    )
    if levels > MOST_LEVELS:
        raise UserError(
            f"{style.name} with {levels} levels of resolution: expected at most {MOST_LEVELS}; is "
            "this a VQGAN?"
        )
    table = Table(style.rows(), prefix, levels)
    settings = Settings(_flattened(config))
    vqgan = _read(settings, _inferred(table, tensors.specs), style)
    shapes = shapes_of(VQGAN, vqgan)
    folder = Folder({"kind": "vqgan", "size": vqgan.resolution, "vqgan": vqgan.to_dict()}, shapes, table)
    return Family(style.name, (folder,), style.ignorable, tuple(settings.assumed))


def _level(table: Table, name: str) -> re.Match[str] | None:
    found = table.ours(name)
    return re.match(r"encoder\.levels\.(\d+)\.", found[0]) if found else None


def _flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """A taming config (model: params: ddconfig) laid flat."""
    flat = dict(config)
    for name in ("model", "params", "ddconfig"):
        inner = flat.get(name)
        flat |= inner if isinstance(inner, Mapping) else {}
    return flat


def _inferred(table: Table, found: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """What names and shapes say: attention by level, and the sizes. Where something is missing, a size that
    the check will report.
    """
    shapes: dict[str, Shape] = {}
    for name, spec in found.items():
        known = table.ours(name)
        if known is not None:
            known_name, transform = known
            shapes[known_name] = _turned(transform, spec.shape)

    def size(name: str, axis: int) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if shape else 1

    levels = range(table.levels)
    entry = shapes.get("encoder.conv_in.kernel") or (None,)
    widths = [size(f"encoder.levels.{level}.blocks.0.conv1.kernel", -1) for level in levels]
    attended = tuple(
        level for level in levels if f"encoder.levels.{level}.attentions.0.query.kernel" in shapes
    )
    blocks = sum(f"encoder.levels.0.blocks.{block}.conv1.kernel" in shapes for block in range(len(shapes)))
    return {
        "in_channels": size("encoder.conv_in.kernel", -2),
        "entry": entry[-1],
        "widths": widths,
        "attended": attended,
        "mid_attention": "encoder.middle.attention.query.kernel" in shapes,
        "learned_resampling": table.levels < 2 or "encoder.levels.0.resample.conv.kernel" in shapes,
        "num_res_blocks": max(1, blocks),
        "z_channels": size("encoder.conv_out.kernel", -1),
        "embed_dim": size("codebook", -1),
        "codebook_size": size("codebook", 0),
    }


def _turned(transform: Transform, shape: Shape) -> Shape:
    """The shape of ours that a tensor of theirs becomes; () where it has another number of axes than it
    should.
    """
    try:
        return transform.into(np.broadcast_to(np.int8(0), shape), shape).shape
    except ValueError:
        return ()


def _read(settings: Settings, inferred: Mapping[str, Any], style: Style) -> VQGANConfig:
    """The config, from the settings where they say it (under the names of any of the four families) and from
    what was inferred.
    """
    if style is DIFFUSERS:
        settings.only("_class_name", "VQModel")
    _refuse_unknown(settings)
    widths = settings.wholes("block_out_channels", default=()) or inferred["widths"]
    base = settings.whole("hidden_channels", "ch", default=math.gcd(*widths) or 1)
    mults = settings.wholes("channel_mult", "ch_mult", default=[width // base for width in widths])
    if not 1 <= len(mults) <= MOST_LEVELS:
        settings.wrong.append(f"{len(mults)} levels of resolution, expected 1 to {MOST_LEVELS}")
    step = 2 ** (max(1, min(len(mults), MOST_LEVELS)) - 1)
    resolution = _resolution(settings, step)
    groups = settings.whole(
        "group_norm_groups", "norm_num_groups", default=math.gcd(32, *(base * mult for mult in mults))
    )
    z_channels = settings.whole("z_channels", "latent_channels", default=inferred["z_channels"])
    attended, middle = _attention(settings, inferred, resolution, style)
    values: dict[str, Any] = {
        "resolution": resolution,
        "in_channels": settings.whole("num_channels", "in_channels", default=inferred["in_channels"]),
        "channels": base,
        "channel_mults": mults,
        "num_res_blocks": settings.whole(
            "num_res_blocks", "layers_per_block", default=inferred["num_res_blocks"], most=64
        ),
        "attention_resolutions": attended,
        "mid_attention": middle,
        "z_channels": z_channels,
        "embed_dim": settings.whole(
            "quantized_embed_dim", "embed_dim", "vq_embed_dim", default=inferred["embed_dim"]
        ),
        "codebook_size": settings.whole(
            "num_embeddings", "n_embed", "num_vq_embeddings", default=inferred["codebook_size"]
        ),
        "norm_groups": groups,
        "norm_eps": settings.real("group_norm_eps", default=1e-6),
        "clip": settings.flag("clip", style.clip),
        "pixel_range": _pixel_range(settings, style),
        "learned_resampling": settings.flag(
            "resample_with_conv", settings.flag("resamp_with_conv", inferred["learned_resampling"])
        ),
        "entry_channels": _entry(settings, inferred, base, mults, style),
    }
    settings.report()
    return VQGANConfig(**values)


def _pixel_range(settings: Settings, style: Style) -> tuple[float, float]:
    """The style's own, or what one of our exports says."""
    stated: Any = settings.get("pixel_range")
    if isinstance(stated, list) and len(stated) == 2 and all(type(value) in (int, float) for value in stated):
        return stated[0], stated[1]
    if stated is not None:
        settings.wrong.append(
            f"pixel_range is {stated!r}, expected what black and what white are, such as [-1, 1]"
        )
    return style.pixel_range


def _entry(
    settings: Settings, inferred: Mapping[str, Any], base: int, mults: Sequence[int], style: Style
) -> int | None:
    """The width of the first convolution where that is not the first level's, as in all of diffusers'
    networks; elsewhere it is the base.
    """
    entry = inferred["entry"] if settings.get("hidden_channels", "ch") is None else base
    return None if style is DIFFUSERS or entry is None or not mults or entry == base * mults[0] else entry


def _resolution(settings: Settings, step: int) -> int:
    """diffusers' sample_size is a count of codes in some files and of pixels in others: what cannot be pixels
    is not believed.
    """
    stated = settings.get("resolution") or settings.get("sample_size")
    believed = settings.get("resolution") is not None or (isinstance(stated, int) and stated >= 4 * step)
    if stated is not None and believed:
        resolution = settings.whole("resolution", "sample_size")
    else:
        resolution = RESOLUTION if RESOLUTION % step == 0 else 4 * step
        settings.assumed.append(
            f"resolution {resolution} (nothing says it, and the network takes others; see --config)"
        )
    if resolution % step:
        settings.wrong.append(
            f"resolution is {resolution}, expected a multiple of {step}, the pixels of a code"
        )
    return resolution


def _attention(
    settings: Settings, inferred: Mapping[str, Any], resolution: int, style: Style
) -> tuple[tuple[int, ...], bool]:
    """(resolutions with attention, attention in the middle)."""
    attended: tuple[int, ...] = tuple(resolution >> level for level in inferred["attended"])
    middle = inferred["mid_attention"]
    if style is DIFFUSERS:
        kinds = settings.get("down_block_types")
        if isinstance(kinds, (list, tuple)) and all(isinstance(kind, str) for kind in kinds):
            attended = tuple(
                resolution >> level for level, kind in enumerate(kinds[:MOST_LEVELS]) if "Attn" in kind
            )
            others = settings.get("up_block_types")
            if isinstance(others, (list, tuple)) and ["Attn" in str(kind) for kind in others[::-1]] != [
                "Attn" in kind for kind in kinds
            ]:
                settings.wrong.append(
                    "up_block_types has attention at other resolutions than down_block_types, which is "
                    "not known here"
                )
        return attended, settings.flag("mid_block_add_attention", middle)
    middle = not settings.flag("no_attn_mid_block", not middle)
    return settings.wholes("attn_resolutions", default=attended), middle


def _refuse_unknown(settings: Settings) -> None:
    settings.only("double_z", False)
    settings.only("act_fn", "silu")
    settings.only("norm_type", "group")
    for name in ("down_block_types", "up_block_types"):
        kinds: Any = settings.get(name) or ()
        kinds = kinds if isinstance(kinds, (list, tuple)) else [kinds]
        settings.wrong += [
            f"{name} has {shown(kind)}, which is not known here"
            for kind in kinds[:MOST_LEVELS]
            if not _BLOCK.fullmatch(str(kind))
        ]
