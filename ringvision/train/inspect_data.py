"""What a run will read, before it runs: shares, lengths, packing, what counts, and some documents in words.

    TrainConfig  --inspect_data-->  report {...} (train/data_report.py says it in words)
                                    and a contact sheet, PNG or HTML

Rows are those that the run itself would get first, and documents those that come first in each source's
stream: nothing is estimated from what the run would not read.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ringvision import shipped
from ringvision.config import TrainConfig
from ringvision.data.contact_sheet import (
    FRAMES_SHOWN,
    SheetRow,
    sheet_path,
    spread,
    write_sheet,
)
from ringvision.data.loader import Loader
from ringvision.data.sources import DataSource
from ringvision.data.stream import Example, PromptProcessor
from ringvision.data.survey import FirstDocuments, Shares, fill_rows, first_documents
from ringvision.data.transcript import frames, words
from ringvision.errors import UserError
from ringvision.model_folder import read_config
from ringvision.train.data_report import describe
from ringvision.train.initial_state import completed
from ringvision.train.inputs import open_data
from ringvision.video_tokenizer import VideoTokenizer, load_video_tokenizer

NAMED = 5
UNLIKE = 3.0
"""A source whose share of the loss is so many times that of its tokens, or so small a part, is spoken of."""


def inspect_data(
    config: TrainConfig,
    *,
    stage: int = 0,
    rows: int = 200,
    examples: int = 2,
    out: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Look at the rows that a run begins with.

    Args:
        config: the run.
        stage: which of its stages, from 0.
        rows: how many rows are filled.
        examples: how many documents of each source are shown in words.
        out: a picture or page (.png, .html) of these documents' frames, decoded by the run's tokenizer.

    Returns:
        {"rows", "length", "fill", "least_fill", "pieces_a_row", "loss": {"text", "vision"} (shares),
        "sources": [{"name", "kind", "documents", "share": {"wanted", "tokens", "examples", "loss"},
        "loss": {"text", "vision"}, "read": how many documents were, "lengths": {"min", "median", "p90",
        "max"} in tokens or None, "longer": how many are longer than a row, "empty", "bad", "named": what is
        wrong with the first bad ones}], "notices",
        "examples": [{"source", "document", "tokens", "counted", "text"}], "out"}

    Raises:
        UserError: as a run would raise it that cannot read its data; there is no such stage; `out` cannot be
            made.
    """
    if not 0 <= stage < config.num_stages:
        raise UserError(f"stage {stage}: the run has {config.num_stages}, numbered from 0; give one of them")
    config = completed(config).of_stage(stage)
    sheet = None if out is None else sheet_path(out)
    processor, loader = open_data(config)
    tokenizer = None if sheet is None else _open_tokenizer(config)
    shares, filled, pieces = fill_rows(loader, processor, rows)
    documents = [first_documents(loader, number, examples) for number in range(len(loader.sources))]
    report = {
        "rows": rows,
        "length": loader.data.length,
        "fill": float(np.mean(filled)) / loader.data.length,
        "least_fill": min(filled) / loader.data.length,
        "pieces_a_row": pieces / rows,
        "loss": _loss_shares(shares),
        "sources": [_source_report(loader, n, shares, found) for n, found in enumerate(documents)],
        "notices": [*loader.notices, *_unlike_their_tokens(loader, shares)],
        "examples": [_in_words(processor, *one) for one in _shown(loader, documents)],
        "out": None if sheet is None else str(sheet),
    }
    if sheet is not None and tokenizer is not None:
        pictures = [_sheet_row(processor, tokenizer, *one) for one in _shown(loader, documents)]
        write_sheet(sheet, f"What {config.name} reads", describe({**report, "examples": []}), pictures)
    return report


def _shown(loader: Loader, documents: Sequence[FirstDocuments]) -> Iterator[tuple[DataSource, int, Example]]:
    """Source, number and example of every document that is to be shown."""
    for source, found in zip(loader.sources, documents, strict=True):
        for index, example in found.shown:
            yield source, index, example


def _in_words(processor: PromptProcessor, source: DataSource, index: int, example: Example) -> dict[str, Any]:
    return {
        "source": source.name,
        "document": index,
        "tokens": len(example.tokens),
        "counted": int((example.loss_mask > 0).sum()),
        "text": words(processor, example),
    }


# ----------------------------------------------------------------------------------------------- the report


def _source_report(
    loader: Loader, number: int, shares: Sequence[Shares], documents: FirstDocuments
) -> dict[str, Any]:
    source = loader.sources[number]
    config = loader.data.sources[number]
    lengths = documents.lengths
    wanted = config.weight / sum(one.weight for one in loader.data.sources)
    return {
        "name": source.name,
        "kind": type(config).__name__,
        "documents": len(source),
        "share": {
            "wanted": wanted,
            **{
                what: getattr(shares[number], what) / (sum(getattr(share, what) for share in shares) or 1)
                for what in ("tokens", "examples", "loss")
            },
        },
        "loss": _loss_shares([shares[number]]),
        "read": len(lengths) + documents.empty + len(documents.bad),
        "lengths": _quantiles(lengths) if lengths else None,
        "longer": sum(length > loader.data.length for length in lengths),
        "empty": documents.empty,
        "bad": len(documents.bad),
        "named": documents.bad[:NAMED],
    }


def _unlike_their_tokens(loader: Loader, shares: Sequence[Shares]) -> list[str]:
    """A sentence for each source whose tokens count otherwise than those of the rest, and can be told how
    much to count.
    """
    tokens = sum(share.tokens for share in shares)
    loss = sum(share.loss for share in shares)
    said = []
    for config, source, share in zip(loader.data.sources, loader.sources, shares, strict=True):
        others = loss - share.loss
        weight = getattr(config, "token_weight", None)
        if weight is None or not share.loss or others <= 0:
            continue
        even = weight * others / share.loss * share.tokens / (tokens - share.tokens)
        if not 1 / UNLIKE < even / weight < UNLIKE:
            said.append(
                f"{source.name} has {share.tokens / tokens:.1%} of the tokens and {share.loss / loss:.1%} of "
                f"the loss; with token_weight={even:.2g} its share of the loss would be that of the tokens"
            )
    return said


def _loss_shares(shares: Sequence[Shares]) -> dict[str, float]:
    whole = sum(share.loss for share in shares) or 1.0
    return {
        "text": sum(share.loss_text for share in shares) / whole,
        "vision": sum(share.loss_vision for share in shares) / whole,
    }


def _quantiles(lengths: Sequence[int]) -> dict[str, int]:
    places = {"min": 0.0, "median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: int(np.quantile(lengths, at, method="nearest")) for name, at in places.items()}


# ------------------------------------------------------------------------------------------------- pictures


def _open_tokenizer(config: TrainConfig) -> VideoTokenizer:
    """The video tokenizer of a run. UserError where none is named, or it is not at hand."""
    if config.init_from is not None:
        settings = read_config(config.init_from)
        folder = shipped.tokenizer_of(Path(config.init_from), settings, config.data.tokenizer)
    elif config.data.tokenizer is not None:
        folder = shipped.tokenizer(config.data.tokenizer)
    else:
        raise UserError(
            "pictures are decoded from codes, and the run names no video tokenizer; give data.tokenizer, or "
            "leave --out out"
        )
    return load_video_tokenizer(folder)


def _sheet_row(
    processor: PromptProcessor, tokenizer: VideoTokenizer, source: DataSource, index: int, example: Example
) -> SheetRow:
    grid = source.vision.grid if source.vision else None
    codes = frames(processor, example.tokens, grid)
    pictures = np.zeros((0, 1, 1, 3), np.uint8)
    count = 0
    if codes is not None:
        count = len(codes)
        pictures = np.asarray(tokenizer.decode(codes[sorted(spread(count, FRAMES_SHOWN))], dtype=np.uint8))
    label = f"{os.path.basename(source.name)}, document {index}: {len(example.tokens)} tokens, {count} frames"
    return SheetRow(label, [words(processor, example)], pictures)
