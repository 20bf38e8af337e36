"""Packs in MLflow's model registry: `models:/NAME@ALIAS` and `models:/NAME/VERSION` wherever a pack is asked for."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.pack_format import PackError, cache_folder, read_info, verify
from pipeline.child import ChildError, Message, ask
from pipeline.config import ConfigError
from pipeline.tracking import MLFLOW, TrackingError

if TYPE_CHECKING:
    from pipeline.training_run import Run

SCHEME = "models:/"
PINNED = re.compile(r"models:/([^/@:]+)/(\d+)")
ALIASED = re.compile(r"models:/([^/@:]+)@([^/@:]+)")
ANSWER_TIMEOUT_S = 180.0
TRANSFER_TIMEOUT_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class FoundPack:
    """A pack as it was found: `url` names the version for good, `folder` holds the files on this machine, checked."""

    url: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class PackSource:
    """Where every process of a job finds its pack; plain values that travel to other machines."""

    url: str
    """Folder, fsspec URL, or `models:/NAME/VERSION`."""
    sha256: str
    registry: str | None = None
    """Tracking server or database in which a `models:/` URL is looked up."""

    def path_or_url(self) -> str:
        """Return what `Pack.load` opens on this machine. Raises ConfigError and PackError."""
        return resolve_pack(self.url, uri=self.registry, sha256=self.sha256)


def register_pack(run: Run, folder: str | Path, *, model: str, alias: str | None) -> str:
    """Keep a pack as artifact `pack/` of a run, make it a version of `model`, let `alias` point to it, and return the version.

    A pack that this run registered before stays the version that it is. Raises TrackingError where MLflow did not do it.
    """
    path = Path(folder)
    info, sha256 = read_info(path)
    verify(path, info)
    if run.run_id is None:
        raise TrackingError(f"pack {path} was not registered as {model}: the training has no run in MLflow at {run.uri}")
    tags = {"pack_sha256": sha256, "pack_name": info.name, "domain": info.domain}
    request = {"do": "register", "uri": run.uri, "run_id": run.run_id, "folder": str(path.resolve()), "model": model, "alias": alias}
    try:
        return str(ask(MLFLOW, {**request, "tags": tags}, timeout_s=TRANSFER_TIMEOUT_S)["version"])
    except ChildError as error:
        raise TrackingError(f"pack {path} was not registered as {model} at {run.uri}: {error}; the pack itself is complete") from error


def resolve_pack(url: str, *, uri: str | None = None, sha256: str | None = None) -> str:
    """Return the local folder of a registered pack; anything that is no `models:/` URL is returned as it is. See `find_pack`."""
    return find_pack(url, uri=uri, sha256=sha256).folder if url.startswith(SCHEME) else url


def find_pack(url: str, *, uri: str | None = None, sha256: str | None = None) -> FoundPack:
    """Look up a registered pack and bring it into the cache, where folders are named by the pack's sha256.

    `uri` is the tracking server or database, by default MLFLOW_TRACKING_URI. Whoever knows the `sha256` of a pinned URL and has it in
    the cache asks nobody. Raises ConfigError for a URL that cannot be looked up, PackError for a pack that is not there or not whole.
    """
    if not PINNED.fullmatch(url) and not ALIASED.fullmatch(url):
        raise ConfigError(f"--pack {url}: expected {SCHEME}NAME@ALIAS or {SCHEME}NAME/VERSION, such as {SCHEME}portraits@champion")
    server = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        raise ConfigError(f"--pack {url}: which registry? Give the address of the MLflow server as MLFLOW_TRACKING_URI")
    if sha256 and PINNED.fullmatch(url) and _is_whole(cache_folder() / sha256, sha256):
        return FoundPack(url=url, folder=str(cache_folder() / sha256))
    found = _ask({"do": "find", "url": url}, server, timeout_s=ANSWER_TIMEOUT_S)
    pinned, digest = f"{SCHEME}{found['model']}/{found['version']}", str(found["sha256"])
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise PackError(f"pack {pinned} of {server}: has no tag pack_sha256, so it is no pack; register packs with register_pack")
    return FoundPack(url=pinned, folder=str(_bring(pinned, digest, server)))


def _bring(url: str, sha256: str, server: str) -> Path:
    """Return the folder of the cache that holds this pack, downloaded where it is missing or broken."""
    target = cache_folder() / sha256
    with _alone(target):
        if _is_whole(target, sha256):
            return target
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as temporary:
            answer = _ask({"do": "download", "url": url, "folder": temporary}, server, timeout_s=TRANSFER_TIMEOUT_S)
            folder = Path(str(answer["folder"]))
            _check(folder, sha256, f"pack {url} of {server}")
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
    return target


def _check(folder: Path, sha256: str, what: str) -> None:
    """Raise PackError unless a download is the pack that was registered."""
    try:
        info, found = read_info(folder)
        verify(folder, info)
    except PackError as error:
        raise PackError(f"{what}: the files in the registry are not what was registered: {error}") from error
    if found != sha256:
        raise PackError(
            f"{what}: its pack.yaml was changed after it was registered: sha256 expected {sha256}, found {found}; "
            "register the pack again, or use another version"
        )


def _is_whole(folder: Path, sha256: str) -> bool:
    try:
        info, found = read_info(folder)
        verify(folder, info)
    except PackError:
        return False
    return found == sha256


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process of this machine bring the pack; the others wait for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ask(request: Message, server: str, *, timeout_s: float) -> dict[str, object]:
    try:
        return ask(MLFLOW, {**request, "uri": server}, timeout_s=timeout_s)
    except ChildError as error:
        if error.kind == PackError.__name__:
            raise PackError(error.text) from error
        raise PackError(f"pack {request['url']}: MLflow at {server}: {error}; is the address right and the server up?") from error
