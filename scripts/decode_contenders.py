"""The contenders of bench_decode.py, each in a process of its own that sleeps while the others run.

    python scripts/decode_contenders.py ringvision FOLDER --devices 1
        a model folder of ours, on a ring of so many CPU devices
    python scripts/decode_contenders.py transformers FOLDER
        a Hugging Face folder, by torch

In, on stdin: a line of JSON `{"prompt": ids, "tokens": n}` each time. Out, on stdout: a line `{"ready":
versions}` first, then for each request `{"prefill": seconds, "decode": seconds, "processor": seconds,
"tokens": ids}`: greedy, float32, never stopped; prefill until the first token is known, decode for the n - 1
after it. All cores are used by each.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Run = Callable[[list[int], int], tuple[float, float, list[int]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("who", choices=CONTENDERS)
    parser.add_argument("folder")
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    run = CONTENDERS[options.who](options)
    versions = {name: importlib.metadata.version(name) for name in NEEDS[options.who]}
    print(json.dumps({"ready": versions}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        processor = time.process_time()
        prefill, decode, tokens = run(request["prompt"], request["tokens"])
        result = {
            "prefill": prefill,
            "decode": decode,
            "processor": time.process_time() - processor,
            "tokens": tokens,
        }
        print(json.dumps(result), flush=True)


def _ringvision(options: argparse.Namespace) -> Run:
    import jax
    import numpy as np

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
    from ringvision.infer.decode_batch import DecodeBatch
    from ringvision.infer.engine import Engine
    from ringvision.infer.model import load_model
    from ringvision.infer.sampler import Sampler
    from ringvision.mesh import make_mesh

    engine = Engine(load_model(options.folder, make_mesh(context=options.devices)))

    def run(prompt: list[int], count: int) -> tuple[float, float, list[int]]:
        slots = engine.slots_for(len(prompt), generate=count)
        batch = DecodeBatch(engine, 1, max(slots, 1024))
        batch.cache.k.block_until_ready()
        began = time.perf_counter()
        batch.read({0: np.array(prompt, np.int32)})
        batch.sample(0, Sampler())
        coming = batch.decode(0, count)
        tokens = [next(coming)]
        first = time.perf_counter()
        tokens += coming
        return first - began, time.perf_counter() - first, tokens

    return run


def _transformers(options: argparse.Namespace) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model: Any = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def run(prompt: list[int], count: int) -> tuple[float, float, list[int]]:
        began = time.perf_counter()
        out = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        tokens = [int(out.logits[0, -1].argmax())]
        first = time.perf_counter()
        while len(tokens) < count:
            out = model(torch.tensor([tokens[-1:]]), past_key_values=out.past_key_values, use_cache=True)
            tokens.append(int(out.logits[0, -1].argmax()))
        return first - began, time.perf_counter() - first, tokens

    return run


CONTENDERS: dict[str, Callable[[argparse.Namespace], Run]] = {
    "ringvision": _ringvision,
    "transformers": _transformers,
}
NEEDS = {"ringvision": ("jax", "jaxlib", "flax"), "transformers": ("torch", "transformers")}

if __name__ == "__main__":
    main()
