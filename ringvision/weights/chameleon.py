"""Chameleon as Hugging Face saves it (model_type "chameleon"): a language model and the encoder of a VQGAN in
one file.

    model.layers.*, model.embed_tokens.*, lm_head.*  ->  the destination: a transformer, with Llama's table of
                                                         names
    model.vqmodel.*                                  ->  its folder tokenizer/: models/vqgan.py, without a
                                                         decoder, as none was published

Ids come in our order (code_ids.py says why). transformers leaves settings that are its classes' defaults out
of a config.json: they are filled in.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ringvision.data.stream import PictureFormat, StreamFormat
from ringvision.models.vqgan import VQGAN, VQGANConfig
from ringvision.vocabulary import Vocabulary
from ringvision.weights import code_ids
from ringvision.weights.family import Family, Folder, Settings, root_of, shapes_of
from ringvision.weights.llama import EMBEDDING, transformer_config
from ringvision.weights.table import Table
from ringvision.weights.tensors import Tensors
from ringvision.weights.vqgan import STYLES

LETTERS = {ord(letter): ord(digit) for letter, digit in zip("ABCDEFGHIJ", "0123456789")}
"""The pieces of codes spell their numbers with these: IMGIMGBCZ is code 12."""
START = ("<boi>", "<racm3:break>")
END = ("<eoi>", "<eoss>")
"""Around a picture. The published model has no pieces of the first names and uses the others."""
TURN_END = "<reserved08706>"
"""Behind what a user says, where the vocabulary has it."""
WHITE = 255 * 0.0078 - 1
"""A white pixel as the published preprocessing hands it to the encoder; black is -1."""

DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 1e4, "bos_token_id": 1, "eos_token_id": 2}
DEFAULTS |= {"max_position_embeddings": 4096, "num_attention_heads": 32, "num_key_value_heads": 32}
VQ_DEFAULTS: dict[str, Any] = {
    "resolution": 512,
    "in_channels": 3,
    "base_channels": 128,
    "num_res_blocks": 2,
    "attn_type": "vanilla",
}
VQ_DEFAULTS |= {"latent_channels": 256, "embed_dim": 256, "num_embeddings": 8192}
VQ_LEVELS = (1, 1, 2, 2, 4)
TAMING = STYLES["encoder.down.0.block.0.conv1.weight"]
"""The encoder's names are those of Taming Transformers."""


def recognise(tensors: Tensors, config: Mapping[str, Any]) -> Family | None:
    """Both halves; None where the config says another model_type. UserError for settings that compute
    something else.
    """
    prefix = root_of(tensors.specs, EMBEDDING)
    if config.get("model_type") != "chameleon" or prefix is None:
        return None
    settings = Settings(
        {**DEFAULTS, **config, "tie_word_embeddings": None}
    )  # whether the file has a head says it better
    settings.only("attention_bias", False)
    code_ids.check_rows(settings, tensors, prefix)
    placement: Literal["before", "after"] = "after" if settings.flag("swin_norm", False) else "before"
    transformer = replace(
        transformer_config(settings, tensors.specs, prefix, qk_norm="layer"), norm_placement=placement
    )
    ids = find_code_ids(config, transformer.vocab_size)
    words = vocabulary(config, ids)
    model_table, tokenizer_table = tables(config, ids, prefix)
    model = code_ids.model_folder(
        replace(transformer, vocab_size=words.size), model_table, words, config, stream_format(config)
    )
    tokenizer = tokenizer_config(config)
    shapes = shapes_of(VQGAN, tokenizer)
    described = {
        "kind": "vqgan",
        "name": "chameleon",
        "size": tokenizer.resolution,
        "vqgan": tokenizer.to_dict(),
    }
    return Family(
        "Chameleon (Hugging Face)",
        (model, Folder(described, shapes, tokenizer_table, code_ids.TOKENIZER)),
        (r".*lm_head\.weight",) if transformer.tie_embeddings else (),
        tuple(settings.assumed),
        ids.renumber,
    )


def tables(config: Mapping[str, Any], ids: code_ids.CodeIds, prefix: str = "") -> tuple[Table, Table]:
    """The names of the language model and of the tokenizer."""
    return Table(code_ids.model_rows(ids), prefix), Table(TAMING.rows(), "model.vqmodel.")


def find_code_ids(config: Mapping[str, Any], vocab_size: int) -> code_ids.CodeIds:
    """Where the codes are among their ids."""
    pieces = code_ids.mapped(config, "vocabulary_map")
    return code_ids.CodeIds(
        vocab_size,
        code_ids.ids_by_code(pieces, "IMGIMG([A-J]{1,9})Z", LETTERS),
        code_ids.piece_id(pieces, *END),
    )


def vocabulary(config: Mapping[str, Any], ids: code_ids.CodeIds) -> Vocabulary:
    """Our ids of text and codes."""
    pieces = code_ids.mapped(config, "vocabulary_map")
    text = {**DEFAULTS, **config}
    start = code_ids.piece_id(pieces, *START)
    end = code_ids.piece_id(pieces, *END)
    return ids.vocabulary(
        code_ids.piece_id(text, "bos_token_id"), code_ids.piece_id(text, "eos_token_id"), start, end
    )


def stream_format(config: Mapping[str, Any]) -> StreamFormat:
    """Pictures, then the question; each picture is its codes between two markers."""
    ends = TURN_END if TURN_END in code_ids.mapped(config, "vocabulary_map") else ""
    return StreamFormat(
        stamps=False, question="{video}{question}" + ends, in_step=False, picture=PictureFormat()
    )


def tokenizer_config(config: Mapping[str, Any]) -> VQGANConfig:
    """UserError for what models/vqgan.py has no place for."""
    vq = Settings({**VQ_DEFAULTS, **code_ids.mapped(config, "vq_config")})
    vq.only("double_latent", False)
    attention = vq.get("attn_type") == "vanilla"
    resolutions = vq.wholes("attn_resolutions", default=())
    base = vq.whole("base_channels")
    mults = vq.wholes("channel_multiplier", default=VQ_LEVELS)
    values: dict[str, Any] = {
        "resolution": vq.whole("resolution"),
        "in_channels": vq.whole("in_channels"),
        "channels": base,
        "channel_mults": mults,
        "num_res_blocks": vq.whole("num_res_blocks", most=64),
        "attention_resolutions": resolutions if attention else (),
        "mid_attention": attention,
        "z_channels": vq.whole("latent_channels"),
        "embed_dim": vq.whole("embed_dim"),
        "codebook_size": vq.whole("num_embeddings"),
        "pixel_range": (-1, WHITE),
        "encoder_only": True,
        "entry_channels": base if mults[:1] != (1,) else None,
    }
    vq.report()
    return VQGANConfig(**values)
