"""Put a whole pack where an older one may be: built beside it, then renamed, so that a kill leaves the old pack or the new one."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from models.pack import Pack, write_network
from models.pack_format import INDEX
from pipeline.lock import OutputError


def begin_beside(folder: Path) -> Path:
    """Return the folder, still absent, that the new pack is built in. Raises OutputError where `folder` holds something else."""
    settle(folder)
    wrong = output_problem(folder)
    if wrong:
        raise OutputError(wrong)
    return _beside(folder)[0]


def put_in_place(folder: Path) -> None:
    """Let the pack that was built beside take the place of the old one."""
    new, old = _beside(folder)
    if folder.exists():
        folder.resolve().rename(old)
    new.rename(folder.resolve())
    shutil.rmtree(old, ignore_errors=True)


def copy_network(pack: Pack, name: str, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a network of one pack into another; `dtype` as in `write_network`."""
    info = pack.info.networks[name]
    module = pack.network(name, nn.Module)
    write_network(folder, name, module, config=info.config, numbers=info.numbers, extra=pack.extra(name), dtype=dtype)


def output_problem(folder: Path) -> str | None:
    """Return why no pack can be written there, if so: only a pack or an empty folder is replaced."""
    if not folder.exists() or (folder / INDEX).is_file():
        return None
    if not folder.is_dir():
        return f"--output {folder}: expected a folder, found a file; name a folder"
    found = min((path.name for path in folder.iterdir()), default=None)
    if found is None:
        return None
    return (
        f"--output {folder} holds {found} and no {INDEX}: it is no pack, so it is not replaced; name a new folder, an empty one or a pack"
    )


def settle(folder: Path) -> None:
    """Clear away what a command that was killed while it replaced this pack left beside it; an old pack moved aside comes back."""
    new, old = _beside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder.resolve())
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Return where a new pack is built and where the old one waits until the new one is in its place: a rename away."""
    place = folder.resolve()
    return place.with_name(f".{place.name}.joining"), place.with_name(f".{place.name}.replaced")
