"""Make an inverter of a pack by its name; `inverter_names.py` says which names a pack has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from models.encoders import Encoder4Editing, WEncoder
from models.hyperstyle import HyperStyle
from models.inverter_names import ENCODER_KINDS, HYPERSTYLE_KINDS, OPTIMISERS, RESTYLE_KINDS, START, inverter_names
from models.inverters import ITERATIONS, EncoderInverter, HyperStyleInverter, Inverter, ReStyleInverter
from models.pack_format import PackError, PackInfo
from models.restyle import ReStyleEncoder, ReStyleResNetEncoder
from models.settings import NoSettings, check_name, settings_of

if TYPE_CHECKING:
    from models.pack import Pack

Settings = Mapping[str, object]
Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passes:
    """Settings of an inverter that looks several times."""

    iterations: int = ITERATIONS
    """Passes over each picture."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"expected 1 or more iterations, found {self.iterations}")


def build_inverter(pack: Pack, name: str, settings: Settings) -> Inverter:
    """Return the inverter `name` of a pack with its settings. Raises PackError naming what there is."""
    check_name("inverter", name, pack=pack.path, info=pack.info, valid=inverter_names(pack.info))
    config = read_settings(pack.info, name, settings)
    if name in OPTIMISERS:
        return _optimiser(pack, name, config)
    kind = pack.info.networks[name].kind
    if kind in HYPERSTYLE_KINDS:
        assert isinstance(config, Passes)
        encoder = pack.network(START[kind], WEncoder)
        return HyperStyleInverter(
            name, pack.network(name, HyperStyle), encoder=encoder, generator=pack.generator(), latent_avg=_mean(pack, name),
            iterations=config.iterations,
        )  # fmt: skip
    if kind in RESTYLE_KINDS:
        assert isinstance(config, Passes)
        restyle = pack.network(name, ReStyleEncoder) if kind == "restyle" else pack.network(name, ReStyleResNetEncoder)
        return ReStyleInverter(name, restyle, generator=pack.generator(), latent_avg=_mean(pack, name), iterations=config.iterations)
    return _encoder(pack, name)


def read_settings(info: PackInfo, name: str, settings: Settings) -> object:
    """Return the settings of an inverter, with the defaults where none are given. Raises PackError naming the nearest one."""
    return settings_of("inverter", name, _settings_kind(info, name), settings)


def _settings_kind(info: PackInfo, name: str) -> type:
    if name in OPTIMISERS:
        from models import optimisers

        return optimisers.SETTINGS[name]
    return NoSettings if info.networks[name].kind in ENCODER_KINDS else Passes


def _optimiser(pack: Pack, name: str, config: object) -> Inverter:
    from models import optimisers

    wanted = START.get(name, "e4e" if getattr(config, "start", None) == "encoder" else None)
    try:
        return optimisers.build(name, pack, config, start=None if wanted is None else _encoder(pack, wanted))
    except ValueError as error:
        raise PackError(f"inverter {name!r}: {error}") from error


def _encoder(pack: Pack, name: str) -> EncoderInverter:
    known = pack.info.networks.get(name)
    encoder = pack.network(name, WEncoder) if known and known.kind == "w_encoder" else pack.network(name, Encoder4Editing)
    return EncoderInverter(name, encoder, latent_avg=_mean(pack, name))


def _mean(pack: Pack, name: str) -> Tensor:
    """Return the mean latent that a network adds to: its own, else the generator's. Raises PackError."""
    for owner in (name, "generator"):
        if owner in pack.info.networks and "latent_avg" in pack.extra(owner):
            return pack.extra(owner)["latent_avg"]
    raise PackError(f"pack {pack.path}: neither {name!r} nor 'generator' stores latent_avg, which {name!r} adds to")
