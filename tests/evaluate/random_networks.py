"""The random weights and pictures with which tests/fixtures/evaluate_networks was made: they follow from
names and a seed, and are the same on every machine.
"""

import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

EXPECTED = np.load(Path(__file__).parents[1] / "fixtures" / "evaluate_networks" / "expected.npz")


def random_tensor(name, shape):
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) == 4 and name.startswith("lin"):
        return random.uniform(0, 1, shape).astype(np.float32)
    if len(shape) == 4:
        return random.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    centre = 1.0 if name.endswith(("bn.weight", "running_var")) else 0.0
    return (centre + random.uniform(-0.3, 0.3, shape)).astype(np.float32)


def pictures():
    """Two batches of two pictures, uint8 [2, 64, 64, 3]."""
    random = np.random.default_rng(7)
    batches = []
    for _ in range(2):
        coarse = random.integers(0, 256, (2, 8, 8, 3))
        fine = random.integers(-40, 40, (2, 64, 64, 3))
        batches.append(np.clip(coarse.repeat(8, 1).repeat(8, 2) + fine, 0, 255).astype(np.uint8))
    return batches


def write_weights(path, wanted, name=0):
    """The file that a network needs. name: which of the names that a tensor may have to write it under."""
    save_file(
        {
            names[name if len(names) > name else 0]: random_tensor(names[0], shape)
            for names, shape in wanted.items()
        },
        str(path),
    )
    return path
