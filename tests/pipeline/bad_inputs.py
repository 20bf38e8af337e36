"""Build a folder of shards with everything that can be wrong with one, and say what must become of each sample."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

NFC_E, NFD_E = "\u00e9", "e\u0301"


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """One shard.

    `good` are the keys that can be read and decoded; `failed` maps keys to (stage, part of the reason); `damage` is a part of the
    reason why the shard, or its rest, cannot be read; `no_face` are the keys that are good pictures without a face.
    """

    name: str
    good: tuple[str, ...] = ()
    failed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    damage: str = ""
    no_face: tuple[str, ...] = ()
    suffix: str = ".tar"

    @property
    def file(self) -> str:
        return self.name + self.suffix


def tar_bytes(members: list[tuple[str, bytes]], *, tar_format: int = tarfile.GNU_FORMAT, closed: bool = True) -> bytes:
    """Make a tar as people make them: Python's own writer, members in the given order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        length = tar.offset
    return buffer.getvalue() if closed else buffer.getvalue()[:length]


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def sample(key: str, picture: bytes, ext: str = "jpg") -> list[tuple[str, bytes]]:
    return [(f"{key}.{ext}", picture), (f"{key}.json", json.dumps({"key": key}).encode())]


def build_bad_inputs(folder: Path, portrait: bytes) -> tuple[BadInput, ...]:
    """Write all shards; `portrait` is a JPEG of a face, used wherever a sample is meant to be good."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = [*_whole_tars(portrait), *_broken_tars(portrait), *_keys(portrait), *_members(portrait), *_pictures(portrait)]
    for case, data in cases:
        (folder / case.file).write_bytes(data)
    return tuple(case for case, _ in cases)


def _three(portrait: bytes) -> list[tuple[str, bytes]]:
    return [*sample("a", portrait), *sample("b", portrait), *sample("c", portrait)]


def _whole_tars(portrait: bytes) -> list[tuple[BadInput, bytes]]:
    whole = tar_bytes(_three(portrait))
    other = tar_bytes([*sample("d", portrait), *sample("e", portrait)])
    return [
        (BadInput(name="good", good=("a", "b", "c")), whole),
        (BadInput(name="compressed", good=("a", "b", "c"), suffix=".tar.gz"), gzip.compress(whole, mtime=0)),
        (BadInput(name="concatenated", good=("a", "b", "c", "d", "e")), whole + other),
        (BadInput(name="empty_archive", damage="without any file"), tar_bytes([])),
        (BadInput(name="empty_file", damage="the file is empty"), b""),
    ]


def _broken_tars(portrait: bytes) -> list[tuple[BadInput, bytes]]:
    members = _three(portrait)
    whole = tar_bytes(members)
    in_third_picture = len(tar_bytes(members[:4], closed=False)) + 512 + len(portrait) // 2
    after_third_picture = len(tar_bytes(members[:5], closed=False))
    second_header = len(tar_bytes(members[:2], closed=False))
    corrupt = bytearray(whole)
    corrupt[second_header + 148 : second_header + 156] = b"\xff" * 8
    page = b"<html><body>404 Not Found</body></html>"
    cut, boundary, header = "ends inside member", "ends without an end mark", "header is corrupt"
    return [
        (BadInput(name="truncated", good=("a", "b"), failed={"c": ("read", "cut short")}, damage=cut), whole[:in_third_picture]),
        (
            BadInput(name="cut_on_boundary", good=("a", "b"), failed={"c": ("read", "lack members")}, damage=boundary),
            whole[:after_third_picture],
        ),
        (BadInput(name="corrupt_header", failed={"a": ("read", "lack members")}, damage=header), bytes(corrupt)),
        (BadInput(name="not_a_tar", damage="not a tar archive"), b"I am a text file and no archive.\n" * 40),
        (BadInput(name="error_page", damage="not a tar archive"), page),
        (BadInput(name="picture_named_tar", damage="not a tar archive"), portrait),
        (BadInput(name="garbage_behind", good=("a", "b", "c"), damage="data behind the end"), whole + b"left over " * 100),
        (BadInput(name="cut_gzip", damage="gzip stream is cut", suffix=".tgz"), gzip.compress(whole, mtime=0)[:40]),
    ]


def _keys(portrait: bytes) -> list[tuple[BadInput, bytes]]:
    a, b = sample("a", portrait), sample("b", portrait)
    words = ("портрет/ключ", "日本の顔", f"caf{NFC_E}", f"caf{NFD_E}", "with space", "deep/er/x")
    named = [member for word in words for member in sample(word, portrait)]
    again = {"a": ("read", "comes again")}
    return [
        (BadInput(name="interleaved", good=("a", "b")), tar_bytes([a[0], b[0], a[1], b[1]])),
        (BadInput(name="duplicate_keys", good=("a", "b"), failed=again), tar_bytes([*a, *b, *a])),
        (BadInput(name="duplicate_member", good=("b",), failed={"a": ("read", "stored twice")}), tar_bytes([a[0], *a, *b])),
        (BadInput(name="non_ascii_gnu", good=words), tar_bytes(named)),
        (BadInput(name="non_ascii_pax", good=words), tar_bytes(named, tar_format=tarfile.PAX_FORMAT)),
        (
            BadInput(name="not_utf8", good=("b",), failed={r"caf\xe9": ("read", "not valid UTF-8")}),
            tar_bytes([*sample("caf\udce9", portrait), *b]),
        ),
        (
            BadInput(name="no_key", good=("b",), failed={"README": ("read", "no key"), ".hidden.jpg": ("read", "no key")}),
            tar_bytes([("README", b"read me"), (".hidden.jpg", portrait), *b]),
        ),
        (BadInput(name="long_names", good=("x" * 300, "b")), tar_bytes([*sample("x" * 300, portrait), *b])),
    ]


def _members(portrait: bytes) -> list[tuple[BadInput, bytes]]:
    b = sample("b", portrait)
    two = [("a.v1.jpg", portrait), ("a.v2.jpg", portrait), ("a.json", b"{}")]
    return [
        (BadInput(name="two_pictures", good=("b",), failed={"a": ("read", "share one key")}), tar_bytes([*two, *b])),
        (
            BadInput(name="no_picture", good=("b",), failed={"a": ("read", "holds no picture")}),
            tar_bytes([("a.json", b"{}"), ("a.txt", b"x"), *b]),
        ),
        (
            BadInput(name="links", good=("b",), failed={"s": ("read", "symbolic link"), "h": ("read", "hard link")}),
            _with_links(b, {"s.jpg": tarfile.SYMTYPE, "h.jpg": tarfile.LNKTYPE}),
        ),
    ]


def _with_links(members: list[tuple[str, bytes]], links: Mapping[str, bytes]) -> bytes:
    """Make a tar with a folder, the members, and links to the first of them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folder = tarfile.TarInfo("folder.d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, members[0][0]
            tar.addfile(info)
    return buffer.getvalue()


def _pictures(portrait: bytes) -> list[tuple[BadInput, bytes]]:
    image = Image.open(io.BytesIO(portrait)).convert("RGB")
    blank = Image.new("RGB", (200, 160), (90, 120, 150))
    bad: dict[str, tuple[str, bytes, str]] = {
        "cut": ("jpg", portrait[: len(portrait) // 2], "ends early"),
        "scrambled": ("jpg", b"\xff\xd8" + bytes(range(256)) * 8, "no picture that can be read"),
        "text": ("jpg", b"this is a text file\n", "no picture that can be read"),
        "nothing": ("jpg", b"", "empty"),
        "one": ("png", encoded(Image.new("RGB", (1, 1)), "PNG"), "1x1 pixels"),
        "moving": ("gif", _animation(), "2 frames"),
    }
    good: dict[str, tuple[str, bytes]] = {
        "cmyk": ("jpg", encoded(image.convert("CMYK"))),
        "grey": ("jpg", encoded(image.convert("L"))),
        "alpha": ("png", encoded(_with_alpha(image), "PNG")),
        "palette": ("png", encoded(image.quantize(64), "PNG")),
        "png_named_jpg": ("jpg", encoded(image, "PNG")),
        "upper": ("JPG", portrait),
    }
    failed = {key: ("decode", reason) for key, (_, _, reason) in bad.items()}
    members = [member for key, (ext, data, _) in bad.items() for member in sample(key, data, ext)]
    modes = [member for key, (ext, data) in good.items() for member in sample(key, data, ext)]
    return [
        (BadInput(name="bad_pictures", good=("b",), failed=failed), tar_bytes([*members, *sample("b", portrait)])),
        (BadInput(name="colour_modes", good=tuple(good)), tar_bytes(modes)),
        (BadInput(name="huge_picture", good=("huge",)), tar_bytes(sample("huge", _huge(image)))),
        (BadInput(name="no_face", good=("b",), no_face=("blank",)), tar_bytes([*sample("blank", encoded(blank)), *sample("b", portrait)])),
    ]


def _animation() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def _with_alpha(image: Image.Image) -> Image.Image:
    """Fade the borders out, so that the middle keeps the face."""
    opaque = Image.new("L", image.size, 0)
    width, height = image.size
    opaque.paste(255, (width // 16, height // 16, width - width // 16, height - height // 16))
    image = image.copy()
    image.putalpha(opaque)
    return image


def _huge(image: Image.Image) -> bytes:
    """Return an 8000x6000 JPEG with the portrait in its middle."""
    canvas = Image.new("RGB", (8000, 6000), (128, 128, 128))
    side = 6000
    canvas.paste(image.resize((side, side), Image.Resampling.BILINEAR), (1000, 0))
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=50)
    return buffer.getvalue()
