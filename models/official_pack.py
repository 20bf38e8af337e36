"""One pack out of checkpoints of the papers' authors: read the files, see that their networks belong together, write them.

Which generator counts: that of a rosinality file (`g_ema`), else the decoder of the first file that carries one, W encoders' last. Every
other file's decoder must be equal to it, because latents and offsets mean something only to the generator that they were trained with; the
decoder of a W encoder's file is not compared, since its authors throw it away, and neither is the noise. Differences that half precision
explains do not count.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.clipinverter import LEVELS, CLIPAdapter, CLIPRemapper
from models.hypereditor import HyperEditor
from models.hyperstyle import HyperStyle
from models.mappers import StyleSpaceMapper
from models.official import ENCODERS, MEAN_LATENT, CheckpointFileError, OfficialNetwork, networks_in, options_of, read_checkpoint
from models.official_sources import ORIGINS
from models.pack import Pack, start_pack, write_network
from models.pack_format import INDEX, PackError, read_info
from models.stylegan2 import Generator, Layer

MADE_BY = "jobs/import_weights.py"
KINDS = tuple(sorted({name for name, _, _ in ENCODERS.values()}))
RENAMED = {"arcface": "identity"}
"""In a pack the network that judges identities has one name, whichever it is."""
MEAN_OF = 100_000
"""Latents that a missing mean is taken over, as HyperStyle does."""
OPTIONS = (
    "encoder_type", "w_encoder_type", "mode", "dataset_type", "output_size", "stylegan_size", "n_styles", "input_nc", "label_nc",
    "learn_in_w", "start_from_latent_avg", "n_iters_per_batch", "layers_to_tune", "choose_layers", "lambda_std", "init_text", "target_text",
    "train_decoder", "mapper_type", "no_coarse_mapper", "no_medium_mapper", "no_fine_mapper", "work_in_stylespace", "description",
)  # fmt: skip
"""Training options that say what a network is; none is a path."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file: its networks by their names in a pack, `bare` when it is a rosinality file, and the options that matter."""

    path: Path
    sha256: str
    networks: Mapping[str, OfficialNetwork]
    bare: bool
    options: Mapping[str, object]

    @property
    def rank(self) -> int:
        """Order in which the generators of files count."""
        return 0 if self.bare else 2 if "w_encoder" in self.networks else 1


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What goes into a pack: networks with the files that they come from, the generator first, and remarks for the user."""

    networks: Mapping[str, OfficialNetwork]
    files: Mapping[str, Source]
    sources: Sequence[Source]
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Label:
    """How a pack is called; a licence of None names that of every source. `threshold_far1` belongs to the identity network."""

    name: str
    domain: str
    licence: str | None = None
    threshold_far1: float | None = None


def read_sources(files: Sequence[Path], *, kind: str | None = None) -> list[Source]:
    """Read every file. `kind` is what an encoder is whose file does not say. Raises CheckpointFileError."""
    twice = [file for number, file in enumerate(files) if file.resolve() in [other.resolve() for other in files[:number]]]
    if twice:
        raise CheckpointFileError(f"checkpoint {twice[0]}: given twice")
    sources = [_read_source(file, kind=kind) for file in files]
    if kind is not None and not any(kind in source.networks and not _says(source.options) for source in sources):
        found = "; ".join(f"{source.path.name} holds {', '.join(source.networks)}" for source in sources)
        raise CheckpointFileError(f"--kind {kind}: no file holds a {kind} encoder that does not say so itself: {found}. Leave out --kind")
    return sources


def _says(options: Mapping[str, object]) -> bool:
    return options.get("encoder_type") in ENCODERS


def _read_source(file: Path, *, kind: str | None) -> Source:
    checkpoint = read_checkpoint(file)
    given = options_of(checkpoint)
    found = networks_in(checkpoint, where=f"checkpoint {file}", kind=None if _says(given) else kind)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Source(
        path=file,
        sha256=digest,
        networks={RENAMED.get(network.name, network.name): network for network in found},
        bare="g_ema" in checkpoint,
        options={name: plain for name in OPTIONS if (plain := _plain(given.get(name))) is not None},
    )


def _plain(value: object) -> object:
    """Return a number or a text as YAML keeps it; None for anything else."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else None


def assemble(sources: Sequence[Source]) -> Contents:
    """Put the networks of all files together. Raises CheckpointFileError where they do not belong together."""
    owner = _owner(sources)
    chosen = owner.networks["generator"]
    notes: list[str] = []
    for source in sources:
        _check_sizes(source, owner)
    for source in sources:
        if source is not owner and "generator" in source.networks:
            notes += _compare(source, owner)
    networks, files = {"generator": chosen}, {"generator": owner}
    for source in sources:
        for name, network in source.networks.items():
            if name == "generator":
                continue
            if name in networks and _difference(networks[name], network):
                raise CheckpointFileError(
                    f"{files[name].path} and {source.path} hold different networks {name!r}: a pack has one; import them into two packs"
                )
            networks.setdefault(name, network)
            files.setdefault(name, source)
    _check_adapter(networks, files)
    notes += _settle_means(networks, files)
    order = [name for name in ORIGINS if name in networks]
    return Contents(networks={name: networks[name] for name in order}, files=files, sources=tuple(sources), notes=tuple(notes))


def generator_of(networks: Mapping[str, OfficialNetwork]) -> Generator:
    """Return the generator among networks."""
    module = networks["generator"].module
    assert isinstance(module, Generator)
    return module


def _owner(sources: Sequence[Source]) -> Source:
    """Return the file whose generator counts."""
    owners = sorted((source for source in sources if "generator" in source.networks), key=lambda source: source.rank)
    if not owners:
        found = "; ".join(f"{source.path.name} holds {', '.join(source.networks)}" for source in sources)
        raise CheckpointFileError(
            f"no generator in any file, and a pack needs one: {found}. Add a StyleGAN2 file with g_ema, or an encoder's or hypernetwork's "
            "file with its decoder"
        )
    return owners[0]


def _check_sizes(source: Source, owner: Source) -> None:
    """Raise CheckpointFileError unless every network of a file is made for the generator's sizes."""
    generator = generator_of(owner.networks)
    for name, network in sorted(source.networks.items(), key=lambda item: item[0] == "generator"):
        where, like = f"{source.path}: its {name}", f"as in the generator of {owner.path}"
        for key, wanted, unit in (("size", generator.size, "pixels"), ("style_dim", generator.style_dim, "numbers in a latent")):
            found = network.config.get(key, wanted)
            if found != wanted:
                raise CheckpointFileError(f"{where} is for {found} {unit}, expected {wanted}, {like}")
        unlike = [layer for layer in _layers(network.module) if layer != generator.layers[layer.index]]
        if unlike:
            taken, there = (f"{one.in_channels} to {one.out_channels} channels" for one in (unlike[0], generator.layers[unlike[0].index]))
            raise CheckpointFileError(f"{where} takes layer {unlike[0].index} to have {taken}, expected {there}, {like}")
        styles = [layer.in_channels for layer in generator.layers]
        if isinstance(network.module, StyleSpaceMapper) and network.config["widths"] != styles:
            raise CheckpointFileError(f"{where} is for styles of the widths {network.config['widths']}, expected {styles}, {like}")


def _layers(module: nn.Module) -> Sequence[Layer]:
    """Return the generator's layers as a network that changes some takes them to be."""
    if isinstance(module, HyperStyle | HyperEditor):
        return module.tuned
    return module.layers if isinstance(module, CLIPRemapper) else ()


def _check_adapter(networks: Mapping[str, OfficialNetwork], files: Mapping[str, Source]) -> None:
    """Raise CheckpointFileError unless CLIPInverter's adapter takes the maps of the e4e beside it."""
    if not {"clip_adapter", "e4e"} <= networks.keys():
        return
    adapter, widths = networks["clip_adapter"], networks["e4e"].config["widths"]
    assert isinstance(adapter.module, CLIPAdapter) and isinstance(widths, Sequence)
    for level, found, wanted in zip(LEVELS, adapter.config["widths"], widths[1:], strict=True):  # type: ignore[call-overload]
        if level in adapter.module.levels and found != wanted:
            raise CheckpointFileError(
                f"{files['clip_adapter'].path}: its clip_adapter is for {level} maps of {found} channels, expected {wanted}, "
                f"as in the e4e of {files['e4e'].path}"
            )


def _compare(source: Source, owner: Source) -> list[str]:
    """Return remarks on how a file's generator differs. Raises CheckpointFileError where that matters."""
    different = _difference(source.networks["generator"], owner.networks["generator"])
    if different and source.rank == 2:
        return [f"{source.path.name}: its decoder is not the generator of {owner.path.name} ({different}); W encoders' are not used"]
    if different:
        raise CheckpointFileError(
            f"{source.path} and {owner.path} hold different generators ({different}). Latents and offsets mean something only to the "
            "generator they were trained with: import the files into two packs"
        )
    ours, theirs = (one.networks["generator"].module.state_dict() for one in (owner, source))
    noise = [key for key in ours if key.startswith("noises.") and not _alike(ours[key], theirs[key])]
    return [f"{source.path.name}: its generator has other noise than that of {owner.path.name}, which counts"] if noise else []


def _difference(one: OfficialNetwork, other: OfficialNetwork) -> str | None:
    """Say how two networks of a name differ, noise aside; None when they do not."""
    if dict(one.config) != dict(other.config) or type(one.module) is not type(other.module):
        return f"{dict(one.config)} against {dict(other.config)}"
    tensors = other.module.state_dict()
    unlike = [key for key, value in one.module.state_dict().items() if not key.startswith("noises.") and not _alike(value, tensors[key])]
    return f"{len(unlike)} of {len(tensors)} tensors, the first is {unlike[0]}" if unlike else None


def _alike(one: Tensor, other: Tensor) -> bool:
    """Say whether tensors are equal but for rounding to half precision."""
    return torch.equal(one, other) or torch.allclose(one.float(), other.float(), rtol=2**-10, atol=2**-24)


def _settle_means(networks: dict[str, OfficialNetwork], files: Mapping[str, Source]) -> list[str]:
    """See that the generator has a mean latent and the W encoder that of the hypernetwork which it serves; return remarks."""
    notes = []
    generator = networks["generator"]
    mean = generator.extra.get(MEAN_LATENT)
    if mean is None or mean.ndim != 1:
        mean = generator_of(networks).mean_latent(MEAN_OF)
        notes.append(f"{files['generator'].path.name}: no mean latent of the generator: took the mean of {MEAN_OF} mapped latents")
    networks["generator"] = replace(generator, extra={MEAN_LATENT: mean})
    # HyperStyle and HyperEditor add the mean of their own file to what the W encoder says, whatever the encoder's file has.
    hosts = [name for name in ("hypereditor", "hyperstyle") if name in networks and MEAN_LATENT in networks[name].extra]
    if "w_encoder" in networks and hosts:
        networks["w_encoder"] = replace(networks["w_encoder"], extra=networks[hosts[0]].extra)
        notes.append(f"w_encoder: stored with the mean latent of {files[hosts[0]].path.name}, as {hosts[0]} uses it, not with its own")
    _check_means(networks, files)
    return notes


def _check_means(networks: Mapping[str, OfficialNetwork], files: Mapping[str, Source]) -> None:
    generator = generator_of(networks)
    width, slots = generator.style_dim, generator.n_latents
    for name, network in networks.items():
        found = network.extra.get(MEAN_LATENT)
        if found is not None and tuple(found.shape) not in {(width,), (slots, width)}:
            raise CheckpointFileError(
                f"{files[name].path}: its latent_avg has the shape {tuple(found.shape)}, expected ({width},) or ({slots}, {width})"
            )


def check_output(output: Path) -> None:
    """Raise PackError unless a pack may be written there: nothing, an empty folder, or a pack that this job made."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not output.is_dir():
        raise PackError(f"--output {output}: expected a folder, found a file")
    try:
        info = read_info(output)[0]
    except PackError:
        raise PackError(f"--output {output}: the folder is not empty and holds no pack: name another") from None
    if info.provenance.get("made_by") != MADE_BY:
        raise PackError(f"--output {output}: holds the pack {info.name!r}, which this job did not make: name another folder")
    foreign = sorted(path.name for path in output.iterdir() if path.name not in {INDEX, *info.hashes()})
    if foreign:
        raise PackError(f"--output {output}: holds {foreign[0]}, which this job did not write: take it away, or name another folder")


def write_pack(contents: Contents, output: Path, *, label: Label, say: Say) -> Pack:
    """Write a pack, replacing what `check_output` allows when the new one is whole. Raises PackError and OSError."""
    check_output(output)
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        made = Path(folder, "pack")
        size, licence = generator_of(contents.networks).size, label.licence or _licences(contents)
        start_pack(made, name=label.name, domain=label.domain, size=size, licence=licence, provenance=_provenance(contents))
        for name, network in contents.networks.items():
            say(f"writing {name}")
            numbers = {"threshold_far1": label.threshold_far1} if name == "identity" and label.threshold_far1 is not None else {}
            write_network(made, name, network.module, config=network.config, extra=network.extra, numbers=numbers)
        if output.exists():
            output.rename(Path(folder, "old"))
        made.rename(output)
        shutil.rmtree(Path(folder, "old"), ignore_errors=True)
    return Pack.load(output)


def _licences(contents: Contents) -> str:
    found: dict[str, list[str]] = {}
    for name in contents.networks:
        found.setdefault(ORIGINS[name].licence, []).append(name)
    return "as published: " + "; ".join(f"{', '.join(names)}: {licence}" for licence, names in found.items())


def _provenance(contents: Contents) -> dict[str, object]:
    return {
        "made_by": MADE_BY,
        "sources": [
            {
                "file": source.path.name,
                "sha256": source.sha256,
                "networks": [name for name in source.networks if contents.files[name] is source],
                "options": dict(source.options),
                "licence": {ORIGINS[name].repository: ORIGINS[name].licence for name in source.networks},
            }
            for source in contents.sources
        ],
        "notes": list(contents.notes),
    }
