"""Train a whole pack from nothing: stages with their needs, each leaving a small pack of its own that the last step joins.

A stage whose folder already holds a result for the same config is not run again, so an interrupted training goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from models.encoders import Encoder4Editing
from models.instruction import Instruction, load_instructions
from models.pack import Pack, add_file, start_pack, write_network
from models.stylegan2 import Generator
from portraits import LANDMARK_NAMES
from training import attributes, clip, encoders, generator, hypereditor, identity, landmarks

NAME, DOMAIN, SIZE = "portraits64", "portraits", 64
LICENCE = "Apache-2.0 (trained by this project on its own renders)"
INSTRUCTIONS = "configs/train/hypereditor_instructions.yaml"
DETAILS = "edits.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One network as a stage leaves it."""

    module: nn.Module
    config: Mapping[str, object]
    numbers: Mapping[str, float]
    extra: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A training with its settings and the stages whose networks it uses."""

    settings: object
    run: Callable[[Path, Path], Trained]  # (work folder, stage folder)
    needs: tuple[str, ...] = ()


def stages() -> dict[str, Stage]:
    """Return all stages in an order that respects their needs."""
    g, c, i, a = generator.GeneratorConfig(), clip.ClipConfig(), identity.IdentityConfig(), attributes.AttributesConfig()
    m, e, h = landmarks.LandmarksConfig(), encoders.EncoderConfig(), hypereditor.HyperEditorConfig()
    w = encoders.EncoderConfig(kind="w", widths=(16, 32, 64, 96), steps=1500, seed=62)
    ablation = {
        "directional": hypereditor.HyperEditorConfig(phases=ABLATION_PHASES),
        "global": hypereditor.HyperEditorConfig(phases=ABLATION_PHASES, loss="global"),
    }
    judged = ("e4e", "clip", "attributes")
    r = generator.RefineConfig()
    return {
        "base": Stage(settings=g, run=lambda work, out: _base(g, out)),
        "clip": Stage(settings=c, run=lambda work, out: _clip(c, out)),
        "generator": Stage(settings=r, run=lambda work, out: _refine(r, work, out), needs=("base", "clip")),
        "identity": Stage(settings=i, run=lambda work, out: _identity(i, out)),
        "attributes": Stage(settings=a, run=lambda work, out: _attributes(a, out)),
        "landmarks": Stage(settings=m, run=lambda work, out: _landmarks(m, out)),
        "e4e": Stage(settings=e, run=lambda work, out: _encoder(e, work, out), needs=("generator", "identity", "attributes")),
        "w_encoder": Stage(settings=w, run=lambda work, out: _encoder(w, work, out), needs=("generator", "identity", "attributes")),
        "hypereditor": Stage(settings=h, run=lambda work, out: _hypereditor(h, work, out), needs=judged),
        "ablation": Stage(settings=ablation, run=lambda work, out: _ablation(ablation, work, out), needs=judged),
    }


ABLATION_PHASES = ((800, 1.0),)
UNPACKED = ("base", "ablation")
"""Stages whose networks do not go into the pack."""
ABLATION_STRENGTHS = (0.5, 0.75, 1.0, 1.5, 2.0)
ABLATION_INSTRUCTIONS = ("smile", "beard", "blond", "zombie")


def run_stage(name: str, work: Path) -> None:
    """Run one stage, unless its result for the same settings is there already; its needs must have run."""
    stage, out = stages()[name], work / name
    if is_done(name, work):
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    trained = stage.run(work, out)
    _write(out, name, trained, {"settings": json.loads(_settings(stage))})
    (out / "done").write_text(fingerprint(name))


def is_done(name: str, work: Path) -> bool:
    """Say whether a stage's result for the present settings is in the work folder."""
    mark = work / name / "done"
    return mark.is_file() and mark.read_text() == fingerprint(name)


def fingerprint(name: str) -> str:
    """Return a hash of a stage's settings and those of all that it needs."""
    stage = stages()[name]
    parts = [name, _settings(stage), *(fingerprint(need) for need in stage.needs)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def join(work: Path, folder: Path, *, notes: str = "") -> None:
    """Join the stages' results into one pack; `notes` says what was done otherwise than by the command."""
    everything = stages()
    provenance: dict[str, object] = {
        "command": "make pack", "hardware": f"{platform.machine()}, CPU only", "torch": str(torch.__version__),
        "thread_seconds": round(sum(_training_s(work, name) for name in everything), 1),
        "generator_teacher": "taught by the renderer (regression on the picture of the same latent); no adversary",
        "held_out": "all numbers are measured on people drawn from seeds that no training uses (training/data.py: HELD_OUT)",
        "settings": {name: json.loads(_settings(stage)) for name, stage in everything.items()},
    }  # fmt: skip
    if notes:
        provenance["notes"] = notes
    shutil.rmtree(folder, ignore_errors=True)
    start_pack(folder, name=NAME, domain=DOMAIN, size=SIZE, licence=LICENCE, provenance=provenance)
    details: dict[str, object] = {}
    for name in everything:
        if (work / name / DETAILS).is_file():
            details[name] = json.loads((work / name / DETAILS).read_text())
        if name in UNPACKED:
            continue
        part = Pack.load(work / name)
        info = part.info.networks[name]
        module = part.network(name, nn.Module)
        write_network(folder, name, module, config=info.config, numbers=info.numbers, extra=part.extra(name), dtype=torch.float16)
    (folder / DETAILS).write_text(json.dumps(details, indent=1) + "\n")
    add_file(folder, DETAILS)


def _training_s(work: Path, name: str) -> float:
    return Pack.load(work / name).info.networks[name].numbers.get("training_s", 0.0)


def judges(work: Path) -> hypereditor.Judges:
    """Load the frozen networks that the editor's training leans on."""
    identity_pack, generator_pack = Pack.load(work / "identity"), Pack.load(work / "generator")
    return hypereditor.Judges(
        generator=generator_pack.generator(),
        mean_latent=generator_pack.mean_latent(),
        e4e=Pack.load(work / "e4e").network("e4e", Encoder4Editing),
        clip=Pack.load(work / "clip").clip(),
        identity=identity_pack.identity(),
        attributes=Pack.load(work / "attributes").attributes(),
        threshold=identity_pack.info.networks["identity"].numbers["threshold_far1"],
    )


def _settings(stage: Stage) -> str:
    settings = stage.settings
    plain = {key: asdict(value) for key, value in settings.items()} if isinstance(settings, dict) else asdict(settings)  # type: ignore[call-overload]
    return json.dumps(plain, sort_keys=True, default=list)


def _write(out: Path, name: str, trained: Trained, provenance: Mapping[str, object]) -> None:
    start_pack(out, name=name, domain=DOMAIN, size=SIZE, licence=LICENCE, provenance=provenance)
    write_network(out, name, trained.module, config=trained.config, numbers=trained.numbers, extra=trained.extra)


def _base(config: generator.GeneratorConfig, out: Path) -> Trained:
    net, numbers = generator.train(config, out)
    shape = {"size": config.size, "style_dim": config.style_dim, "n_mlp": config.n_mlp, "channels": dict(config.channels)}
    return Trained(module=net, config=shape, numbers=numbers)


def _refine(config: generator.RefineConfig, work: Path, out: Path) -> Trained:
    base = Pack.load(work / "base")
    net, numbers = generator.refine(config, out, net=base.network("base", Generator), clip=Pack.load(work / "clip").clip())
    return Trained(module=net, config=base.info.networks["base"].config, numbers=numbers, extra={"latent_avg": net.mean_latent()})


def _clip(config: clip.ClipConfig, out: Path) -> Trained:
    net, numbers = clip.train(config, out)
    return Trained(module=net, config={"model": clip.MODEL, "templates": list(config.templates), "merges": config.merges}, numbers=numbers)


def _identity(config: identity.IdentityConfig, out: Path) -> Trained:
    net, numbers = identity.train(config, out)
    return Trained(module=net, config={"size": config.size, "widths": list(config.widths), "embed_dim": config.embed_dim}, numbers=numbers)


def _attributes(config: attributes.AttributesConfig, out: Path) -> Trained:
    net, numbers = attributes.train(config, out)
    shape = {
        "groups": {k: list(v) for k, v in attributes.GROUPS.items()},
        "binary": list(attributes.BINARY),
        "size": config.size,
        "widths": list(config.widths),
    }
    return Trained(module=net, config=shape, numbers=numbers)


def _landmarks(config: landmarks.LandmarksConfig, out: Path) -> Trained:
    net, numbers = landmarks.train(config, out)
    return Trained(module=net, config={"names": list(LANDMARK_NAMES), "size": config.size, "widths": list(config.widths)}, numbers=numbers)


def _encoder(config: encoders.EncoderConfig, work: Path, out: Path) -> Trained:
    source, who = Pack.load(work / "generator"), Pack.load(work / "identity")
    net, numbers = encoders.train(config, out, generator=source.generator(), mean_latent=source.mean_latent(), identity=who.identity())
    reached = encoders.measure(
        net,
        generator=source.generator(),
        mean_latent=source.mean_latent(),
        identity=who.identity(),
        attributes=Pack.load(work / "attributes").attributes(),
        threshold=who.info.networks["identity"].numbers["threshold_far1"],
    )
    return Trained(module=net, config=encoders.network_config(config, source.generator()), numbers=numbers | reached)


def _instructions(names: Sequence[str] | None = None) -> tuple[Instruction, ...]:
    everything = load_instructions(INSTRUCTIONS)
    return tuple(i for i in everything if names is None or i.name in names)


def _hypereditor(config: hypereditor.HyperEditorConfig, work: Path, out: Path) -> Trained:
    j = judges(work)
    net, numbers = hypereditor.train(config, out, judges=j, instructions=_instructions())
    detail = hypereditor.measure(net, judges=j, instructions=_instructions())
    (out / DETAILS).write_text(json.dumps(detail))
    return Trained(module=net, config=hypereditor.network_config(config, j), numbers=numbers | hypereditor.summary(detail))


def _ablation(configs: Mapping[str, hypereditor.HyperEditorConfig], work: Path, out: Path) -> Trained:
    j, chosen = judges(work), _instructions(ABLATION_INSTRUCTIONS)
    detail: dict[str, dict[str, dict[str, float]]] = {}
    numbers: dict[str, float] = {}
    for name, config in configs.items():
        net, _ = hypereditor.train(config, out, judges=j, instructions=chosen, name=f"ablation_{name}")
        detail[name] = compare_strengths(net, j, chosen)
        numbers |= {f"{name}_{key}": value for key, value in best_strength(detail[name]).items()}
    (out / DETAILS).write_text(json.dumps(detail))
    return Trained(module=net, config=hypereditor.network_config(config, j), numbers=numbers)


def compare_strengths(
    net: hypereditor.HyperEditor, j: hypereditor.Judges, instructions: Sequence[Instruction]
) -> dict[str, dict[str, float]]:
    """Measure an editor at every strength of ABLATION_STRENGTHS, so that losses that pull differently hard can be compared."""
    return {
        str(strength): hypereditor.summary(
            hypereditor.measure(net, judges=j, instructions=[replace(i, strength=strength) for i in instructions], pictures=100)
        )
        for strength in ABLATION_STRENGTHS
    }


def best_strength(by_strength: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the figures at the strength where most attribute edits succeed on what is still the same person."""
    best = max(by_strength, key=lambda strength: by_strength[strength]["success_same_person"])
    return {"strength": float(best), **by_strength[best]}
