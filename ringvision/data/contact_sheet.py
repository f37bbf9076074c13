"""A contact sheet: rows of pictures, each under a line that names it, as a PNG or as an HTML page.

    [SheetRow(label, said, pictures), ...]  --write_sheet-->  sheet.png, or sheet.html with what is said

Names and texts come from anywhere, so nothing of them is taken as HTML, and what does not print is spelt out.
"""

import base64
import contextlib
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ringvision.errors import UserError

FRAMES_SHOWN = 12
TEXTS_SHOWN = 20
CHARACTERS_SHOWN = 500
GAP = 4
LABEL = 16
SUFFIXES = (".png", ".html", ".htm")
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ font: 14px sans-serif; margin: 1em }} pre {{ font-size: 12px }}
img {{ display: block; max-width: 100% }}
h2 {{ font-size: 14px; margin: 1em 0 0 }} p {{ margin: .2em 0 }}</style></head>
<body><pre>{report}</pre>
{rows}</body></html>
"""


@dataclass(frozen=True)
class SheetRow:
    """One row. label: a line above it. said: texts below it, on a page alone. pictures: uint8 [T, H, W, 3];
    none where T is 0.
    """

    label: str
    said: Sequence[str]
    pictures: np.ndarray


def sheet_path(out: str | os.PathLike[str]) -> Path:
    """Where a sheet goes. UserError where the name ends in neither .png nor .html."""
    path = Path(out)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{out} ends in {path.suffix or 'nothing'}; give a name that ends in .png or .html")
    return path


def write_sheet(path: Path, title: str, report: str, rows: Sequence[SheetRow]) -> None:
    """Write a sheet, which appears whole or not at all.

    Args:
        path: what `sheet_path` gave.
        title: of a page.
        report: text above the rows of a page.
        rows: what is shown.

    Raises:
        UserError: it cannot be written.
    """
    png = path.suffix.lower() == ".png"
    write_whole(path, png_bytes(_picture(rows)) if png else _page(title, report, rows))


def spread(count: int, wanted: int) -> set[int]:
    """Up to `wanted` of the numbers below count, evenly spread, the first and the last among them."""
    return {int(number) for number in np.linspace(0, count - 1, min(count, wanted)).round()}


def plain(text: str) -> str:
    """One printable ASCII line, whatever was in the text: terminals and Pillow's own font may show nothing
    else.
    """
    return "".join(
        letter if " " <= letter <= "~" else letter.encode("unicode_escape").decode() for letter in text
    )


def printable(text: str, keep: str = "") -> str:
    """The text with everything spelt out that does not print: surrogates, controls, marks that turn the
    direction of writing. keep: characters that stay although they do not print.
    """
    return "".join(letter if letter.isprintable() or letter in keep else plain(letter) for letter in text)


def escaped(text: str, keep: str = "") -> str:
    """HTML that shows the text, as `printable` gives it."""
    return html.escape(printable(text, keep))


def _strip(pictures: np.ndarray) -> np.ndarray:
    """Frames side by side, uint8 [H, T * W + gaps, 3]."""
    return np.concatenate(
        [np.pad(picture, ((0, 0), (0, GAP), (0, 0)), constant_values=255) for picture in pictures], 1
    )[:, :-GAP]


def _picture(rows: Sequence[SheetRow]) -> Image.Image:
    strips = [_strip(row.pictures) if len(row.pictures) else np.zeros((0, 0, 3), np.uint8) for row in rows]
    width = max((strip.shape[1] for strip in strips), default=0) or 320
    sheet = Image.new(
        "RGB", (width + 2 * GAP, max(sum(len(strip) + LABEL + GAP for strip in strips) + GAP, LABEL)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, strip in zip(rows, strips):
        draw.text((GAP, top), plain(row.label)[: width // 6], fill="black")
        if strip.size:
            sheet.paste(Image.fromarray(strip), (GAP, top + LABEL))
        top += LABEL + len(strip) + GAP
    return sheet


def _page(title: str, report: str, rows: Sequence[SheetRow]) -> bytes:
    written = []
    for row in rows:
        written.append(f"<h2>{escaped(row.label)}</h2>\n")
        if len(row.pictures):
            picture = base64.b64encode(png_bytes(Image.fromarray(_strip(row.pictures)))).decode()
            written.append(f'<img alt="frames decoded from codes" src="data:image/png;base64,{picture}">\n')
        written += [f"<p>{escaped(text[:CHARACTERS_SHOWN])}</p>\n" for text in row.said[:TEXTS_SHOWN] if text]
    return PAGE.format(
        title=escaped(title), report=escaped(report, keep="\n"), rows="".join(written)
    ).encode()


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as a file."""
    held = io.BytesIO()
    picture.save(held, "png")
    return held.getvalue()


def write_whole(path: Path, contents: bytes) -> None:
    """A file that appears whole or not at all. UserError where it cannot be written."""
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        unfinished.write_bytes(contents)
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); give a folder that can") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
