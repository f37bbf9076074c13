"""The training engine: steps, loops and their record, for the video tokenizer and for the transformer."""
