"""Names of the editors that a pack can run; no torch in here, so that a job can check its arguments at once."""

from __future__ import annotations

from collections.abc import Mapping

from models.instruction import Instruction
from models.pack_format import PackInfo

NETWORK_KINDS = ("hypereditor", "styleclip_mapper", "hairclip", "nada", "deltaedit", "style_relevance")
"""Kinds of networks that each are an editor, under the network's own name."""
METHODS: Mapping[str, frozenset[str]] = {
    "clipinverter": frozenset({"generator", "clip", "e4e", "clip_adapter"}),
    "styleclip_optimisation": frozenset({"generator", "clip"}),
    "tedigan": frozenset({"generator", "clip"}),
    "stylemc": frozenset({"generator", "clip"}),
    "interfacegan": frozenset({"generator", "attributes"}),
    "ganspace": frozenset({"generator", "attributes"}),
    "sefa": frozenset({"generator", "attributes"}),
}
"""Editors without one network of their own name -> the networks that they need."""
ATTRIBUTE_EDITORS = ("interfacegan", "ganspace", "sefa")
"""Those that move latents along the direction of an attribute: they follow an instruction's `expects`, not its texts."""
TEXT_OPTIMISERS = ("styleclip_optimisation", "tedigan")
"""Those that optimise latents for every picture and text."""
LOOKS_AT_REFERENCE = ("clipinverter", "hairclip", "styleclip_optimisation", "tedigan")
"""Editors, or kinds of networks that are one, that can follow an instruction's reference picture in place of its target's words."""
TEXT_LISTS = ("styleclip_mapper", "nada")
"""Kinds that know the texts that they were trained on and no others; their config lists them as `texts`."""


def editor_names(info: PackInfo) -> list[str]:
    """Return what may be named as an editor of this pack: its networks, and the methods whose networks it has."""
    found = [name for name, network in info.networks.items() if network.kind in NETWORK_KINDS]
    return found + [name for name, needed in METHODS.items() if needed <= info.networks.keys()]


def problem(info: PackInfo, editor: str, instruction: Instruction) -> str | None:
    """Return why an editor of a pack cannot follow an instruction, if so."""
    if editor in ATTRIBUTE_EDITORS and not instruction.expects:
        return (
            f"instruction {instruction.name!r}: {editor} moves along the direction of an attribute and needs to be told which: "
            "add `expects`, such as {smile: true}, in a YAML file"
        )
    network = info.networks.get(editor)
    if instruction.reference and (network.kind if network else editor) not in LOOKS_AT_REFERENCE:
        return (
            f"instruction {instruction.name!r} has a reference picture, and {editor} cannot look at one; leave `reference` out, or choose "
            f"an editor that can: {', '.join(LOOKS_AT_REFERENCE)}"
        )
    if network is not None and network.kind in TEXT_LISTS:
        texts = [str(text) for text in network.config["texts"]]  # type: ignore[attr-defined]
        if instruction.target not in texts:
            return (
                f"instruction {instruction.name!r}: {editor} was trained for certain targets, and {instruction.target!r} is none; "
                f"it has {', '.join(map(repr, texts))}"
            )
    return None
