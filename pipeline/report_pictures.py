"""Pictures for the report: a few members out of large shards, made small, and the overview sheet as one PNG."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Collection, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from pipeline.images import EXTENSIONS, Limits, decode_image
from pipeline.sample import SampleFailure
from pipeline.storage import Storage
from pipeline.tar_index import printable

EDGE = 160  # longest side of an embedded picture, in pixels
SHOWN = Limits(min_side=1, working_side=4 * EDGE)
CELL, GAP, MARGIN, LABEL = 128, 8, 28, 34  # the sheet, in pixels
PAPER, INK, MUTED, EMPTY = (250, 248, 244), (32, 30, 27), (112, 106, 97), (236, 231, 222)

Wanted = Mapping[str, Collection[str]]  # path of a tar -> names of members
Pictures = dict[tuple[str, str], Image.Image]


def read_pictures(storage: Storage, wanted: Wanted) -> Pictures:
    """Read members out of tars as small RGB images, one pass per tar that stops at the last wanted member.

    Members that are missing or are no picture are left out.
    """
    found: Pictures = {}
    for path in sorted(wanted):
        for name, data in read_members(storage, path, wanted[path]):
            picture = small_picture(data)
            if picture is not None:
                found[path, name] = picture
    return found


def read_members(storage: Storage, path: str, names: Collection[str]) -> list[tuple[str, bytes]]:
    """Read named members out of a tar, as far as they are there."""
    found: list[tuple[str, bytes]] = []
    missing = set(names)
    try:
        with storage.open_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = printable(member.name)
                if name in missing and (stream := tar.extractfile(member)) is not None:
                    found.append((name, stream.read()))
                    missing.discard(name)
                if not missing:
                    break
    except (FileNotFoundError, tarfile.TarError):
        pass  # what could not be read is shown as an empty cell
    return found


def read_originals(storage: Storage, path: str, names: Mapping[str, Collection[str]]) -> dict[str, Image.Image]:
    """Read, per wanted sample, the first picture that decodes from a quarantine tar; `names` maps it to the keys it may have there."""
    wanted = {key: sample for sample, keys in names.items() for key in keys}
    found: dict[str, Image.Image] = {}
    try:
        with storage.open_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                folder, slash, base = printable(member.name).rpartition("/")
                stem, _, extension = base.partition(".")
                sample = wanted.get(folder + slash + stem)
                if sample is None or sample in found or extension.lower().rsplit(".", 1)[-1] not in EXTENSIONS:
                    continue
                stream = tar.extractfile(member)
                picture = None if stream is None else small_picture(stream.read())
                if picture is not None:
                    found[sample] = picture
    except (FileNotFoundError, tarfile.TarError):
        pass  # a sample that cannot be shown is still counted and named
    return found


def small_picture(data: bytes) -> Image.Image | None:
    """Decode any picture and shrink it to EDGE; None when the bytes are no picture."""
    try:
        pixels = decode_image(data, SHOWN)
    except SampleFailure:
        return None
    picture = Image.fromarray(pixels)
    picture.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    return picture


class Embedder:
    """Turn pictures into data URIs until the page is full; from then on none is embedded, only counted in `left_out`."""

    def __init__(self, budget_bytes: int) -> None:
        self.left_bytes = budget_bytes
        self.left_out = 0
        self._uris: dict[int, tuple[Image.Image, str]] = {}  # by id; holding the picture keeps its id its own

    def uri(self, picture: Image.Image | None) -> str | None:
        """Return the picture as a data URI, None when there is none or no room is left."""
        if picture is None:
            return None
        if not self.left_out:
            uri = self._encoded(picture)
            if len(uri) <= self.left_bytes:
                self.left_bytes -= len(uri)
                return uri
        self.left_out += 1
        return None

    def _encoded(self, picture: Image.Image) -> str:
        if id(picture) not in self._uris:
            buffer = io.BytesIO()
            picture.save(buffer, format="WEBP", quality=88, method=4)
            self._uris[id(picture)] = (picture, "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode())
        return self._uris[id(picture)][1]


def draw_sheet(rows: Sequence[Sequence[Image.Image | None]], labels: Sequence[str]) -> bytes:
    """Draw one row per person and one column per label as a PNG; a missing picture leaves an empty cell."""
    width = 2 * MARGIN + len(labels) * (CELL + GAP) - GAP
    height = 2 * MARGIN + LABEL + len(rows) * (CELL + GAP) - GAP
    sheet = Image.new("RGB", (width, max(height, 2 * MARGIN + LABEL)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels):
        left = MARGIN + column * (CELL + GAP)
        font = _fitting_font(draw, label)
        draw.text((left + CELL / 2, MARGIN + LABEL / 2 - 6), label, font=font, fill=MUTED if column == 0 else INK, anchor="mm")
        for row, pictures in enumerate(rows):
            top = MARGIN + LABEL + row * (CELL + GAP)
            _paste(sheet, pictures[column], left, top)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _fitting_font(draw: ImageDraw.ImageDraw, label: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for size in (19, 17, 15, 13, 11):
        font = ImageFont.load_default(size)
        if draw.textlength(label, font=font) <= CELL + GAP - 4:
            break
    return font


def _paste(sheet: Image.Image, picture: Image.Image | None, left: int, top: int) -> None:
    mask = Image.new("L", (CELL * 4, CELL * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, CELL * 4 - 1, CELL * 4 - 1), radius=36, fill=255)
    mask = mask.resize((CELL, CELL), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (CELL, CELL), EMPTY) if picture is None else picture.resize((CELL, CELL), Image.Resampling.LANCZOS)
    sheet.paste(square, (left, top), mask)
