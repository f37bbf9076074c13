"""A text tokenizer as other projects make them: sentencepiece's, by pairs of bytes, without this project's
promises.
"""

from collections.abc import Sequence
from pathlib import Path


def train(folder: Path, sentences: Sequence[str], vocab_size: int) -> Path:
    """Writes `tokenizer.model` (and the list of its pieces) into the folder; -> the model's path."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        num_threads=1,
    )
    return folder / "tokenizer.model"
