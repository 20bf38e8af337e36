"""Put networks that were trained by themselves into a pack: what `jobs/train.py` leaves in OUTPUT/pack, several at a time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from models.pack import Pack, dump_info, read_info, write_atomically, write_network
from models.pack_format import INDEX, PackError, PackInfo
from training.objective import bonds
from training.pack_place import begin_beside, copy_network, put_in_place, settle

MEASURED = ("generator", "e4e", "hypereditor", "clip", "identity", "attributes", "landmarks")
"""Networks that the figures beside pack.yaml (evaluation.json, instructions.yaml) speak of."""


def merge(base: Path, taken: Mapping[str, Path], folder: Path) -> tuple[str, Sequence[str]]:
    """Write the networks of `base` and those of `taken`, a pack for each name, as one pack; return its hash and the files left out.

    Taken networks are stored in half precision, except for those that others of the new pack are bound to: these must have been trained on
    the same bytes. Files whose figures a taken network makes untrue are left out. `folder` may be `base`. Raises PackError or OutputError,
    and then changes nothing.
    """
    settle(folder)
    first = Pack.load(base)
    sources = {name: Pack.load(path) for name, path in taken.items()}
    for name, pack in sources.items():
        if name not in pack.info.networks:
            raise PackError(f"--take.{name} {pack.path}: has no network {name!r}; it has {', '.join(pack.info.networks)}")
    below = _foundations(first, sources)
    left_out = [name for name in first.info.files if set(taken) & set(MEASURED)]
    new = begin_beside(folder)
    try:
        shutil.copytree(first.path, new)
        for name, pack in sources.items():
            copy_network(pack, name, new, dtype=None if name in below else torch.float16)
        info = read_info(new)[0]
        files = {name: digest for name, digest in info.files.items() if name not in left_out}
        write_atomically(new / INDEX, dump_info(replace(info, files=files, provenance=_provenance(info, sources))))
        for name in left_out:
            (new / name).unlink()
        sha256 = Pack.load(new).sha256
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    put_in_place(folder)
    return sha256, left_out


def add(
    base: Pack, folder: Path, *, name: str, module: nn.Module, config: Mapping[str, object], settings: Mapping[str, object],
    numbers: Mapping[str, float] | None = None,
) -> str:  # fmt: skip
    """Write a copy of a pack with one more network, in half precision, how it was made and what it reached; return its hash.

    `folder` may be the pack's own. Raises PackError or OutputError, and then changes nothing.
    """
    new = begin_beside(folder)
    try:
        shutil.copytree(base.path, new)
        write_network(new, name, module, config=config, numbers=numbers, dtype=torch.float16)
        info = read_info(new)[0]
        trained = {**_entries(info, "trained"), name: {"settings": dict(settings), "leans_on": base.sha256}}
        write_atomically(new / INDEX, dump_info(replace(info, provenance={**info.provenance, "trained": trained})))
        sha256 = Pack.load(new).sha256
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    put_in_place(folder)
    return sha256


def between(first: Pack, second: Pack, name: str, *, share: float) -> nn.Module:
    """Return a network whose weights are `share` of the second pack's and the rest of the first's. Raises PackError where they differ."""
    for pack in (first, second):
        if name not in pack.info.networks:
            raise PackError(f"{pack.path}: has no network {name!r}; it has {', '.join(pack.info.networks)}")
    if first.info.networks[name].config != second.info.networks[name].config:
        raise PackError(
            f"{name} of {second.path} has another shape than that of {first.path}: average one with what was trained on from it"
        )
    for below in ("generator", "clip"):
        known = [pack.info.networks[below].sha256 for pack in (first, second) if below in pack.info.networks]
        if len(set(known)) > 1:
            raise PackError(f"{second.path} has another {below} than {first.path}: their {name} were not trained for the same thing")
    module, ahead = first.network(name, nn.Module), second.network(name, nn.Module).state_dict()
    mixed = {
        key: torch.lerp(value.float(), ahead[key].float(), share).to(value.dtype) if value.is_floating_point() else ahead[key]
        for key, value in module.state_dict().items()
    }
    module.load_state_dict(mixed)
    return module


def _foundations(base: Pack, sources: Mapping[str, Pack]) -> set[str]:
    """Return the networks that others of the new pack are bound to. Raises PackError where one of these was trained on another."""
    origin = dict.fromkeys(base.info.networks, base) | dict(sources)
    found: set[str] = set()
    for name, needed in bonds().items():
        if name not in origin:
            continue
        own = origin[name]
        for below in needed:
            if below not in own.info.networks:  # as little as the pack that it was trained on: a pack of the encoder alone
                continue
            if below not in origin:
                raise PackError(f"{name} of {own.path} works with its {below}, and {base.path} has none: take {below} too")
            if own.info.networks[below].sha256 != origin[below].info.networks[below].sha256:
                raise PackError(
                    f"{name} of {own.path} was trained on another {below} than that of {origin[below].path}: "
                    f"take both from one pack, or train {name} on this {below}"
                )
            found.add(below)
    return found


def _provenance(info: PackInfo, sources: Mapping[str, Pack]) -> dict[str, object]:
    """Return the base's provenance with what is known of how each taken network was trained, and out of which pack it came."""
    trained = {name: value for name, value in _entries(info, "trained").items() if name not in sources}
    for name, pack in sources.items():
        known = _entries(pack.info, "trained").get(name)
        settings = _entries(pack.info, "settings").get(name)
        entry = known if isinstance(known, dict) else {} if settings is None else {"settings": settings}
        trained[name] = {**entry, "taken_from": pack.sha256}
    return {**info.provenance, "trained": trained}


def _entries(info: PackInfo, part: str) -> dict[str, object]:
    found = info.provenance.get(part)
    return dict(found) if isinstance(found, dict) else {}
