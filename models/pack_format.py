"""The file `pack.yaml` of a pack, its hashes, and how a pack gets here from a URL."""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import fsspec
import yaml

FORMAT = 1
INDEX = "pack.yaml"
CACHE_VARIABLE = "HYPEREDIT_CACHE"
HEADER = ("name", "domain", "size", "licence")

# kind in pack.yaml -> the class whose from_config builds it. Imported when used: a job that only needs CLIP loads only CLIP.
KINDS: Mapping[str, str] = {
    "stylegan2": "models.stylegan2:Generator",
    "stylegan2_discriminator": "models.discriminator:Discriminator",
    "e4e": "models.encoders:Encoder4Editing",
    "w_encoder": "models.encoders:WEncoder",
    "psp": "models.encoders:PspEncoder",
    "restyle": "models.restyle:ReStyleEncoder",
    "restyle_resnet": "models.restyle:ReStyleResNetEncoder",
    "hyperstyle": "models.hyperstyle:HyperStyle",
    "hypereditor": "models.hypereditor:HyperEditor",
    "clip": "models.clip:ClipModel",
    "identity": "models.perception:IdentityNet",
    "attributes": "models.perception:AttributeNet",
    "landmarks": "models.perception:LandmarkNet",
    "parser": "models.parser:FaceParser",
    "arcface": "models.official_perception:ArcFace",
    "moco": "models.official_perception:MoCo",
    "clip_adapter": "models.clipinverter:CLIPAdapter",
    "clip_remapper": "models.clipinverter:CLIPRemapper",
    "levels_mapper": "models.mappers:LevelsMapper",
    "single_mapper": "models.mappers:SingleMapper",
    "style_space_mapper": "models.mappers:StyleSpaceMapper",
    "styleclip_mapper": "models.mappers:MapperSet",
    "hairclip": "models.hairclip:HairClipMapper",
    "nada": "models.nada:NadaOffsets",
    "deltaedit": "models.deltaedit:DeltaMapper",
    "style_relevance": "models.global_directions:StyleRelevance",
}


class PackError(ValueError):
    """A pack cannot be read, was changed, or does not hold what was asked for; the message says which file and what to do."""


@dataclass(frozen=True, kw_only=True)
class NetworkInfo:
    """Describe one network: the `kind` names its class, `config` is exactly the constructor's arguments.

    `extra` names tensors of the file that are not the module's (`latent_avg`); `numbers` are what the network reached.
    """

    kind: str
    file: str
    sha256: str
    config: Mapping[str, object]
    numbers: Mapping[str, float] = field(default_factory=dict)
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PackInfo:
    """Hold what pack.yaml says; `size` is the generator's picture side in pixels, `files` maps further files to their sha256."""

    name: str
    domain: str
    size: int
    licence: str
    provenance: Mapping[str, object] = field(default_factory=dict)
    networks: Mapping[str, NetworkInfo] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def hashes(self) -> dict[str, str]:
        """Return the sha256 that every file of the pack must have, by file name."""
        return {**{info.file: info.sha256 for info in self.networks.values()}, **self.files}


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal text."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_info(folder: Path) -> tuple[PackInfo, str]:
    """Read and check pack.yaml; return it with the sha256 of its bytes. Raises PackError."""
    path = folder / INDEX
    if not folder.is_dir():
        raise PackError(f"pack {folder}: no such folder; expected a folder with {INDEX}")
    if not path.is_file():
        raise PackError(f"pack {folder}: {INDEX} is missing, so this is not a pack")
    data = path.read_bytes()
    return parse_info(data, where=str(path)), hashlib.sha256(data).hexdigest()


def parse_info(data: bytes, *, where: str) -> PackInfo:
    """Parse the bytes of a pack.yaml. Raises PackError naming the field, found against expected."""
    try:
        raw = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PackError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else raw
        raise PackError(f"{where}: format: expected {FORMAT}, found {found!r}; this version reads format {FORMAT} only")
    missing = [key for key in HEADER if key not in raw]
    if missing:
        raise PackError(f"{where}: field {missing[0]!r} is missing; a pack needs {', '.join(HEADER)}")
    if not isinstance(raw["size"], int) or isinstance(raw["size"], bool):
        raise PackError(f"{where}: size: expected a number of pixels, found {raw['size']!r}")
    networks = {str(name): _network(f"{where}: networks.{name}", entry) for name, entry in _mapping(where, raw, "networks").items()}
    files = {_inside(where, str(file)): str(digest) for file, digest in _mapping(where, raw, "files").items()}
    return PackInfo(
        name=str(raw["name"]),
        domain=str(raw["domain"]),
        size=raw["size"],
        licence=str(raw["licence"]),
        provenance=_mapping(where, raw, "provenance"),
        networks=networks,
        files=files,
    )


def dump_info(info: PackInfo) -> bytes:
    """Return the bytes of pack.yaml."""
    raw: dict[str, object] = {"format": FORMAT, "name": info.name, "domain": info.domain, "size": info.size, "licence": info.licence}
    raw["provenance"] = plain(info.provenance)
    raw["networks"] = {name: _dump_network(network) for name, network in info.networks.items()}
    raw["files"] = dict(info.files)
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120).encode()


def plain(config: Mapping[str, object]) -> dict[str, object]:
    """Return a config in types that YAML keeps: dicts, lists, numbers, texts, booleans, None. Raises PackError for anything else."""

    def convert(where: str, value: object) -> object:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Mapping):
            return {key: convert(f"{where}.{key}", item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [convert(where, item) for item in value]
        raise PackError(f"config {where}: a {type(value).__name__} cannot be written to {INDEX}")

    return {key: convert(key, value) for key, value in config.items()}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def verify(folder: Path, info: PackInfo) -> None:
    """Raise PackError unless every listed file exists with its sha256."""
    for file, expected in info.hashes().items():
        path = folder / file
        if not path.is_file():
            raise PackError(f"pack {folder}: file {file} is missing; {INDEX} lists it, so copy the pack again")
        found = sha256_of(path)
        if found != expected:
            raise PackError(f"pack {folder}: file {file} was changed: sha256 expected {expected}, found {found}; copy the pack again")


def cache_folder() -> Path:
    """Return where packs from elsewhere are kept: `$HYPEREDIT_CACHE/packs`, else `~/.cache/hyperedit/packs`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "hyperedit") / "packs"


def fetch(url: str) -> Path:
    """Copy a pack from an fsspec URL into the cache folder and return it; files already there with the right sha256 stay.

    Raises PackError when the URL holds no pack.
    """
    folder = cache_folder() / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    try:
        filesystem, base = fsspec.core.url_to_fs(url.rstrip("/"))
        index = filesystem.cat_file(f"{base}/{INDEX}")
        info = parse_info(index, where=f"{url}/{INDEX}")
        for file, expected in info.hashes().items():
            if not (folder / file).is_file() or sha256_of(folder / file) != expected:
                write_atomically(folder / file, filesystem.cat_file(f"{base}/{file}"))
    except PackError:
        raise
    except FileNotFoundError as error:
        raise PackError(f"pack {url}: {error} not found; expected a folder with {INDEX} and the files it lists") from None
    except (OSError, ValueError, ImportError) as error:
        raise PackError(f"pack {url}: cannot be read: {error}") from error
    write_atomically(folder / INDEX, index)
    return folder


def _network(where: str, entry: object) -> NetworkInfo:
    if not isinstance(entry, dict):
        raise PackError(f"{where}: expected fields kind, file, sha256 and config, found {entry!r}")
    missing = [key for key in ("kind", "file", "sha256", "config") if key not in entry]
    if missing:
        raise PackError(f"{where}: field {missing[0]!r} is missing")
    kind = str(entry["kind"])
    if kind not in KINDS:
        nearest = difflib.get_close_matches(kind, list(KINDS), n=1, cutoff=0.0)[0]
        raise PackError(f"{where}: unknown kind {kind!r}; did you mean {nearest!r}? Kinds: {', '.join(KINDS)}")
    return NetworkInfo(
        kind=kind,
        file=_inside(where, str(entry["file"])),
        sha256=str(entry["sha256"]),
        config=_mapping(where, entry, "config"),
        numbers={name: _number(f"{where}: numbers.{name}", value) for name, value in _mapping(where, entry, "numbers").items()},
        extra=tuple(str(name) for name in entry.get("extra") or ()),
    )


def _dump_network(network: NetworkInfo) -> dict[str, object]:
    raw: dict[str, object] = {"kind": network.kind, "file": network.file, "sha256": network.sha256, "config": plain(network.config)}
    raw["numbers"] = dict(network.numbers)
    if network.extra:
        raw["extra"] = list(network.extra)
    return raw


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PackError(f"{where}: expected a number, found {value!r}")
    return float(value)


def _mapping(where: str, raw: Mapping[str, object], key: str) -> dict[str, object]:
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise PackError(f"{where}: {key}: expected a mapping, found {value!r}")
    return value


def _inside(where: str, file: str) -> str:
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts or "\\" in file:
        raise PackError(f"{where}: file {file!r} must be a relative path inside the pack")
    return file
