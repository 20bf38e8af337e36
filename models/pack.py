"""A pack: the trained networks of one domain in a folder, hashes checked, safetensors only.

`Pack.load` reads one, `start_pack` and `write_network` make one.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from models.editor_registry import build_editor
from models.editors import Editor
from models.inverter_registry import build_inverter
from models.inverters import Inverter
from models.pack_format import (
    INDEX,
    KINDS,
    NetworkInfo,
    PackError,
    PackInfo,
    dump_info,
    fetch,
    plain,
    read_info,
    sha256_of,
    verify,
    write_atomically,
)
from models.stylegan2 import Generator

if TYPE_CHECKING:
    from models.clip import ClipModel
    from models.perception import AttributeNet, IdentityNet, LandmarkNet

__all__ = ["Pack", "PackError", "PackInfo", "add_file", "start_pack", "write_network", "write_numbers"]

MEAN_LATENT = "latent_avg"
Module = TypeVar("Module", bound=nn.Module)


class Pack:
    """Give access to a pack's networks: in eval mode, without gradients, on one device, each built once.

    `sha256` is that of pack.yaml, which lists the hashes of all files, so it names the whole content.
    """

    def __init__(self, path: Path, info: PackInfo, *, sha256: str, device: str) -> None:
        self.path = path
        self.info = info
        self.sha256 = sha256
        self.device = device
        self._networks: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {}

    @classmethod
    def load(cls, path_or_url: str | Path, *, device: str = "cpu") -> Pack:
        """Open a folder, or an fsspec URL by way of the local cache, and check every hash. Raises PackError."""
        remote = "://" in str(path_or_url)
        folder = fetch(str(path_or_url)) if remote else Path(path_or_url)
        info, sha256 = read_info(folder)
        verify(folder, info)
        return cls(folder, info, sha256=sha256, device=device)

    @property
    def size(self) -> int:
        """Side of the generator's pictures in pixels."""
        return self.info.size

    @property
    def domain(self) -> str:
        """What the generator shows."""
        return self.info.domain

    def generator(self) -> Generator:
        """Return the generator."""
        return self.network("generator", Generator)

    def inverter(self, name: str = "e4e", settings: Mapping[str, object] | None = None) -> Inverter:
        """Return the inverter `name`; `inverter_names.inverter_names` lists them. Raises PackError, for a wrong setting too."""
        return build_inverter(self, name, settings or {})

    def editor(self, name: str = "hypereditor", settings: Mapping[str, object] | None = None) -> Editor:
        """Return the editor `name`; `editor_names.editor_names` lists them. Raises PackError, for a wrong setting too."""
        return build_editor(self, name, settings or {})

    def clip(self) -> ClipModel:
        """Return CLIP."""
        from models.clip import ClipModel

        return self.network("clip", ClipModel)

    def identity(self) -> IdentityNet:
        """Return the identity network; that of an imported pack is ArcFace, which is called alike."""
        from models.official_perception import ArcFace
        from models.perception import IdentityNet

        if isinstance(self._network("identity")[0], ArcFace):
            return cast("IdentityNet", self.network("identity", ArcFace))
        return self.network("identity", IdentityNet)

    def attributes(self) -> AttributeNet:
        """Return the attribute classifier."""
        from models.perception import AttributeNet

        return self.network("attributes", AttributeNet)

    def landmarks(self) -> LandmarkNet:
        """Return the landmark network."""
        from models.perception import LandmarkNet

        return self.network("landmarks", LandmarkNet)

    def mean_latent(self) -> Tensor:
        """Return the generator's stored mean latent. Raises PackError when the pack has none."""
        extra = self._network("generator")[1]
        if MEAN_LATENT not in extra:
            raise PackError(f"pack {self.path}: the generator's file stores no {MEAN_LATENT}")
        return extra[MEAN_LATENT]

    def extra(self, name: str) -> dict[str, Tensor]:
        """Return the tensors that network `name` keeps beside its module's own, such as `latent_avg`."""
        return dict(self._network(name)[1])

    def network(self, name: str, kind: type[Module]) -> Module:
        """Return network `name` as what it must be. Raises PackError when it is something else or not there."""
        module = self._network(name)[0]
        if not isinstance(module, kind):
            raise PackError(f"pack {self.path}: network {name!r} is a {type(module).__name__}, expected a {kind.__name__}")
        return module

    def _network(self, name: str) -> tuple[nn.Module, dict[str, Tensor]]:
        if name not in self._networks:
            if name not in self.info.networks:
                raise PackError(f"pack {self.path}: no network {name!r}; it has {', '.join(self.info.networks) or 'none'}")
            self._networks[name] = _load(self.path, self.info.networks[name], device=self.device)
        return self._networks[name]


def start_pack(
    folder: str | Path, *, name: str, domain: str, size: int, licence: str, provenance: Mapping[str, object],
    keep: Collection[str] | None = None,
) -> None:  # fmt: skip
    """Write or replace the head of pack.yaml; networks and files that it lists already stay.

    `keep` names the networks that stay when not all do: the others' files go, and so do further files, which speak of all.
    """
    path = Path(folder)
    old = read_info(path)[0] if (path / INDEX).is_file() else None
    info = PackInfo(name=name, domain=domain, size=size, licence=licence, provenance=provenance)
    if old is not None:
        kept = {key: network for key, network in old.networks.items() if keep is None or key in keep}
        info = replace(info, networks=kept, files=old.files if keep is None else {})
    write_atomically(path / INDEX, dump_info(info))
    for file in set(old.hashes() if old is not None else ()) - set(info.hashes()):
        (path / file).unlink(missing_ok=True)


def write_network(
    folder: str | Path,
    name: str,
    module: nn.Module,
    *,
    config: Mapping[str, object],
    numbers: Mapping[str, float] | None = None,
    extra: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a module's tensors to `name`.safetensors and its entry to pack.yaml, which `start_pack` made.

    `config` is exactly the constructor's arguments; `extra` tensors (`latent_avg`) go into the same file; `dtype` (float16) makes the
    floating-point matrices and kernels smaller, they are loaded as float32. Raises PackError when the config does not rebuild the module.
    """
    path = Path(folder)
    extra = extra or {}
    own = module.state_dict()
    clash = sorted(set(extra) & set(own))
    if clash:
        raise PackError(f"network {name!r}: extra tensor {clash[0]!r} has the name of one of the module's own")
    tensors = {key: _stored(value, dtype) for key, value in own.items()} | {key: _stored(value, None) for key, value in extra.items()}
    data = save(tensors)
    entry = NetworkInfo(
        kind=_kind_of(module),
        file=f"{name}.safetensors",
        sha256=hashlib.sha256(data).hexdigest(),
        config=plain(config),
        numbers={key: float(value) for key, value in (numbers or {}).items()},
        extra=tuple(extra),
    )
    _assemble(path, entry, tensors, device="cpu")
    info = read_info(path)[0]
    write_atomically(path / entry.file, data)
    write_atomically(path / INDEX, dump_info(replace(info, networks={**info.networks, name: entry})))


def write_numbers(folder: str | Path, name: str, numbers: Mapping[str, float]) -> None:
    """Add numbers that network `name` reached to its entry in pack.yaml."""
    info = read_info(Path(folder))[0]
    if name not in info.networks:
        raise PackError(f"pack {folder}: no network {name!r}; it has {', '.join(info.networks) or 'none'}")
    entry = info.networks[name]
    merged = {**entry.numbers, **{key: float(value) for key, value in numbers.items()}}
    networks = {**info.networks, name: replace(entry, numbers=merged)}
    write_atomically(Path(folder) / INDEX, dump_info(replace(info, networks=networks)))


def add_file(folder: str | Path, file: str) -> None:
    """List a further file of the folder, with its sha256, in pack.yaml."""
    path = Path(folder)
    info = read_info(path)[0]
    write_atomically(path / INDEX, dump_info(replace(info, files={**info.files, file: sha256_of(path / file)})))


def _kind_of(module: nn.Module) -> str:
    target = f"{type(module).__module__}:{type(module).__qualname__}"
    kinds = [kind for kind, known in KINDS.items() if known == target]
    if not kinds:
        raise PackError(f"{target} is not a kind of network that a pack holds; kinds: {', '.join(KINDS)}")
    return kinds[0]


def _stored(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach().cpu()
    # Vectors stay as they are: they are small, and the variances of batch norms can be smaller than float16 knows.
    value = value.to(dtype) if dtype is not None and value.is_floating_point() and value.ndim > 1 else value
    return value.clone(memory_format=torch.contiguous_format)


def _build(info: NetworkInfo) -> nn.Module:
    module_name, _, class_name = KINDS[info.kind].partition(":")
    kind: type[nn.Module] = getattr(importlib.import_module(module_name), class_name)
    try:
        module = kind.from_config(info.config)  # type: ignore[attr-defined]
    except (TypeError, ValueError, KeyError) as error:
        raise PackError(f"{info.file}: config does not fit {class_name}: {error}") from error
    assert isinstance(module, nn.Module)
    return module


def _load(folder: Path, info: NetworkInfo, *, device: str) -> tuple[nn.Module, dict[str, Tensor]]:
    try:
        tensors = load_file(folder / info.file)
    except (SafetensorError, OSError) as error:
        raise PackError(f"pack {folder}: file {info.file} is not a safetensors file: {error}") from error
    return _assemble(folder, info, tensors, device=device)


def _assemble(folder: Path, info: NetworkInfo, tensors: Mapping[str, Tensor], *, device: str) -> tuple[nn.Module, dict[str, Tensor]]:
    module = _build(info)
    missing = [name for name in info.extra if name not in tensors]
    if missing:
        raise PackError(f"pack {folder}: file {info.file} lacks the tensor {missing[0]!r} that {INDEX} lists under extra")
    extra = {name: tensors[name].float().to(device) for name in info.extra}
    try:
        module.load_state_dict({key: value for key, value in tensors.items() if key not in extra})
    except RuntimeError as error:
        raise PackError(f"pack {folder}: file {info.file} does not fit its config: {' '.join(str(error).split())[:600]}") from error
    return module.to(device).eval().requires_grad_(False), extra
