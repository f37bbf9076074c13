"""A training step against transformers, and against another checkout of this project: one run, alternating
rounds, medians.

    python scripts/bench_train.py --python OTHER/bin/python --base CHECKOUT --json train.json
    python scripts/bench_train.py --only demo --base CHECKOUT

    short, long    a Llama of 20.45 million parameters, 8 x 512 and 1 x 8192 tokens, float32, AdamW:
                   ringvision on two CPU devices against Hugging Face's Llama by torch on the CPU, a thread a
                   core, with its fused attention and its fused AdamW
    demo           the step of configs/demo.py on two CPU devices, as `ringvision train demo --devices 2` runs
                   it, against that of another checkout, `--base`

Every contender is a process of its own (train_contenders.py) that sleeps while others run. Compiling and two
steps at the start are not timed. Torch and transformers may lie in an environment of their own, whose Python
`--python` names. Prints the machine, a Markdown table and one of claims; exits with 1 where a claim does not
hold.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from contender import Contender, alternate
from machine import machine

HERE = Path(__file__).resolve().parents[1]
STEPS = {"short": 2, "long": 1, "demo": 4}
"""Of a round."""
RIVALS = {"short": "transformers", "long": "transformers", "demo": "ringvision at --base"}
SPEED = {"short": 1.5, "long": 1.5, "demo": 1.4}
"""Times as many tokens a second as the rival."""
MEMORY = {"long": 0.5}
"""Of the rival's peak."""
MB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="WORK")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--python", default=sys.executable, help="the Python that has torch and transformers")
    parser.add_argument("--base", type=Path, help="another checkout, for demo")
    parser.add_argument("--json", type=Path, help="everything measured")
    options = parser.parse_args()
    if options.base is None:
        options.only = [work for work in options.only if work != "demo"]
    head = machine(("ringvision", "jax", "jaxlib"))
    results = {work: compare(work, options) for work in options.only}
    found = [claim for work, contenders in results.items() for claim in claims(work, contenders)]
    said = head | {name: v for pair in results.values() for c in pair for name, v in c.ready["ready"].items()}
    print(", ".join(f"{name} {value}" for name, value in said.items()))
    print(f"\nmedians of {options.rounds} rounds, a step\n")
    columns = ["", "", "tokens/s", "s", "fastest to slowest", "processor s", "peak, MB"]
    table(columns, [row(work, contender) for work, pair in results.items() for contender in pair])
    print()
    table(["claim", "found", "holds"], [[what, x, "yes" if ok else "**no**"] for what, x, ok in found])
    if options.json:
        rounds = {
            work: {c.name: c.ready | {"rounds": c.rounds} for c in pair} for work, pair in results.items()
        }
        options.json.write_text(
            json.dumps({"machine": head, "claims": found, "results": rounds}, indent=1) + "\n"
        )
    return 0 if all(ok for _, _, ok in found) else 1


def compare(work: str, options: argparse.Namespace) -> list[Contender]:
    """Both contenders of a work, after their rounds. SystemExit where one fails."""
    script = Path(__file__).with_name("train_contenders.py")
    ours = [sys.executable, script, "ringvision", work]
    contenders = [Contender("ringvision", ours, _from(HERE))]
    if work == "demo":
        contenders.append(Contender(RIVALS[work], ours, _from(options.base.resolve())))
    else:
        contenders.append(Contender(RIVALS[work], [options.python, script, "transformers", work]))
    alternate(contenders, options.rounds, lambda turn: STEPS[work] if turn else 2, f"{work}: ")
    return contenders


def _from(checkout: Path) -> dict[str, str]:
    """The environment of a process that imports ringvision from a checkout."""
    return {"PYTHONPATH": os.fspath(checkout)}


def row(work: str, contender: Contender) -> list[str]:
    """A line of the table."""
    seconds = contender.median("seconds")
    each = [answer["seconds"] for answer in contender.rounds]
    return [
        work,
        contender.name,
        f"{contender.ready['tokens'] / seconds:.0f}",
        f"{seconds:.3f}",
        f"{min(each):.3f} to {max(each):.3f}",
        f"{contender.median('processor'):.3f}",
        f"{contender.rounds[-1]['peak'] / MB:.0f}",
    ]


def claims(work: str, contenders: list[Contender]) -> list[tuple[str, str, bool]]:
    """What is claimed, what was found, whether it holds."""
    ours, rival = contenders
    against = f"{RIVALS[work]}"
    faster = rival.median("seconds") / ours.median("seconds")
    found = [(f"{work}: at least {SPEED[work]:g}x {against}", f"{faster:.2f}x", faster >= SPEED[work])]
    if work in MEMORY:
        share = ours.rounds[-1]["peak"] / rival.rounds[-1]["peak"]
        what = f"{work}: at most {MEMORY[work]:g} of the peak memory of {against}"
        found.append((what, f"{share:.2f}", share <= MEMORY[work]))
    return found


def table(head: list[str], rows: list[list[Any]]) -> None:
    for line in [head, ["---"] * len(head), *rows]:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    sys.exit(main())
