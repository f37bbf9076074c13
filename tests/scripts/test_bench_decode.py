"""The comparison of decoding runs on a tiny model, and says what it could not run. transformers is not
installed here.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from ringvision import model_folder
from ringvision.data.text.gguf import text_from_gguf
from ringvision.data.text.isolation.hugging_face import byte_letters
from ringvision.models.transformer import Transformer, TransformerConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    letters = list(byte_letters())
    metadata = {"ggml.model": "gpt2", "ggml.tokens": letters, "ggml.merges": [], "ggml.eos_token_id": 0}
    folder = tmp_path / "model"
    text_from_gguf({f"tokenizer.{name}": value for name, value in metadata.items()}, folder)
    config = TransformerConfig(len(letters), 16, 2, 2, 1, 8, 32, max_length=256)
    specs = model_folder.specs(
        nnx.state(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))), nnx.Param)
    )
    random = np.random.default_rng(0)
    weights = {
        name: (0.3 * random.standard_normal(shape)).astype(dtype) for name, (shape, dtype) in specs.items()
    }
    model_folder.save_model(folder, {"kind": "transformer", "transformer": config.to_dict()}, weights)
    return folder


def test_rates_and_claims(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "scripts" / "bench_decode.py", "--model", model, "--devices", "1", "2"]
    settings = [
        "--prompt",
        "20",
        "--tokens",
        "6",
        "--repeats",
        "1",
        "--python",
        sys.executable,
        "--json",
        tmp_path / "decode.json",
    ]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "decode.json").read_text())
    assert list(report["rates"]) == ["ringvision-1", "ringvision-2"]
    assert all(rate > 0 for rates in report["rates"].values() for rate in rates.values())
    assert report["claims"] == [["all write the same tokens", "2 of 2", True]]
    assert "No module named" in report["failed"]["transformers"]
    assert "transformers is missing" in done.stdout
    assert len(report["runs"]["ringvision-1"][0]["tokens"]) == 6
