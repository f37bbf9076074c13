"""Networks as Flax NNX modules whose states are plain pytrees: `graphdef, params = nnx.split(model)`."""
