"""Names of the inverters that a pack can run; no torch in here, so that a job can check its arguments at once."""

from __future__ import annotations

from models.pack_format import PackInfo

ENCODER_KINDS = ("e4e", "psp", "w_encoder")
RESTYLE_KINDS = ("restyle", "restyle_resnet")
HYPERSTYLE_KINDS = ("hyperstyle",)
OPTIMISERS = ("w_projection", "wplus_projection", "pti", "gani")
"""Those that optimise for every picture: they need a generator, and no networks of their own."""
START = {"hyperstyle": "w_encoder", "gani": "e4e"}
"""Encoder whose latents a method starts from."""


def inverter_names(info: PackInfo) -> list[str]:
    """Return what may be named as an inverter of this pack: its encoders, and the methods whose networks it has."""
    found = []
    for name, network in info.networks.items():
        if network.kind in ENCODER_KINDS + RESTYLE_KINDS or (network.kind in HYPERSTYLE_KINDS and START["hyperstyle"] in info.networks):
            found.append(name)
    return found + [name for name in OPTIMISERS if {"generator", START.get(name, "generator")} <= info.networks.keys()]
