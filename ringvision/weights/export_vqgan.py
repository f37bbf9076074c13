"""A video tokenizer of ours -> the form that other programs read: diffusers, or LWM.

    tokenizer folder ─the style's table, the other way─→ their tensors ─→ DEST

    hf    config.json, diffusion_pytorch_model.safetensors: a VQModel
    lwm   config.json, `vqgan.pkl`: a pickle of nested dicts of NumPy arrays, as LWM's VQGAN opens it

Imported again, weights and config are the same. What neither program says of a network (the range of its
pixels, whether it clips) is in the config.json all the same, where our import finds it.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ringvision.errors import UserError
from ringvision.model_folder import CONFIG_FILE, ModelReader, ModelWriter
from ringvision.models.vqgan import VQGAN, VQGANConfig
from ringvision.weights.converting import Progress, foreign_tensors
from ringvision.weights.export_pair import PYTORCH, check_tensors
from ringvision.weights.family import shapes_of
from ringvision.weights.table import Table
from ringvision.weights.vqgan import DIFFUSERS, LWM

DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
PICKLE_FILE = "vqgan.pkl"


def export_vqgan(
    folder: Path,
    where: Path,
    settings: Mapping[str, Any],
    format: Literal["hf", "lwm"],
    *,
    dtype: np.dtype | None = None,
    progress: Progress | None = None,
) -> int:
    """Write it into a folder. Memory: one tensor; of `lwm`, the whole network.

    Args:
        folder: the tokenizer's.
        where: the folder to be filled.
        settings: the tokenizer's config.json.
        format: "hf" for diffusers, "lwm".
        dtype: of the tensors; None: each tensor's own.
        progress: gets (what, done, of).

    Returns:
        how many tensors were written.

    Raises:
        UserError: where the other program has no such network, or the folder's tensors do not fit its config.
    """
    config = VQGANConfig.from_dict(settings["vqgan"])
    theirs, style = (_for_diffusers(config), DIFFUSERS) if format == "hf" else (_for_lwm(config), LWM)
    shapes = shapes_of(VQGAN, config)
    with ModelReader(folder) as reader:
        check_tensors([reader], (shapes,), folder)
        pieces = Table(style.rows(), levels=len(config.channel_mults)).pieces(shapes)
        specs = {
            source.name: (source.shape, dtype or reader.specs[piece.ours][1])
            for piece in pieces
            for source in piece.sources
        }
        converted = foreign_tensors([(reader, piece) for piece in pieces], dtype, progress)
        if format == "hf":
            with ModelWriter(where, theirs, specs, metadata=PYTORCH) as writer:
                for tensor, array in converted:
                    writer.write(tensor.name, array)
            (where / "model.safetensors").rename(where / DIFFUSERS_FILE)
        else:
            tree: dict[str, Any] = {}
            for tensor, array in converted:
                *path, leaf = tensor.name.split("/")
                branch = tree
                for key in path:
                    branch = branch.setdefault(key, {})
                branch[leaf] = np.ascontiguousarray(array)
            (where / PICKLE_FILE).write_bytes(pickle.dumps(tree, protocol=4))
            (where / CONFIG_FILE).write_text(json.dumps(theirs, indent=2) + "\n", encoding="utf-8")
    return len(specs)


def _refuse(config: VQGANConfig, program: str, **more: tuple[Any, Any]) -> None:
    """UserError unless all is as the other program has it: what neither can be, and `more` (value,
    expected).
    """
    plain: dict[str, tuple[Any, Any]] = {
        "patch_size": (config.patch_size, 1),
        "local_codes": (config.local_codes, False),
        "attention_heads": (config.attention_heads, 1),
        "norm_eps": (config.norm_eps, 1e-6),
        "encoder_only": (config.encoder_only, False),
        "learned_resampling": (config.learned_resampling, True),
    }
    odd = [
        f"{name}={value} (only {expected})"
        for name, (value, expected) in (plain | more).items()
        if value != expected
    ]
    if odd:
        raise UserError(
            f"this tokenizer has {', '.join(odd)}, which {program} cannot have; use it with "
            "ringvision, or choose another format"
        )


def _for_diffusers(config: VQGANConfig) -> dict[str, Any]:
    _refuse(config, "diffusers' VQModel", entry_channels=(config.entry, config.widths[0]))
    attended = [
        "Attn" if config.resolution >> level in config.attention_resolutions else ""
        for level in range(len(config.widths))
    ]
    return {
        "_class_name": "VQModel",
        "act_fn": "silu",
        "block_out_channels": list(config.widths),
        "clip": config.clip,
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in attended],
        "in_channels": config.in_channels,
        "latent_channels": config.z_channels,
        "layers_per_block": config.num_res_blocks,
        "lookup_from_codebook": True,
        "mid_block_add_attention": config.mid_attention,
        "norm_num_groups": config.norm_groups,
        "norm_type": "group",
        "num_vq_embeddings": config.codebook_size,
        "out_channels": config.in_channels,
        "pixel_range": list(config.pixel_range),
        "sample_size": config.resolution,
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(attended)],
        "vq_embed_dim": config.embed_dim,
    }


def _for_lwm(config: VQGANConfig) -> dict[str, Any]:
    _refuse(
        config,
        "LWM's VQGAN",
        attention_resolutions=(config.attention_resolutions, ()),
        mid_attention=(config.mid_attention, False),
        norm_groups=(config.norm_groups, 32),
        pixel_range=(config.pixel_range, (-1.0, 1.0)),
        clip=(config.clip, True),
        entry_channels=(config.entry, config.channels),
    )
    return {
        "model_type": "lwm_vqgan",
        "resolution": config.resolution,
        "num_channels": config.in_channels,
        "hidden_channels": config.channels,
        "channel_mult": list(config.channel_mults),
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": [],
        "no_attn_mid_block": True,
        "z_channels": config.z_channels,
        "num_embeddings": config.codebook_size,
        "quantized_embed_dim": config.embed_dim,
        "resample_with_conv": True,
    }
