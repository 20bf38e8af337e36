"""Decode any still picture to RGB uint8 (height, width, 3), upright, of a bounded size; say in a sentence why not. Fit it to a square."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.sample import SampleFailure

STAGE = "decode"
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
EXTENSIONS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm", "jp2"})

# `Limits.max_pixels` is checked from the header, before anything is decoded; Pillow's own warning would only repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

ImageHWC = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an input may cost before it is quarantined."""

    min_side: int = 16
    """Shortest side of a picture, in pixels."""
    max_megapixels: int = 150
    """Largest picture that is decoded at all, in millions of pixels."""
    working_side: int = 2048
    """Larger pictures are decoded to at most this many pixels on their longest side (0: never reduced)."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB colour, 0..255, that shows through transparent pixels."""
    member_mb: int = 256
    """Largest member of a sample, in MiB."""
    sample_mb: int = 1024
    """Largest sample, all members together, in MiB."""
    shard_gb: int = 64
    """Largest shard after decompression, in GiB."""


def decode_image(data: bytes, limits: Limits | None = None) -> ImageHWC:
    """Decode one picture.

    Orientation tags are applied, CMYK and grey become RGB, 16 bits become 8, transparent pixels show the background of
    the limits, and a picture above the working side is reduced while it is decoded. Colour profiles are not applied.

    Raises SampleFailure("decode", ...) for everything that is no whole, still picture within the limits.
    """
    limits = limits or Limits()
    with _opened(data, limits) as image:
        return _to_array(image, limits)


def fit_square(image_HWC: ImageHWC, size: int) -> ImageHWC:
    """Return the centred square of a picture at `size` x `size`, antialiased (Lanczos); a picture of that size comes back as it is."""
    height, width = image_HWC.shape[:2]
    if height == width == size:
        return image_HWC
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(image_HWC).crop((left, top, left + side, top + side))
    return np.array(square if side == size else square.resize((size, size), Image.Resampling.LANCZOS))


def check_header(data: bytes, limits: Limits | None = None) -> None:
    """Raise what `decode_image` would, as far as the header tells; `data` may be the beginning of a picture."""
    with _opened(data, limits or Limits()):
        return


@contextmanager
def _opened(data: bytes, limits: Limits) -> Iterator[Image.Image]:
    """Open a picture within the limits; whatever a decoder raises on it becomes a SampleFailure."""
    if not data:
        raise SampleFailure(STAGE, "the picture is empty: 0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, limits)
            yield image
    except UnidentifiedImageError:
        raise SampleFailure(STAGE, f"this is no picture that can be read: {_looks_like(data)}") from None
    except Image.DecompressionBombError as error:
        raise SampleFailure(STAGE, f"the picture is too large: {error}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, TypeError) as error:
        raise SampleFailure(STAGE, f"the picture is damaged or ends early ({len(data)} bytes): {error}") from error


def _check(image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    if min(width, height) < limits.min_side:
        raise SampleFailure(STAGE, f"the picture is {width}x{height} pixels: the shortest side must be {limits.min_side} or more")
    if width * height > limits.max_megapixels * 1_000_000:
        raise SampleFailure(STAGE, f"the picture claims {width}x{height} pixels: at most {limits.max_megapixels} million are decoded")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise SampleFailure(STAGE, f"the pixels are of type {image.mode} (32 bits), which has no agreed range: store 8 or 16 bits")
    # A phone's MPO file holds previews and depth maps behind the picture; the first frame is the picture.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise SampleFailure(STAGE, f"the picture has {frames} frames or pages: expected one still picture")


def _to_array(image: Image.Image, limits: Limits) -> ImageHWC:
    side = limits.working_side
    width, height = image.size
    ratio = min(1.0, side / max(width, height)) if side else 1.0
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    if ratio < 1.0:
        image.draft(None, size)  # JPEG: the decoder itself skips detail, by a power of two
    image = _eight_bits(_upright(image))
    if ratio < 1.0:
        turned = (image.width > image.height) != (width > height)
        image = image.resize(size[::-1] if turned else size, Image.Resampling.BOX, reducing_gap=2.0)
    return np.array(_flat(image, limits.background))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, struct.error, TypeError, KeyError):
        return image  # unreadable EXIF says nothing about orientation, and the pixels are fine


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture of mode RGB or RGBA."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.uint32).clip(0, 65535)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _flat(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode == "RGB":
        return image
    backdrop = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(backdrop, image).convert("RGB")


def _looks_like(data: bytes) -> str:
    head = data[:32]
    try:
        text = head.decode("ascii")
    except UnicodeDecodeError:
        return f"it begins with the bytes {head[:12].hex(' ')}"
    return f"it begins with the text {text!r}" if text.isprintable() or text.strip() else "it begins with blanks"
