"""Reading a long prompt against transformers: the same random weights and tokens, one run, alternating
rounds, medians.

    python scripts/bench_prompt.py --python OTHER/bin/python --json prompt.json
    python scripts/bench_prompt.py --shape llama --tokens 8192 --devices 1 2

    demo     the sizes of the shipped model, as a Llama
    llama    8 layers of 384, 6 heads of 64, 8,192 ids: bench_train.py's

Full attention, float32. Every contender is a process of its own (prompt_contenders.py) that sleeps while
others run; loading and compiling are not timed. Memory is what its process has resident at most while a
prompt is read, libraries included, and what that is more than before. Torch and transformers may lie in an
environment of their own, whose Python `--python` names. Prints the machine, a Markdown table and one of
claims; exits with 1 where a claim does not hold.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from contender import Contender, alternate
from machine import machine

SPEED = 2.0
"""Times as many tokens a second as transformers."""
MEMORY = 0.5
"""Of transformers' peak."""
LOGITS = 1e-3
"""The largest difference of logits, of the largest logit."""
SHAPES: dict[str, dict[str, Any]] = {
    "demo": {
        "vocab_size": 1666,
        "embed_dim": 192,
        "num_layers": 6,
        "num_heads": 6,
        "num_kv_heads": 3,
        "head_dim": 32,
        "hidden_dim": 512,
    },
    "llama": {
        "vocab_size": 8192,
        "embed_dim": 384,
        "num_layers": 8,
        "num_heads": 6,
        "num_kv_heads": 6,
        "head_dim": 64,
        "hidden_dim": 1024,
    },
}
MB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--devices", type=int, nargs="+", default=[2], help="ringvision's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", default=sys.executable, help="the Python that has torch and transformers")
    parser.add_argument("--json", type=Path, help="everything measured")
    options = parser.parse_args()
    head = machine(("ringvision", "jax", "jaxlib"))
    contenders = compare(options)
    found = claims(contenders)
    said = head | {name: value for c in contenders for name, value in c.ready["ready"].items()}
    print(", ".join(f"{name} {value}" for name, value in said.items()))
    print(f"\n{options.shape}, {options.tokens} tokens, medians of {options.rounds} rounds\n")
    table(
        ["", "tokens/s", "s", "fastest to slowest", "processor s", "peak, MB", "of these for the prompt, MB"],
        [row(contender, options.tokens) for contender in contenders],
    )
    print()
    table(["claim", "found", "holds"], [[what, x, "yes" if ok else "**no**"] for what, x, ok in found])
    if options.json:
        rounds = {c.name: c.ready | {"rounds": c.rounds} for c in contenders}
        options.json.write_text(
            json.dumps({"machine": head, "claims": found, "results": rounds}, indent=1) + "\n"
        )
    return 0 if all(ok for _, _, ok in found) else 1


def compare(options: argparse.Namespace) -> list[Contender]:
    """All contenders after their rounds, transformers last. SystemExit where one fails."""
    script = Path(__file__).with_name("prompt_contenders.py")
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = write_model(Path(scratch), options.shape, options.tokens)
        contenders = [
            Contender(
                f"ringvision, {count} devices",
                [sys.executable, script, "ringvision", ours, "--devices", str(count)],
                {"PYTHONPATH": os.fspath(Path(__file__).resolve().parents[1])},
            )
            for count in options.devices
        ]
        contenders.append(Contender("transformers", [options.python, script, "transformers", theirs]))
        alternate(contenders, options.rounds, lambda turn: [turn, options.tokens], hidden=("logits",))
        return contenders


def write_model(scratch: Path, shape: str, tokens: int) -> tuple[Path, Path]:
    """The folder of a model of this shape, with random weights, and the same in Hugging Face's form."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from flax import nnx

    from ringvision import model_folder
    from ringvision.models.transformer import Transformer, TransformerConfig
    from ringvision.weights.exporting import export_weights

    config = TransformerConfig(**SHAPES[shape], max_length=tokens)
    described = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(0)
    weights = {
        name: np.ones(size, dtype)
        if name.endswith("scale")
        else (random.standard_normal(size) / np.sqrt(config.embed_dim)).astype(dtype)
        for name, (size, dtype) in model_folder.specs(nnx.state(described, nnx.Param)).items()
    }
    settings = {"kind": "transformer", "transformer": config.to_dict()}
    model_folder.save_model(scratch / "ours", settings, weights)
    export_weights(scratch / "ours", scratch / "theirs", "hf")
    return scratch / "ours", scratch / "theirs"


def row(contender: Contender, tokens: int) -> list[str]:
    """A line of the table."""
    seconds = contender.median("seconds")
    each = [answer["seconds"] for answer in contender.rounds]
    peak = contender.median("peak")
    return [
        contender.name,
        f"{tokens / seconds:.0f}",
        f"{seconds:.2f}",
        f"{min(each):.2f} to {max(each):.2f}",
        f"{contender.median('processor'):.2f}",
        f"{peak / MB:.0f}",
        f"{(peak - contender.median('before')) / MB:.0f}",
    ]


def claims(contenders: list[Contender]) -> list[tuple[str, str, bool]]:
    """What is claimed of the fastest of ours, what was found, whether it holds."""
    *ours, rival = contenders
    best = min(ours, key=lambda contender: contender.median("seconds"))
    faster = rival.median("seconds") / best.median("seconds")
    work = rival.median("processor") / best.median("processor")
    share = best.median("peak") / rival.median("peak")
    differ = max(
        float(np.abs(np.subtract(one["logits"], other["logits"])).max() / np.abs(other["logits"]).max())
        for contender in ours
        for one, other in zip(contender.rounds, rival.rounds, strict=True)
    )
    return [
        ("the same logits, relative to the largest", f"{differ:.1e}", differ <= LOGITS),
        (f"at least {SPEED:g}x transformers", f"{faster:.2f}x", faster >= SPEED),
        (f"at least {SPEED:g}x by processor time", f"{work:.2f}x", work >= SPEED),
        (f"at most {MEMORY:g} of the peak memory of transformers", f"{share:.2f}", share <= MEMORY),
    ]


def table(head: list[str], rows: list[list[Any]]) -> None:
    for line in [head, ["---"] * len(head), *rows]:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    sys.exit(main())
