"""The command line: `ringvision COMMAND …` -> one call of one of the floors below.

Answers go to stdout, with `--json` as one JSON object; everything else goes to stderr. Exit status: 0 done, 1
done in part (what failed is named), 2 the request was wrong (one line says why and what to do), 130
interrupted. Nothing heavy is imported before a command needs it.
"""

import argparse
import contextlib
import difflib
import hashlib
import importlib.util
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ringvision import shipped
from ringvision.arguments import LIMITS, make_parser
from ringvision.errors import UserError

DONE = 0
IN_PART = 1
WRONG = 2
INTERRUPTED = 130
TRAINING = {"train": "TrainConfig", "train-tokenizer": "TokenizerTrainConfig"}


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; -> the exit status. Mistakes of the user's become one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        _say(f"ringvision: {' '.join(str(error).split())}")
        return WRONG
    except MemoryError:
        _say(
            "ringvision: memory ran out; take fewer frames (--fps), a shorter video, or a "
            "machine with more memory"
        )
        return WRONG
    except KeyboardInterrupt:
        resumable = arguments[:1] and arguments[0] in (*TRAINING, "tokenize")
        _say(
            "ringvision: interrupted"
            + ("; the same command goes on from the last thing it saved" if resumable else "")
        )
        return INTERRUPTED
    except (
        BrokenPipeError
    ):  # whoever read our output has gone: nothing is left to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return IN_PART


def _run(arguments: list[str]) -> int:
    if arguments[:1] and arguments[0] in TRAINING and arguments[1:] in (["-h"], ["--help"], []):
        arguments = [arguments[0], "--explain"]  # --help after a config explains that config's options
    options, rest = make_parser().parse_known_args(arguments)
    if options.command in TRAINING:
        return _train(options, rest)
    if rest:
        known = [f"--{name.replace('_', '-')}" for name in vars(options)]
        close = difflib.get_close_matches(rest[0].partition("=")[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"see ringvision {options.command} --help"
        raise UserError(f"{options.command} takes no {' '.join(rest)}: {hint}")
    return COMMANDS[options.command, getattr(options, "what", None)](options)


# ----------------------------------------------------------------------------------------------- the commands


def _ask(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    mesh = _mesh(options)
    from ringvision.data.video import probe
    from ringvision.infer.assistant import load

    sampler = _sampler(options)
    for video in options.videos:
        probe(video)  # a file that is no video is refused before a model is loaded for it
    assistant = load(options.model, mesh=mesh, tokenizer=options.tokenizer, dtype=options.dtype)
    loaded = time.perf_counter() - started
    _say(f"model ready on {_devices(mesh)} after {loaded:.1f} s")
    settings = {
        "fps": options.fps,
        "sampler": sampler,
        "max_tokens": options.max_tokens,
        "progress": _progress(),
    }
    reply = assistant.ask(options.videos, options.question, **settings)
    read = time.perf_counter() - started - loaded
    _say(
        f"read {_count(reply.frames, 'frame')} at {options.fps:g} a second: "
        f"{_count(reply.video_tokens, 'token')} of video, {read:.1f} s"
    )
    for piece in reply:
        if not options.json:
            print(piece, end="", flush=True)
    seconds = {"load": loaded, **reply.timings, "total": time.perf_counter() - started}
    if options.json:
        answer = {
            "answer": reply.text,
            "tokens": reply.tokens,
            "frames": reply.frames,
            "video_tokens": reply.video_tokens,
        }
        _print_json({**answer, "devices": reply.devices, "seconds": seconds})
    else:
        print(flush=True)
        _say(", ".join(f"{name} {spent:.2f} s" for name, spent in seconds.items()))
    return DONE


def _tokenize(options: argparse.Namespace) -> int:
    _start_jax(options.devices)
    from ringvision.tokenize import tokenize_videos
    from ringvision.tokenize.display import Display, Lines

    names = (
        "fps",
        "size",
        "batch",
        "workers",
        "engine",
        "ray_address",
        "format",
        "shard_size",
        "limit",
        "decoder",
    )
    settings = {name: getattr(options, name) for name in names}
    settings |= {"part": options.shard, "retry_failed": options.retry == "failed", "limits": _limits(options)}
    with (
        Display(options.fps)
        if sys.stderr.isatty() and not options.json
        else contextlib.nullcontext(Lines()) as progress
    ):
        result = tokenize_videos(
            options.inputs, options.out, _tokenizer(options.tokenizer), progress=progress, **settings
        )
    if options.json:
        _print_json(result)
    else:
        print(
            ", ".join(f"{result[name]} {name}" for name in ("done", "failed", "pending", "frames"))
            + f", {result['seconds']:.1f} s"
        )
    return IN_PART if result["failed"] or result["pending"] else DONE


def _tokens_inspect(options: argparse.Namespace) -> int:
    _start_jax(None)
    from ringvision.tokenize.inspect import describe, inspect

    tokenizer = _tokenizer(options.tokenizer) if options.out else None
    report = inspect(options.folder, out=options.out, tokenizer=tokenizer, videos=options.videos)
    if options.json:
        _print_json(report)
    else:
        print(describe(report))
    return DONE


def _reconstruct(options: argparse.Namespace) -> int:
    _start_jax(None)
    from ringvision.evaluate.reconstruction import reconstruct

    result = reconstruct(options.video, options.out, tokenizer=_tokenizer(options.tokenizer), fps=options.fps)
    if options.json:
        _print_json(result)
    else:
        for name, value in _plain(result).items():
            print(f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")
    return DONE


def _train(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    _start_jax(options.devices)
    from ringvision.config import apply_overrides, load_config

    config = load_config(options.config)
    wanted = TRAINING[options.command]
    if type(config).__name__ != wanted:
        other = next(command for command, kind in TRAINING.items() if kind != wanted)
        raise UserError(
            f"{options.config} holds a {type(config).__name__}, expected a {wanted}; use "
            f"`ringvision {other} {options.config}`"
        )
    config = apply_overrides(config, overrides, prog=f"ringvision {options.command} {options.config}")
    if options.command == "train":
        from ringvision.train.loop import train

        train(config)
    else:
        from ringvision.train.tokenizer import train_tokenizer

        train_tokenizer(config)
    return DONE


def _evaluate_world(options: argparse.Namespace) -> int:
    mesh = _mesh(options)
    from ringvision.evaluate.world import evaluate_world
    from ringvision.infer.assistant import load

    assistant = load(options.model, mesh=mesh, dtype=options.dtype)
    result = evaluate_world(assistant, examples=options.examples, seed=options.seed, fps=options.fps)
    if options.json:
        _print_json(result)
        return DONE
    print(f"{'kind':20} {'accuracy':>8} {'chance':>8} {'blind':>8} {'examples':>8}")
    whole = {
        "accuracy": result["overall"],
        **{name: result.get(name, math.nan) for name in ("chance", "blind", "examples")},
    }
    for kind, score in [*result["kinds"].items(), ("overall", whole)]:
        print(
            f"{kind:20} {score['accuracy']:8.1%} {score['chance']:8.1%} {score['blind']:8.1%} "
            f"{score['examples']:8}"
        )
    return DONE


def _evaluate_tokenizer(options: argparse.Namespace) -> int:
    _start_jax(None)
    from ringvision.evaluate.tokenizer import evaluate_tokenizer
    from ringvision.tokenize.inputs import read_inputs
    from ringvision.video_tokenizer import load_video_tokenizer

    videos = [source.path for source in read_inputs(options.videos) if source.path]
    settings = {name: getattr(options, name) for name in ("fps", "limit", "out", "inception", "lpips")}
    progress = sys.stderr if sys.stderr.isatty() else None
    tokenizer = load_video_tokenizer(_tokenizer(options.tokenizer))
    result = evaluate_tokenizer(videos, tokenizer=tokenizer, progress=progress, **settings)
    for failure in result["failed"]:
        _say(f"{failure['source']}: {failure['kind']}: {failure['message']}")
    if options.json:
        _print_json(result)
    else:
        for name, value in _plain(result).items():
            if not isinstance(value, list) and value is not None:
                print(f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")
    return IN_PART if result["failed"] else DONE


def _demo(options: argparse.Namespace) -> int:
    _start_jax(options.devices)
    spec = importlib.util.spec_from_file_location("ringvision_demo", shipped.folder("demos") / "app.py")
    if spec is None or spec.loader is None:
        raise UserError("demos/app.py is not there; install ringvision again, or run from a checkout")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    app.main(options.port, options.model, open_browser=options.open)
    return DONE


def _doctor(options: argparse.Namespace) -> int:
    _start_jax(None)
    from ringvision.doctor import describe, examine

    report = examine()
    if options.json:
        _print_json(report)
    else:
        print(describe(report))
    return IN_PART if report["problems"] else DONE


def _chat(options: argparse.Namespace) -> int:
    mesh = _mesh(options)
    from ringvision.infer.chat import converse, load_chat

    sampler = _sampler(options)
    settings = {name: getattr(options, name) for name in ("system", "max_tokens", "dtype")}
    chat = load_chat(options.folder, mesh, sampler=sampler, **settings)
    _say(f"model ready on {_devices(mesh)}")
    converse(chat, sys.stdin, sys.stdout)
    return DONE


def _generate(options: argparse.Namespace) -> int:
    mesh = _mesh(options)
    from ringvision.infer.image_generation import Request, generate_images

    names = ("prompt", "frames", "guidance", "video_guidance", "candidates", "fps")
    request = Request(sampler=_sampler(options), **{name: getattr(options, name) for name in names})
    where = {name: getattr(options, name) for name in ("video", "model", "tokenizer", "dtype")}
    result = generate_images(options.out, request, mesh=mesh, progress=_progress(), **where)
    if options.json:
        _print_json(result)
    else:
        print(f"{options.out}: {_count(result['frames'], 'frame')}, {result['seconds']['total']:.1f} s")
    return DONE


def _import(options: argparse.Namespace) -> int:
    _start_jax(None)
    if options.add_vision:
        from ringvision.weights.grow import add_vision

        if options.tokenizer:
            raise UserError(
                "--tokenizer cannot go with --add-vision, which names the video tokenizer itself; "
                "leave it out"
            )
        if options.dry_run:
            raise UserError("--dry-run cannot go with --add-vision; try the import of the text model alone")
        settings = {name: getattr(options, name) for name in ("config", "dtype", "seed")}
        settings |= {"say": _say, "progress": _progress()}
        result = add_vision(options.source, _tokenizer(options.add_vision), options.dest, **settings)
        said = f"{result['dest']}: {result['rows']} rows, kind {result['kind']}"
    else:
        from ringvision.weights.importing import import_weights

        settings = {name: getattr(options, name) for name in ("config", "dtype", "dry_run")}
        settings["tokenizer"] = _tokenizer(options.tokenizer) if options.tokenizer else None
        result = import_weights(options.source, options.dest, say=_say, progress=_progress(), **settings)
        said = (
            f"{result['family']}: {result['tensors']} tensors, {result['parameters']:,} "
            f"parameters -> {result['dest'] or 'nowhere'}"
        )
    _print_json(result) if options.json else print(said)
    return DONE


def _export(options: argparse.Namespace) -> int:
    _start_jax(None)
    from ringvision.weights.exporting import export_weights

    result = export_weights(
        options.model, options.dest, options.format, dtype=options.dtype, progress=_progress()
    )
    _print_json(result) if options.json else print(
        f"{result['dest']}: {_count(result['tensors'], 'tensor')}, format {result['format']}"
    )
    return DONE


COMMANDS: dict[tuple[str, str | None], Callable[[argparse.Namespace], int]] = {
    ("ask", None): _ask,
    ("chat", None): _chat,
    ("generate", None): _generate,
    ("import", None): _import,
    ("export", None): _export,
    ("tokenize", None): _tokenize,
    ("tokens", "inspect"): _tokens_inspect,
    ("reconstruct", None): _reconstruct,
    ("evaluate", "world"): _evaluate_world,
    ("evaluate", "tokenizer"): _evaluate_tokenizer,
    ("demo", None): _demo,
    ("doctor", None): _doctor,
}


# ------------------------------------------------------------------------------------------------ the devices


def _start_jax(devices: int | None) -> None:
    """Set up jax before its first use: where compiled programs are kept, and on a CPU how many devices it
    makes of it.
    """
    import jax

    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", str(_cache_folder(jax.__version__)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if devices is None:
        return
    with contextlib.suppress(RuntimeError):  # jax has started already in this process: what it has must do
        jax.config.update("jax_num_cpu_devices", devices)
    there = jax.device_count()
    kind = jax.default_backend()
    if there < devices:
        raise UserError(
            f"{devices} devices were asked for, but there are {there} of kind {kind} here; ask "
            f"for {there} or fewer"
        )


def _mesh(options: argparse.Namespace) -> Any:
    """The mesh of --devices and --mesh: without --devices as many as --mesh names; without --mesh all on the
    ring.
    """
    import jax

    from ringvision.mesh import make_mesh, parse_mesh

    axes = parse_mesh(options.mesh) if options.mesh else {}
    devices = options.devices
    if devices is None and axes:
        devices = math.prod(axes.values())
    _start_jax(devices)
    return make_mesh(**axes, devices=jax.devices()[:devices])


def _cache_folder(version: str) -> Path:
    """Compiled programs fit one version of jax and one kind of processor: a folder for each, under the user's
    cache folder.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            kind = next((line for line in file if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        kind = platform.processor()
    return Path(
        home,
        "ringvision",
        f"jax-{version}-{platform.machine()}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}",
    )


def _devices(mesh: Any) -> str:
    size = mesh.size
    ring = mesh.shape["context"]
    kind = mesh.devices.flat[0].platform
    return f"{size} {kind} device{'s' * (size != 1)}" + (f", a ring of {ring}" if ring > 1 else "")


# ------------------------------------------------------------------------------------------------------ words


def _limits(options: argparse.Namespace) -> Any:
    """The limits of which some were given; None where none was."""
    given = {name: value for name in LIMITS if (value := getattr(options, name)) is not None}
    if not given:
        return None
    from ringvision.data.video import Limits

    return Limits(**given)


def _sampler(options: argparse.Namespace) -> Any:
    from ringvision.infer.sampler import Sampler

    return Sampler(
        temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, seed=options.seed
    )


def _tokenizer(name: str | None) -> Path:
    return shipped.tokenizer(name) if name else shipped.default_tokenizer()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _plain(value: Any) -> Any:
    """What JSON can hold: numpy's numbers and arrays as Python's; a number that JSON lacks (NaN) as null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _progress() -> Callable[[str, int, int], None] | None:
    """On a terminal, one line that is written over as frames and tokens are read; elsewhere nothing."""
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, of: int) -> None:
        print(
            f"\r\x1b[K{f'{what}: {done} of {of}' if done < of else ''}", end="", file=sys.stderr, flush=True
        )

    return show


def _print_json(value: Any) -> None:
    print(json.dumps(_plain(value), ensure_ascii=False), flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
