"""The contenders of bench_tokenize.py, each in a process of its own: videos in, codes and a line of JSON out.

    python scripts/tokenize_contenders.py ringvision VIDEO ... --out FOLDER
        tokenize_videos, codes in FOLDER
    python scripts/tokenize_contenders.py lwm VIDEO ... --out FOLDER
        the baseline (lwm_baseline.py), codes in FOLDER/codes.npz
    python scripts/tokenize_contenders.py vqgan --frames 3600
        the VQGAN alone, on frames that are generated before
    python scripts/tokenize_contenders.py codes FRAMES.npy --out FOLDER
        codes of these frames in FOLDER/codes.npy

`seconds` is what the work took after importing, loading and compiling; `ready` how long these took.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("who", choices=WAYS)
    parser.add_argument("inputs", nargs="*", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=64, help="frames handed over together")
    parser.add_argument("--network-batch", type=int, help="frames that go through the network at once")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--frames", type=int, default=0)
    options = parser.parse_args()
    tokenizer = _tokenizer(options)
    ready = time.perf_counter() - began
    work = WAYS[options.who](options, tokenizer)
    start = time.perf_counter()
    processor = time.process_time()
    frames = work()
    seconds = time.perf_counter() - start
    processor = time.process_time() - processor
    print(json.dumps({"frames": frames, "seconds": seconds, "processor_seconds": processor, "ready": ready}))


def _tokenizer(options: argparse.Namespace) -> Any:
    """The shipped one, compiled."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
    from ringvision import shipped
    from ringvision.video_tokenizer import BATCH, load_video_tokenizer

    batch = options.network_batch or (1 if options.who == "lwm" else BATCH)
    tokenizer = load_video_tokenizer(shipped.default_tokenizer(), batch=batch, devices=jax.local_devices())
    tokenizer.encode(np.zeros((batch * options.devices, tokenizer.size, tokenizer.size, 3), np.uint8))
    return tokenizer


def _ringvision(options: argparse.Namespace, tokenizer: Any) -> Any:
    from ringvision.tokenize import tokenize_videos

    return lambda: tokenize_videos(options.inputs, options.out, tokenizer, options.fps, batch=options.batch)[
        "frames"
    ]


def _lwm(options: argparse.Namespace, tokenizer: Any) -> Any:
    import decord  # noqa: F401 (imported before the clock starts)
    from lwm_baseline import codes_of

    def work() -> int:
        codes = {path.name: codes_of(path, options.fps, tokenizer) for path in options.inputs}
        options.out.mkdir(parents=True, exist_ok=True)
        np.savez(options.out / "codes.npz", **codes)
        return sum(map(len, codes.values()))

    return work


def _vqgan(options: argparse.Namespace, tokenizer: Any) -> Any:
    shape = (options.frames, tokenizer.size, tokenizer.size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return lambda: len(_encoded(frames, options.batch, tokenizer))


def _codes(options: argparse.Namespace, tokenizer: Any) -> Any:
    frames = np.load(options.inputs[0])

    def work() -> int:
        codes = _encoded(frames, options.batch, tokenizer)
        options.out.mkdir(parents=True, exist_ok=True)
        np.save(options.out / "codes.npy", codes)
        return len(codes)

    return work


def _encoded(frames: np.ndarray, batch: int, tokenizer: Any) -> np.ndarray:
    return np.concatenate(
        [tokenizer.encode(frames[start : start + batch]) for start in range(0, len(frames), batch)]
    )


WAYS = {"ringvision": _ringvision, "lwm": _lwm, "vqgan": _vqgan, "codes": _codes}

if __name__ == "__main__":
    main()
