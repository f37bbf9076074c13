"""lmms-eval's own command on a small task of shipped clips, with our plug-in, in an environment of its own.

    python scripts/lmms_eval_task.py --install       # lmms-eval, torch and ringvision into .lmms-eval/ (3 GB)
    python scripts/lmms_eval_task.py [--model DIR]   # runs the task there; one JSON object on stdout

The task is local: its questions and answers are those of demos/clips/clips.json, and one about a picture.
Nothing is downloaded while it runs. Exit status 3 where something cannot be installed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIPS = ROOT / "demos" / "clips"
ASKED = ("needle.mp4", "change.mp4")
PLACE = ROOT / ".lmms-eval"
VERSION = "0.7.3"
TORCH = ("torch==2.13.0+cpu", "torch")
"""What is tried, in this order: the first is only there where a wheel for CPUs is at hand."""
WITH = ("filelock<3.21", "sentencepiece<0.2.2")
"""lmms-eval uses a module that later filelocks have not, and, through wandb, a protobuf that is too old for
later sentencepieces.
"""
OPEN = "ringvision_clips"
CHOICE = "ringvision_choice"
FUNCTIONS = """
from PIL import Image

def visuals(document):
    return [path if "/" in path else Image.new("RGB", (97, 64), path) for path in document["visuals"]]

def text(document):
    return document["question"]

def score(document, results):
    return {"exact": float(results[0].strip().lower() == document["answer"])}
"""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_visual: !function clips.visuals
doc_to_text: !function clips.text
doc_to_target: answer
"""
GENERATE = """
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  do_sample: false
process_results: !function clips.score
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
"""
CHOOSE = """
doc_to_choice: choices
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def install(place: Path) -> None:
    """lmms-eval and this package into a virtual environment. Status 3 where they cannot be had."""

    def pip(*words: str) -> int:
        command = [place / "bin" / "python", "-m", "pip", *words, "--quiet", "--disable-pip-version-check"]
        return subprocess.run(command, stdout=sys.stderr).returncode

    subprocess.run([sys.executable, "-m", "venv", place], check=True, stdout=sys.stderr)
    # in one command, or torchvision, which lmms-eval wants, would bring another torch
    rest = (f"lmms_eval=={VERSION}", *WITH, str(ROOT))
    if not any(pip("install", torch, *rest) == 0 for torch in TORCH):
        raise SystemExit(3)
    # a torchvision for other devices than torch's cannot be imported, and transformers would import it
    check = subprocess.run([place / "bin" / "python", "-c", "import torchvision"], capture_output=True)
    if check.returncode:
        pip("uninstall", "--yes", "torchvision")


def write_tasks(folder: Path) -> None:
    """The task of open questions and the one of choices, as lmms-eval reads them."""
    asked = json.loads((CLIPS / "clips.json").read_text())
    documents = [
        {"visuals": [str(CLIPS / clip)], "question": question, "answer": answer}
        for clip in ASKED
        for question, answer in asked[clip]["ask"].items()
    ]
    digits = [str(digit) for digit in range(10)]
    chosen = [
        {**document, "choices": digits, "answer": digits.index(document["answer"])}
        for document in documents
        if document["answer"] in digits
    ]
    documents.append({"visuals": ["red"], "question": "What was there at 0 seconds?", "answer": "?"})
    (folder / "clips.py").write_text(FUNCTIONS)
    for name, rows, kind, rest in (
        (OPEN, documents, "generate_until", GENERATE),
        (CHOICE, chosen, "multiple_choice", CHOOSE),
    ):
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind=kind) + rest)


def run(place: Path, model: str) -> dict[str, object]:
    """Runs both tasks; -> scores, how many documents, and the seconds it took."""
    with tempfile.TemporaryDirectory(prefix="ringvision-lmms-eval-") as name:
        folder = Path(name)
        write_tasks(folder)
        command = [
            place / "bin" / "python", "-m", "lmms_eval", "--model", "ringvision",
            "--model_args", f"pretrained={model},fps=1", "--tasks", f"{OPEN},{CHOICE}",
            "--include_path", folder, "--batch_size", "1", "--output_path", folder / "out", "--log_samples",
        ]  # fmt: skip
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=folder, env=os.environ | offline)
        seconds = time.monotonic() - began
        (results,) = (folder / "out").rglob("*results.json")
        found = json.loads(results.read_text())
        samples = {
            task: sum(
                len(path.read_text().splitlines()) for path in (folder / "out").rglob(f"*{task}*.jsonl")
            )
            for task in (OPEN, CHOICE)
        }
        return {
            "lmms_eval": VERSION,
            "seconds": round(seconds, 1),
            "exact": found["results"][OPEN]["exact,none"],
            "accuracy": found["results"][CHOICE]["acc,none"],
            "documents": samples,
        }


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=PLACE, help="the environment")
    parser.add_argument("--install", action="store_true", help="make it")
    parser.add_argument("--model", default=str(ROOT / "demos" / "model"), help="a model folder")
    given = parser.parse_args()
    if given.install:
        install(given.venv)
    else:
        print(json.dumps(run(given.venv, given.model)))


if __name__ == "__main__":
    main()
