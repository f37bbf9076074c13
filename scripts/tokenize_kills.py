"""The part --kills of bench_tokenize.py: a library that is tokenized undisturbed, killed and resumed, and on
Ray; whether all three are the same.
"""

import argparse
import json
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from damaged_library import DAMAGES, make_library
from tokenize_report import Part, finished, say, table, tokenize
from watched import left

GRACE = 3.0
LATER = 0.5
"""Seconds after the last run in which processes may still end, and seconds by which a kill may be late."""


def kills(options: argparse.Namespace, cache: Path, scratch: Path) -> Part:
    part = Part(f"{options.videos} videos, {options.kill_count} kills")
    videos = cache / f"library-{options.videos}"
    library = make_library(videos, options.videos)
    say(f"{part.title}: undisturbed")
    settings = ["--fps", "2", "--shard-size", "20"]
    whole = tokenize(videos, scratch / "whole", *settings)
    whole.watch(until=(scratch / "whole" / "manifest.sqlite").exists)
    start = whole.seconds
    whole.watch()
    counts = json.loads(finished(whole, 1))
    killed = _killed(options, videos, scratch / "killed", settings, start, part)
    say(f"{part.title}: on Ray")
    ray = tokenize(videos, scratch / "ray", *settings, "--engine", "ray")
    ray.watch()
    finished(ray, 1)
    time.sleep(GRACE)
    remain = [line for mark in (whole.mark, *killed, ray.mark) for line in left(mark)]
    part.figures |= {
        "undisturbed_seconds": whole.seconds,
        "ray_seconds": ray.seconds,
        "counts": counts,
        "left": remain,
    }
    _compare(part, library, scratch)
    part.claim("no process left behind", f"{len(remain)}, {GRACE:g} s after the last run", not remain)
    return part


def _killed(
    options: argparse.Namespace, videos: Path, out: Path, settings: list[str], start: float, part: Part
) -> list[str]:
    """Runs that are killed at random moments, then one that is not; returns the marks of all. Every fifth
    kill falls into the `start` seconds that a run takes before it works, and all do once a run ended before
    its kill; the others come when so many inputs are settled, at most LATER seconds after that.
    """
    random = np.random.default_rng(options.seed)
    targets = np.sort(random.integers(0, round(0.95 * options.videos), options.kill_count)).tolist()
    marks = []
    killed = []
    early = False
    while len(killed) < options.kill_count and len(marks) < 2 * options.kill_count:
        target = targets[len(killed)]
        soon = early or len(killed) % 5 == 4
        run = tokenize(videos, out, *settings, every=0.02)
        marks.append(run.mark)
        if not soon:
            run.watch(until=lambda run=run, target=target: run.seconds > start and _settled(out) >= target)
        moment = run.seconds + random.uniform(0, start if soon else LATER)
        if run.watch(until=lambda run=run, moment=moment: run.seconds >= moment):
            run.kill()
            killed.append({"after": round(run.seconds, 2), "settled": _settled(out)})
            say(
                f"{part.title}: kill {len(killed)} after {run.seconds:.1f} s, {killed[-1]['settled']} settled"
            )
        else:
            early = True
    run = tokenize(videos, out, *settings)
    run.watch()
    finished(run, 1)
    part.claim("SIGKILLs while it ran", str(len(killed)), len(killed) == options.kill_count)
    rows = [[number + 1, kill["after"], kill["settled"]] for number, kill in enumerate(killed)]
    part.text.append(table(["kill", "s after the start", "inputs settled so far"], rows))
    part.figures["killed"] = killed
    return [*marks, run.mark]


def _settled(out: Path) -> int:
    """Rows that are done or failed, and records that wait for their shard; read from a copy."""
    with tempfile.TemporaryDirectory() as aside:
        for path in out.glob("manifest.sqlite*"):
            with suppress(FileNotFoundError):  # a journal whose transaction is over
                shutil.copy(path, aside)
        waiting = len(list((out / ".work").glob("*.record")))
        try:
            with closing(sqlite3.connect(Path(aside) / "manifest.sqlite")) as database:
                return (
                    waiting
                    + database.execute("SELECT count(*) FROM videos WHERE status != 'pending'").fetchone()[0]
                )
        except sqlite3.DatabaseError:  # killed before there was a table
            return waiting


def _rows(out: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(out / "manifest.sqlite")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM videos ORDER BY number")]


def _files(out: Path) -> dict[str, bytes]:
    """Everything visible but the manifest."""
    paths = sorted(
        path
        for path in out.rglob("*")
        if path.is_file() and not path.relative_to(out).parts[0].startswith(".")
    )
    return {str(path.relative_to(out)): path.read_bytes() for path in paths if path.name != "manifest.sqlite"}


def _compare(part: Part, library: dict[str, str], scratch: Path) -> None:
    from ringvision.data.video.info import KINDS

    whole = _rows(scratch / "whole")
    files = _files(scratch / "whole")
    outcomes = {Path(row["source"]).name: row["kind"] or row["status"] for row in whole}
    kinds = Counter((damage or "whole", outcomes.get(name, "no row")) for name, damage in library.items())
    columns = sorted({outcome for _, outcome in kinds}, key=lambda outcome: (outcome != "done", outcome))
    rows = [
        [damage, *(kinds[damage, outcome] or "" for outcome in columns)] for damage in ("whole", *DAMAGES)
    ]
    part.text.append(table(["damage", *columns], rows))
    part.claim(
        "manifest rows = inputs", f"{len(whole)} of {len(library)}", sorted(outcomes) == sorted(library)
    )
    nameless = [
        row for row in whole if row["status"] == "failed" and not (row["kind"] in KINDS and row["message"])
    ]
    failures = sum(row["status"] == "failed" for row in whole)
    part.claim(
        "every failure has its kind",
        f"{failures - len(nameless)} of {failures}",
        failures > 0 and not nameless,
    )
    part.claim(
        "nothing pending",
        str(Counter(row["status"] for row in whole)["pending"]),
        all(row["status"] != "pending" for row in whole),
    )
    unread = [name for name, damage in library.items() if not damage and outcomes.get(name) != "done"]
    part.claim(
        "every whole video is read", f"{len(unread)} are not {', '.join(unread[:3])}".strip(), not unread
    )
    passed = [
        name
        for name, damage in library.items()
        if damage in ("empty", "text", "8192x8192") and outcomes.get(name) == "done"
    ]
    part.claim(
        "empty files, texts and bombs fail",
        f"{len(passed)} do not {', '.join(passed[:3])}".strip(),
        not passed,
    )
    part.figures["kinds"] = [[*key, count] for key, count in sorted(kinds.items())]
    for name, what in (("killed", "killed and resumed"), ("ray", "Ray")):
        _compare_copy(part, library, whole, files, scratch, (name, what))


def _compare_copy(
    part: Part,
    library: dict[str, str],
    whole: list[dict[str, Any]],
    files: dict[str, bytes],
    scratch: Path,
    copy: tuple[str, str],
) -> None:
    """Whether a folder has the files and the rows of the one that was made undisturbed."""
    name, what = copy
    shards = sum(".array_record-" in path for path in files)
    other = _files(scratch / name)
    differing = sorted(path for path in files | other if files.get(path) != other.get(path))
    found = (
        f"{len(files)} files, {shards} of them shards, {sum(map(len, files.values()))} bytes; "
        f"{len(differing)} differ"
    )
    changed = _differing(scratch / "whole", scratch / name)
    found += "".join(f", {path} ({library[path] or 'whole'})" for path in changed)
    part.claim(f"{what}: byte-identical", found, shards > 0 and not differing)
    part.figures[f"{name}_differs"] = {path: library[path] for path in changed}
    rows = [{key: value for key, value in row.items() if key != "attempts"} for row in _rows(scratch / name)]
    here = [{key: value for key, value in row.items() if key != "attempts"} for row in whole]
    part.claim(
        f"{what}: the same rows but for attempts",
        f"{sum(a != b for a, b in zip(here, rows))} differ",
        here == rows,
    )


def _differing(one: Path, other: Path) -> list[str]:
    """The videos whose records are not the same in two folders."""
    from ringvision.tokenize import read_examples

    codes = [
        {Path(example.source).name: example.codes for example in read_examples(folder)}
        for folder in (one, other)
    ]
    names = sorted(codes[0] | codes[1])
    return [name for name in names if not np.array_equal(*(held.get(name, np.zeros(0)) for held in codes))]
