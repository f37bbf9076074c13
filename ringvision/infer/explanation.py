"""What an answer attended to, to look at: a bar of heat over the time of the video and a strip of its frames,
as a picture or as one HTML page.

    Reply ─write_explanation→ out.png, or out.html, which holds its pictures and loads nothing

The frames are decoded from their codes: so the model saw them. Of a long video the most attended ones are
shown and as many spread evenly over it. Texts come from anywhere: nothing of them is taken as HTML, and what
does not print is spelt out.
"""

import base64
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ringvision.data.contact_sheet import escaped, plain, png_bytes, spread, write_whole
from ringvision.errors import UserError
from ringvision.infer.evidence import Evidence
from ringvision.infer.reply import Reply

HOTTEST = 12
"""Frames of a video that are shown because they were attended to most; as many are spread over it."""
IN_A_ROW = 12
THUMB = 76
GAP = 4
WIDTH = IN_A_ROW * (THUMB + GAP) + GAP
BAR = 36
LINE = 14
LINES = 8
"""Of a text on a picture, at most."""
COLD = np.array([246, 241, 232])
HOT = np.array([178, 24, 43])
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ font: 15px sans-serif; margin: 1.5em; max-width: {width}px }}
dt {{ color: #666; font-size: 13px }} dd {{ margin: 0 0 .6em; white-space: pre-wrap }}
.bar {{ display: block; width: 100%; height: {bar}px; image-rendering: pixelated }}
.ends {{ display: flex; justify-content: space-between; font-size: 12px; margin-bottom: .6em }}
figure {{ display: inline-block; margin: 0 4px 6px 0; text-align: center; font-size: 12px }}
figure img {{ display: block; width: {thumb}px; border: 3px solid {cold} }}
h2 {{ font-size: 14px; margin: 1em 0 .3em }}</style></head>
<body><dl>{facts}</dl>
{videos}</body></html>
"""


@dataclass(frozen=True)
class _Strip:
    """One video: its name, the numbers of its frames among all, those that are shown, and their pictures
    uint8 [n, H, W, 3], none where they cannot be decoded.
    """

    name: str
    frames: np.ndarray
    shown: np.ndarray
    pictures: np.ndarray


def write_explanation(path: Path, question: str, reply: Reply, videos: Sequence[str]) -> None:
    """Write what an answer attended to; the file appears whole or not at all.

    Args:
        path: what `contact_sheet.sheet_path` gave: it ends in .png, .html or .htm.
        question: that was asked.
        reply: its answer.
        videos: a name for each.

    Raises:
        UserError: the file cannot be written.
    """
    evidence = reply.evidence
    strips = [_strip(reply, number, name) for number, name in enumerate(videos)]
    facts = {
        "question": question,
        "answer": reply.text,
        "probability": f"{reply.probability:.3f}",
        "attended to": spans_in_words(evidence, videos),
    }
    if path.suffix.lower() == ".png":
        write_whole(path, png_bytes(_picture(facts, strips, evidence)))
    else:
        write_whole(path, _page(facts, strips, evidence))


def clock(seconds: float) -> str:
    """A time as clocks show it: 0:07, 1:02:05; tenths where it has some."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    last = f"{rest:02.0f}" if rest == int(rest) else f"{rest:04.1f}"
    return f"{hours}:{minutes:02d}:{last}" if hours else f"{minutes}:{last}"


def frames_to_show(weights: np.ndarray) -> np.ndarray:
    """float [n], of one video -> int [m], in their order: its HOTTEST most attended frames, and as many
    spread evenly over it.
    """
    hottest = np.argsort(-weights, kind="stable")[:HOTTEST]
    return np.array(sorted({*hottest.tolist(), *spread(len(weights), HOTTEST)}))


def _strip(reply: Reply, number: int, name: str) -> _Strip:
    frames = np.flatnonzero(reply.evidence.video == number)
    shown = frames[frames_to_show(reply.evidence.weights[frames])] if len(frames) else frames
    try:
        pictures = reply.viewing.pictures(shown.tolist()) if len(shown) else np.zeros((0, 1, 1, 3), np.uint8)
    except UserError:  # of a tokenizer without its decoder: the bar says what is known
        pictures = np.zeros((0, 1, 1, 3), np.uint8)
    return _Strip(name, frames, shown, pictures)


def spans_in_words(evidence: Evidence, videos: Sequence[str]) -> str:
    """The seconds that an answer attended to, as "0:03 to 0:05, 0:09 to 0:10"; videos: a name for each, which
    is said where there are several.
    """
    spans = [
        f"{clock(span.start)} to {clock(span.end)}" + (f" of {videos[span.video]}" if videos[1:] else "")
        for span in evidence.spans
    ]
    return ", ".join(spans) or "nothing in the video more than the question was"


def _heat(evidence: Evidence, frames: np.ndarray, width: int) -> np.ndarray:
    """The bar of one video, uint8 [1, width, 3]: each column has the colour of the heaviest frame that falls
    into it. The heaviest of all videos is HOT.
    """
    top = evidence.weights.max() or 1.0
    edges = np.arange(width + 1) * len(frames) / width
    first = np.floor(edges[:-1]).astype(int)
    last = np.maximum(np.ceil(edges[1:] - 1e-9).astype(int), first + 1)
    heaviest = np.array([evidence.weights[frames[a:b]].max() for a, b in zip(first, last)]) / top
    return _colours(heaviest)[None]


def _colours(heat: np.ndarray) -> np.ndarray:
    """float [n] from 0 to 1 -> uint8 [n, 3]. By the root of the weight, so that small ones can be seen."""
    return (COLD + (HOT - COLD) * np.sqrt(heat)[:, None]).round().astype(np.uint8)


def _borders(strip: _Strip, evidence: Evidence) -> list[tuple[int, int, int]]:
    colours = _colours(evidence.weights[strip.shown] / (evidence.weights.max() or 1.0))
    return [(int(red), int(green), int(blue)) for red, green, blue in colours]


def _labels(strip: _Strip, evidence: Evidence) -> list[str]:
    return [clock(evidence.start[frame]) for frame in strip.shown]


def _picture(facts: dict[str, str], strips: Sequence[_Strip], evidence: Evidence) -> Image.Image:
    columns = WIDTH // 6 - 2
    lines = [
        line
        for name, text in facts.items()
        for line in textwrap.wrap(
            f"{name}: {plain(text)}", columns, subsequent_indent="    ", max_lines=LINES, placeholder=" ..."
        )
    ]
    cell = THUMB + LINE + GAP
    heights = [LINE + BAR + LINE + GAP + -(-len(strip.pictures) // IN_A_ROW) * cell for strip in strips]
    sheet = Image.new("RGB", (WIDTH, 3 * GAP + len(lines) * LINE + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        draw.text((GAP, GAP + row * LINE), line, fill="black")
    top = 2 * GAP + len(lines) * LINE
    for strip, height in zip(strips, heights):
        _draw_strip(sheet, draw, top, strip, evidence)
        top += height
    return sheet


def _draw_strip(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int, strip: _Strip, evidence: Evidence
) -> None:
    """One video: its name, its bar, its ends, its frames."""
    draw.text((GAP, top), plain(strip.name), fill="black")
    top += LINE
    if not len(strip.frames):
        return
    width = WIDTH - 2 * GAP
    bar = np.repeat(_heat(evidence, strip.frames, width), BAR, axis=0)
    sheet.paste(Image.fromarray(bar), (GAP, top))
    draw.text((GAP, top + BAR), clock(evidence.start[strip.frames[0]]), fill="black")
    end = clock(evidence.end[strip.frames[-1]])
    draw.text((WIDTH - GAP - 6 * len(end), top + BAR), end, fill="black")
    top += BAR + LINE + GAP
    labelled = zip(strip.pictures, _labels(strip, evidence), _borders(strip, evidence))
    for number, (picture, label, colour) in enumerate(labelled):
        left = GAP + number % IN_A_ROW * (THUMB + GAP)
        at = top + number // IN_A_ROW * (THUMB + LINE + GAP)
        draw.rectangle((left, at, left + THUMB - 1, at + THUMB - 1), fill=colour)
        sheet.paste(Image.fromarray(picture).resize((THUMB - 6, THUMB - 6)), (left + 3, at + 3))
        draw.text((left + 3, at + THUMB), label, fill="black")


def _page(facts: dict[str, str], strips: Sequence[_Strip], evidence: Evidence) -> bytes:
    return PAGE.format(
        title=escaped(facts["question"]),
        facts="".join(
            f"<dt>{name}</dt><dd>{escaped(text, keep=chr(10))}</dd>" for name, text in facts.items()
        ),
        videos="".join(_section(strip, evidence) for strip in strips),
        width=WIDTH,
        bar=BAR,
        thumb=THUMB,
        cold="#{:02x}{:02x}{:02x}".format(*COLD),
    ).encode()


def _section(strip: _Strip, evidence: Evidence) -> str:
    """One video on a page."""
    written = [f"<h2>{escaped(strip.name)}</h2>\n"]
    if len(strip.frames):
        bar = _data_uri(_heat(evidence, strip.frames, WIDTH))
        ends = clock(evidence.start[strip.frames[0]]), clock(evidence.end[strip.frames[-1]])
        written.append(f'<img class="bar" alt="how much each second was attended to" src="{bar}">\n')
        written.append(f'<div class="ends"><span>{ends[0]}</span><span>{ends[1]}</span></div>\n')
    labelled = zip(strip.shown, strip.pictures, _labels(strip, evidence), _borders(strip, evidence))
    for frame, picture, label, colour in labelled:
        share = f"{100 * evidence.weights[frame]:.1f} %"
        border = "#{:02x}{:02x}{:02x}".format(*colour)
        written.append(
            f'<figure title="{share} of the weight"><img alt="the frame at {label}" '
            f'style="border-color: {border}" src="{_data_uri(picture)}">{label}</figure>\n'
        )
    return "".join(written)


def _data_uri(picture: np.ndarray) -> str:
    """uint8 [H, W, 3] -> what an <img> shows without loading anything."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(Image.fromarray(picture))).decode()
