"""Names of the editors that a pack can run; no torch in here, so that a job can check its arguments at once."""

from __future__ import annotations

from models.instruction import Instruction
from models.pack_format import PackInfo

NETWORK_KINDS = ("hypereditor",)
ATTRIBUTE_EDITORS = ("interfacegan", "ganspace", "sefa")
"""Those that move latents along the direction of an attribute: they follow an instruction's `expects`, not its texts."""
TEXT_OPTIMISERS = ("styleclip_optimisation", "tedigan")
"""Those that optimise latents for every picture and text."""


def editor_names(info: PackInfo) -> list[str]:
    """Return what may be named as an editor of this pack: its networks, and the methods whose networks it has."""
    has = info.networks.keys()
    found = [name for name, network in info.networks.items() if network.kind in NETWORK_KINDS]
    if {"generator", "clip"} <= has:
        found += TEXT_OPTIMISERS
    if {"generator", "attributes"} <= has:
        found += ATTRIBUTE_EDITORS
    return found


def problem(editor: str, instruction: Instruction) -> str | None:
    """Return why an editor cannot follow an instruction, if so."""
    if editor in ATTRIBUTE_EDITORS and not instruction.expects:
        return (
            f"instruction {instruction.name!r}: {editor} moves along the direction of an attribute and needs to be told which: "
            "add `expects`, such as {smile: true}, in a YAML file"
        )
    return None
