"""What the pages of suites share: plots, sheets of pictures under headings, and names of files."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.invert import to_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE, GAP = 128, 4
NAMES_WIDTH = 118
LINE = 16
LETTERS = 18
"""Letters that fit over a picture."""


def slug(name: str) -> str:
    """Return a name as a part of a file's."""
    return "_".join(re.findall(r"[a-z0-9]+", name.lower()))


def new_figure(width: float = 6.4, height: float = 4.2) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches with axes in the pages' style."""
    from matplotlib.figure import Figure  # imported here: it takes a second

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def plotted(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    """Return a picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def labelled_sheet(columns: Mapping[str, Tensor], names: Sequence[str]) -> bytes:
    """Return a PNG of pictures (N, 3, H, W) in columns under headings; `names` says what each row shows, at its left.

    A name that is that of the row above is written once; a column with fewer rows than names ends early.
    """
    headings = [textwrap.wrap(label.replace("_", " "), LETTERS) for label in columns]
    top = max(map(len, headings)) * LINE + 8
    left = NAMES_WIDTH if any(names) else 0
    canvas = Image.new("RGB", (left + len(columns) * (SIDE + GAP), top + len(names) * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), _font()
    for row, name in enumerate(names):
        lines = textwrap.wrap(name.replace("_", " "), LETTERS - 3) if name not in names[max(0, row - 1) : row] else []
        for line, text in enumerate(lines):
            draw.text((6, top + row * (SIDE + GAP) + SIDE // 2 + (line - len(lines) / 2) * LINE), text, fill="#4a453d", font=font)
    for place, (heading, pictures) in enumerate(zip(headings, columns.values(), strict=True)):
        x = left + place * (SIDE + GAP)
        for line, text in enumerate(heading):
            draw.text((x + SIDE / 2, top - (len(heading) - line) * LINE - 4), text, fill="#1f1d1a", font=font, anchor="ma")
        for row, pixels in enumerate(to_pixels(pictures[: len(names)])):
            picture = Image.fromarray(pixels)
            how = Image.Resampling.NEAREST if picture.width <= SIDE else Image.Resampling.LANCZOS
            canvas.paste(picture.resize((SIDE, SIDE), how), (x, top + row * (SIDE + GAP)))
    return png(canvas)


def _font() -> ImageFont.FreeTypeFont:
    """Return matplotlib's DejaVu, which has Greek letters and arrows, unlike Pillow's own."""
    import matplotlib  # imported here: it takes a while

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 12)
