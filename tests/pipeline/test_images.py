"""Decoding pictures: every mode becomes the RGB that a person sees, and every refusal is a sentence."""

import io
import resource
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.images import Limits, decode_image, fit_square
from pipeline.sample import SampleFailure


def scene() -> Image.Image:
    """A smooth picture, 80 wide and 48 high, red growing to the right and green downwards."""
    y, x = np.mgrid[0:48, 0:80]
    return Image.fromarray(np.stack([x * 3, y * 5, np.full_like(x, 60)], axis=-1).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(SampleFailure) as caught:
        decode_image(data, limits)
    assert caught.value.stage == "decode"
    return caught.value.reason


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("BMP", 0), ("PPM", 0), ("TIFF", 0), ("JPEG", 12), ("WEBP", 24)])
def test_formats(kind: str, tolerance: int) -> None:
    decoded = decode_image(saved(scene(), kind))
    assert decoded.dtype == np.uint8 and decoded.shape == (48, 80, 3) and decoded.flags.writeable
    assert np.abs(decoded.astype(int) - np.asarray(scene())).max() <= tolerance


@pytest.mark.parametrize(
    ("mode", "kind", "tolerance"), [("CMYK", "JPEG", 14), ("CMYK", "TIFF", 2), ("YCbCr", "JPEG", 12), ("LAB", "TIFF", 32)]
)
def test_colour_modes(mode: str, kind: str, tolerance: int) -> None:
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(scene(), ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
        assert image is not None
    else:
        image = scene().convert(mode)
    assert np.abs(decode_image(saved(image, kind)).astype(int) - np.asarray(scene())).max() <= tolerance


def test_grey_and_black_and_white() -> None:
    grey = scene().convert("L")
    expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    assert np.array_equal(decode_image(saved(grey, "PNG")), expected)
    lines = grey.point(lambda value: 255 * (value > 100)).convert("1")
    assert np.array_equal(decode_image(saved(lines, "PNG")), np.asarray(lines.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_brightness(kind: str) -> None:
    wide = np.linspace(0, 65535, 80 * 48).reshape(48, 80).astype(np.uint16)
    decoded = decode_image(saved(Image.fromarray(wide), kind))
    assert np.array_equal(decoded[:, :, 0], np.round(wide / 257.0).astype(np.uint8))


def test_transparent_pixels_show_the_background() -> None:
    image = scene().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 40, 48))
    decoded = decode_image(saved(image, "PNG"), Limits(background=(10, 200, 30)))
    assert (decoded[:, :40] == (10, 200, 30)).all()
    assert np.array_equal(decoded[:, 40:], np.asarray(scene())[:, 40:])
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert (decode_image(saved(palette, "PNG", transparency=1)) == 255).all()
    grey = Image.new("LA", (20, 20), (0, 128))
    assert (decode_image(saved(grey, "PNG")) == 127).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("working_side", [2048, 40])
def test_orientation_is_applied(orientation: int, working_side: int) -> None:
    turns = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # from upright to stored: PIL's transpose numbers
    turn = turns[orientation]
    stored = scene() if turn is None else scene().transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(saved(stored, "JPEG", exif=exif, quality=95), Limits(working_side=working_side))
    expected = np.asarray(scene().resize((40, 24), Image.Resampling.BOX) if working_side == 40 else scene())
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_costs_nothing() -> None:
    assert decode_image(saved(scene(), "JPEG", exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\xff" * 3)).shape == (48, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_huge_pictures_are_reduced_in_bounded_memory(kind: str) -> None:
    data = saved(scene().resize((8000, 6000)), kind, **({"compress_level": 1} if kind == "PNG" else {}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    decoded = decode_image(data)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert decoded.shape == (1536, 2048, 3)
    expected = np.asarray(scene().resize((2048, 1536)))
    assert np.abs(decoded.astype(int) - expected).mean() < 6
    assert grown_mb < 700


def test_small_pictures_are_refused() -> None:
    assert "1x1 pixels: the shortest side must be 16" in refusal(saved(Image.new("RGB", (1, 1)), "PNG"))
    assert "300x15" in refusal(saved(Image.new("RGB", (300, 15)), "PNG"))


def test_a_bomb_is_refused_by_its_header() -> None:
    header = b"\x89PNG\r\n\x1a\n"
    fields = b"IHDR" + (60000).to_bytes(4) + (60000).to_bytes(4) + bytes([8, 2, 0, 0, 0])
    bomb = header + (13).to_bytes(4) + fields + zlib.crc32(fields).to_bytes(4)
    data = b"IDAT" + zlib.compress(bytes(1000))
    bomb += (len(data) - 4).to_bytes(4) + data + zlib.crc32(data).to_bytes(4)
    assert "too large" in refusal(bomb)
    assert "claims 80x48 pixels: at most 0 million" in refusal(saved(scene(), "PNG"), Limits(max_megapixels=0))


def test_what_is_no_picture_is_told() -> None:
    assert "begins with the text 'hello, I am no picture'" in refusal(b"hello, I am no picture")
    assert "begins with the bytes 00 01 ff" in refusal(b"\x00\x01\xff" * 20)
    assert "0 bytes" in refusal(b"")
    assert "no picture" in refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_cut_pictures_are_refused(kind: str) -> None:
    """Law: a picture cut in its second half is never taken for whole."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, kind)
    for part in (0.3, 0.5, 0.8, 0.95):
        assert refusal(data[: int(len(data) * part)])


def test_moving_pictures_are_refused_but_phone_pictures_are_not() -> None:
    frames = [scene(), scene().rotate(180)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        assert "2 frames" in refusal(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
    phone = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(decode_image(phone).astype(int) - np.asarray(scene())).max() <= 12


def test_float_pictures_are_refused() -> None:
    assert "no agreed range" in refusal(saved(Image.new("F", (32, 32), 0.5), "TIFF"))


def test_decoding_never_raises_anything_else() -> None:
    """Law: scribble over a picture, and the outcome is a picture or a SampleFailure."""
    random = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"):
        whole = saved(scene(), kind)
        for _ in range(60):
            data = bytearray(whole)
            for place in random.integers(0, len(data), 4):
                data[place] = random.integers(0, 256)
            try:
                assert decode_image(bytes(data), Limits(max_megapixels=4)).shape[2] == 3
            except SampleFailure as failure:
                assert failure.reason


def test_the_square_is_centred_antialiased_and_enlarged_where_it_is_small() -> None:
    wide = np.asarray(scene())
    assert np.array_equal(fit_square(wide, 48), wide[:, 16:64]) and np.array_equal(fit_square(wide[:, :47], 47), wide[:47, :47])
    high = fit_square(wide.transpose(1, 0, 2).copy(), 24)
    assert high.shape == (24, 24, 3) and high.dtype == np.uint8
    rows = np.arange(16, 64).reshape(24, 2).mean(1) * 3  # red grows downwards here
    assert np.abs(high[2:-2, :, 0] - rows[2:-2, None]).max() <= 1.5
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (64, 32, 3))
    assert np.abs(fit_square(stripes, 16).astype(int) - 127.5).max() < 20, "every second column would be all black or all white"
    large = fit_square(wide, 96)
    assert large.shape == (96, 96, 3) and np.abs(large[48, 4:-4, 0] - (16 + (np.arange(4, 92) + 0.5) / 2 - 0.5) * 3).max() <= 2
