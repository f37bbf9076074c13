"""Emu3 as Hugging Face saves it (model_type "emu3"): a Llama and a video tokenizer in one file.

    text_model.model.*, text_model.lm_head.*  ->  the destination: a transformer, with Llama's table of names
    vqmodel.*                                 ->  its folder tokenizer/: models/emu3_tokenizer.py

Ids come in our order (code_ids.py says why). A picture is one row of codes after another there, each ended by
the piece <|extra_200|>, after its size in words: see `stream_format`. transformers leaves settings that are
its classes' defaults out of a config.json: they are filled in.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ringvision.data.generation_format import GenerationFormat
from ringvision.data.stream import PictureFormat, StreamFormat
from ringvision.errors import UserError
from ringvision.models.emu3_tokenizer import Emu3Tokenizer, Emu3TokenizerConfig
from ringvision.models.vqgan import VQGANConfig
from ringvision.vocabulary import Vocabulary
from ringvision.weights import code_ids
from ringvision.weights.family import Family, Folder, Settings, root_of, shapes_of
from ringvision.weights.llama import EMBEDDING, transformer_config
from ringvision.weights.table import TORCH_CONVOLUTION, TORCH_POINT, NameRow, Table, Transform
from ringvision.weights.tensors import Tensors

SIZE = 512
GENERATED_SIZE = 720
"""Pixels on a side of a frame that is read, and of one that is generated, where the model's context has space
for it: the config names none, and the network takes any.
"""
LINE_END = "<|extra_200|>"
FRAME_END = "<|extra_201|>"
QUESTION = "You are a helpful assistant. USER: {video}{question}. ASSISTANT:"
PROMPT = "{prompt} masterpiece, film grained, best quality."
NEGATIVE_PROMPT = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer "
    "digits, cropped, worst quality, low quality, normal "
    "quality, jpeg artifacts, signature, watermark, username, blurry."
)
"""The words with which its authors ask for a picture, and those that guidance compares with."""
GUIDANCE = 3.0
TORCH_CONVOLUTION_3D = Transform(
    "OITHW to THWIO", lambda x, shape: x.transpose(2, 3, 4, 1, 0), lambda x: x.transpose(4, 3, 0, 1, 2)
)
IGNORABLE = (r"vqmodel\..*\.num_batches_tracked",)
"""How many batches a batch normalisation was trained on."""
NORM = (("scale", "weight"), ("bias", "bias"))

TEXT_DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "bos_token_id": 151849, "eos_token_id": 151850}
TEXT_DEFAULTS |= {"max_position_embeddings": 9216, "num_attention_heads": 32, "num_key_value_heads": 8}
VQ_DEFAULTS: dict[str, Any] = {
    "codebook_size": 32768,
    "embed_dim": 4,
    "latent_channels": 4,
    "in_channels": 3,
    "out_channels": 3,
}
VQ_DEFAULTS |= {
    "temporal_downsample_factor": 4,
    "base_channels": 256,
    "num_res_blocks": 2,
    "num_attention_heads": 1,
}
VQ_DEFAULTS |= {"hidden_size": 1024, "attn_resolutions": (3,)}
VQ_LEVELS = (1, 2, 2, 4)


def recognise(tensors: Tensors, config: Mapping[str, Any]) -> Family | None:
    """Both halves; None where the config says another model_type. UserError for settings that compute
    something else.
    """
    prefix = root_of(tensors.specs, EMBEDDING)
    if config.get("model_type") != "emu3" or prefix is None:
        return None
    # whether the file has a head says better than two configs whether embeddings are tied
    settings = Settings(
        {**TEXT_DEFAULTS, **code_ids.mapped(config, "text_config"), "tie_word_embeddings": None}
    )
    code_ids.check_rows(settings, tensors, prefix)
    transformer = transformer_config(settings, tensors.specs, prefix)
    ids = find_code_ids(config, transformer.vocab_size)
    words = vocabulary(config, ids)
    model_table, tokenizer_table = tables(config, ids, prefix)
    tokenizer = tokenizer_config(config)
    asked = stream_format(config, ids), generation_format(tokenizer, transformer.max_length)
    model = code_ids.model_folder(
        replace(transformer, vocab_size=words.size), model_table, words, config, *asked
    )
    shapes = shapes_of(Emu3Tokenizer, tokenizer)
    described = {"kind": "emu3", "name": "emu3", "size": tokenizer.resolution, "emu3": tokenizer.to_dict()}
    return Family(
        "Emu3 (Hugging Face)",
        (model, Folder(described, shapes, tokenizer_table, code_ids.TOKENIZER)),
        (*IGNORABLE, r".*lm_head\.weight") if transformer.tie_embeddings else IGNORABLE,
        tuple(settings.assumed),
        ids.renumber,
    )


def tables(
    config: Mapping[str, Any], ids: code_ids.CodeIds, prefix: str = "text_model."
) -> tuple[Table, Table]:
    """The names of the language model and of the tokenizer."""
    levels = len(tokenizer_config(config).frames.channel_mults)
    return Table(code_ids.model_rows(ids), prefix), Table(tuple(_tokenizer_rows()), "vqmodel.", levels)


def find_code_ids(config: Mapping[str, Any], vocab_size: int) -> code_ids.CodeIds:
    """Where the codes are among their ids."""
    pieces = code_ids.mapped(config, "vocabulary_map")
    return code_ids.CodeIds(
        vocab_size,
        code_ids.ids_by_code(pieces, r"<\|visual token (\d{1,9})\|>"),
        code_ids.piece_id(pieces, FRAME_END),
    )


def vocabulary(config: Mapping[str, Any], ids: code_ids.CodeIds) -> Vocabulary:
    """Our ids of text and codes."""
    pieces = code_ids.mapped(config, "vocabulary_map")
    text = {**TEXT_DEFAULTS, **code_ids.mapped(config, "text_config")}
    start = code_ids.piece_id(pieces, "<|image start|>")
    end = code_ids.piece_id(pieces, "<|image end|>")
    return ids.vocabulary(
        code_ids.piece_id(text, "bos_token_id"), code_ids.piece_id(text, "eos_token_id"), start, end
    )


def stream_format(config: Mapping[str, Any], ids: code_ids.CodeIds) -> StreamFormat:
    """A picture: its rows and columns of codes in words, the piece that opens it, rows that each end in a
    piece, and one behind them.
    """
    pieces = code_ids.mapped(config, "vocabulary_map")
    opened, line, end = (code_ids.piece_id(pieces, name) for name in ("<|image token|>", LINE_END, FRAME_END))
    if max(opened, line, end) >= ids.vocab_size or min(opened, line, end) < 0:
        raise UserError(
            f"a vocabulary_map with ids {opened}, {line}, {end}: expected 0 to "
            f"{ids.vocab_size - 1}; take the config of these"
        )
    opened, line, end = (int(ids.ours[id]) for id in (opened, line, end))
    return StreamFormat(
        False, QUESTION, in_step=False, picture=PictureFormat("{height}*{width}", (opened,), (line,), (end,))
    )


def generation_format(tokenizer: Emu3TokenizerConfig, context: int) -> GenerationFormat:
    """How its authors ask for a picture, and of which size where such a context has space for it."""
    codes = GENERATED_SIZE // tokenizer.pixels_per_code
    fits = not GENERATED_SIZE % tokenizer.pixels_per_code and codes * (codes + 1) < 0.9 * context
    return GenerationFormat(
        PROMPT, without=NEGATIVE_PROMPT, guidance=GUIDANCE, size=GENERATED_SIZE if fits else None
    )


def tokenizer_config(config: Mapping[str, Any]) -> Emu3TokenizerConfig:
    """UserError for what models/emu3_tokenizer.py has no place for."""
    vq = Settings({**VQ_DEFAULTS, **code_ids.mapped(config, "vq_config")})
    channels = vq.whole("base_channels")
    levels = vq.wholes("channel_multiplier", default=VQ_LEVELS)
    stages = [stage for stage in vq.wholes("attn_resolutions", default=()) if stage < len(levels)]
    for width in {*(levels[stage] for stage in stages), *levels[-1:]}:
        vq.only("hidden_size", channels * width)
    vq.only("double_latent", False)
    vq.only("out_channels", vq.whole("in_channels"))
    # A picture in a question leaves half of the context; the published models' has space for one of SIZE.
    pixels = 2 ** max(0, len(levels) - 1)
    text = config.get("text_config")
    context = Settings({**TEXT_DEFAULTS, **(text if isinstance(text, Mapping) else {})}).whole(
        "max_position_embeddings"
    )
    size = min(SIZE - SIZE % pixels, max(1, (math.isqrt(2 * context) - 1) // 2) * pixels)
    values: dict[str, Any] = {
        "resolution": size,
        "in_channels": vq.whole("in_channels"),
        "channels": channels,
        "channel_mults": levels,
        "num_res_blocks": vq.whole("num_res_blocks", most=64),
        "attention_resolutions": tuple(size >> stage for stage in stages),
        "attention_heads": vq.whole("num_attention_heads"),
        "mid_attention": True,
        "z_channels": vq.whole("latent_channels"),
        "embed_dim": vq.whole("embed_dim"),
        "codebook_size": vq.whole("codebook_size"),
        "clip": False,
        "entry_channels": channels if levels[:1] != (1,) else None,
    }
    factor = vq.whole("temporal_downsample_factor", most=64)
    vq.report()
    return Emu3TokenizerConfig(VQGANConfig(**values), temporal_factor=factor)


def _tokenizer_rows() -> list[NameRow]:
    rows = [NameRow("codebook", "quantize.embedding.weight")]
    for side, theirs in (("encoder", "encoder.down_block.down.{i}"), ("decoder", "decoder.up_block.up.{-i}")):
        conditioned = side == "decoder"
        rows += [
            *_convolution(f"{side}.conv_in"),
            *_convolution(f"{side}.conv_out"),
            *_norm(f"{side}.norm_out", f"{side}.norm_out", conditioned),
        ]
        rows += _block(f"{side}.levels.{{i}}.blocks.{{j}}", f"{theirs}.block.{{j}}", conditioned)
        rows += _attention(
            f"{side}.levels.{{i}}.attentions.{{j}}",
            f"{theirs}.attn.{{j}}",
            f"{theirs}.attn_norms.{{j}}",
            conditioned,
        )
        rows += _convolution(
            f"{side}.levels.{{i}}.resample.conv",
            f"{theirs}.{'upsample' if conditioned else 'downsample'}.conv",
        )
        middle = f"{side}.middle_block"
        rows += _block(f"{side}.middle.block{{n}}", f"{middle}.block_{{n}}", conditioned)
        rows += _attention(f"{side}.middle.attention", f"{middle}.attn_1", f"{middle}.attn_norm", conditioned)
        rows += _time(
            f"temporal_{side}.{'double' if conditioned else 'halve'}.{{i}}", f"{side}.time_conv.{{i}}.conv"
        )
        rows += _time(f"temporal_{side}.blocks.{{i}}.conv{{n}}", f"{side}.time_res_stack.{{i}}.conv{{n}}")
        statistics = (("mean", "running_mean"), ("variance", "running_var"))
        rows += _leaves(
            f"temporal_{side}.blocks.{{i}}.norm{{n}}",
            f"{side}.time_res_stack.{{i}}.norm{{n}}",
            NORM + statistics,
        )
    return [*rows, *_time("quant_conv", "quant_conv"), *_time("post_quant_conv", "post_quant_conv")]


def _leaves(ours: str, theirs: str, names: tuple[tuple[str, str], ...]) -> list[NameRow]:
    return [NameRow(f"{ours}.{leaf}", f"{theirs}.{other}") for leaf, other in names]


def _convolution(ours: str, theirs: str | None = None) -> list[NameRow]:
    theirs = theirs or ours
    return [
        NameRow(f"{ours}.kernel", f"{theirs}.weight", TORCH_CONVOLUTION),
        NameRow(f"{ours}.bias", f"{theirs}.bias"),
    ]


def _time(ours: str, theirs: str) -> list[NameRow]:
    return [
        NameRow(f"{ours}.kernel", f"{theirs}.conv.weight", TORCH_CONVOLUTION_3D),
        NameRow(f"{ours}.bias", f"{theirs}.conv.bias"),
    ]


def _norm(ours: str, theirs: str, conditioned: bool) -> list[NameRow]:
    if not conditioned:
        return _leaves(ours, theirs, NORM)
    conditioning = [
        *_convolution(f"{ours}.factor", f"{theirs}.conv_y"),
        *_convolution(f"{ours}.shift", f"{theirs}.conv_b"),
    ]
    return _leaves(f"{ours}.norm", f"{theirs}.norm_layer", NORM) + conditioning


def _block(ours: str, theirs: str, conditioned: bool) -> list[NameRow]:
    rows = [
        *_norm(f"{ours}.norm{{m}}", f"{theirs}.norm{{m}}", conditioned),
        *_convolution(f"{ours}.conv{{m}}", f"{theirs}.conv{{m}}"),
    ]
    return rows + _convolution(f"{ours}.shortcut", f"{theirs}.nin_shortcut")


def _attention(ours: str, theirs: str, norm: str, conditioned: bool) -> list[NameRow]:
    rows = _norm(f"{ours}.norm", norm, conditioned)
    for part, other in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj")):
        rows += [
            NameRow(f"{ours}.{part}.kernel", f"{theirs}.{other}.weight", TORCH_POINT),
            NameRow(f"{ours}.{part}.bias", f"{theirs}.{other}.bias"),
        ]
    return rows
