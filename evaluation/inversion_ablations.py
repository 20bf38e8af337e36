"""Ablations of inverters: HyperStyle Table 3 and GANI Tables 7 and 8, each a table of inverters on the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.gani import Gani
from models.inverters import Inverter
from models.pack import Pack, PackError

PASSES = (1, 2, 3, 5, 10)
BLOCKS = (1, 2, 3, 4)
NORMS = ("none", "in", "sn")
HYPERSTYLE = "hyperstyle"
Settings = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What rows are made of: the pack, the settings that all rows share, and further packs whose HyperStyle was trained otherwise."""

    pack: Pack
    settings: Mapping[str, Settings]
    variants: Mapping[str, Pack]

    def inverter(self, name: str, **changed: object) -> Inverter:
        """Return an inverter of the pack with the shared settings, but for those named here."""
        return self.pack.inverter(name, {**self.settings.get(name, {}), **changed})


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A table by its title; `rows` makes its inverters by label. Raises PackError where the pack lacks what it needs."""

    title: str
    about: str
    rows: Callable[[Context], dict[str, Inverter]]


def check_variants(pack: Pack, variants: Mapping[str, Pack]) -> None:
    """Raise PackError for a further pack without HyperStyle or with another generator, whose row would compare two things at once."""
    for label, other in variants.items():
        if HYPERSTYLE not in other.info.networks:
            raise PackError(f"--variants.{label} {other.path}: has no network {HYPERSTYLE!r}; it has {', '.join(other.info.networks)}")
        if other.info.networks["generator"].sha256 != pack.info.networks["generator"].sha256:
            raise PackError(f"--variants.{label} {other.path}: has another generator than {pack.path}; train it with --pack {pack.path}")


def _hyperstyle(context: Context) -> dict[str, Inverter]:
    found = {_passes(n): context.inverter(HYPERSTYLE, iterations=n) for n in PASSES}
    shared = context.settings.get(HYPERSTYLE, {})
    for label, pack in context.variants.items():
        found[label] = pack.inverter(HYPERSTYLE, shared)
        found[f"{label}, {_passes(1)}"] = pack.inverter(HYPERSTYLE, {**shared, "iterations": 1})
    return found


def _passes(n: int) -> str:
    return "1 pass" if n == 1 else f"{n} passes"


def _gani_blocks(context: Context) -> dict[str, Inverter]:
    found: dict[str, Inverter] = {}
    for n in BLOCKS:
        inverter = context.inverter("gani", blocks=n)
        assert isinstance(inverter, Gani)
        found[f"{n} block{'s' * (n > 1)}, {inverter.parameters() / 1e6:.2f} M parameters"] = inverter
    return found


def _gani_norms(context: Context) -> dict[str, Inverter]:
    return {f"before: {pre}, inside: {post}": context.inverter("gani", pre_norm=pre, post_norm=post) for pre in NORMS for post in NORMS}


ABLATIONS: Mapping[str, Ablation] = {
    "hyperstyle": Ablation(
        title="HyperStyle: passes and blocks (its Table 3)",
        about="One network with more or fewer passes, then networks trained otherwise on the same generator.",
        rows=_hyperstyle,
    ),
    "gani_blocks": Ablation(
        title="GANI: residual blocks of a module (its Table 7)",
        about="More blocks are more parameters to fit per picture.",
        rows=_gani_blocks,
    ),
    "gani_norms": Ablation(
        title="GANI: normalisation (its Table 8)",
        about="What happens to a module's inputs before its blocks, and inside them: nothing, instance (in) or scale normalisation (sn).",
        rows=_gani_norms,
    ),
}
