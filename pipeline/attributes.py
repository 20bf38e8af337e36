"""What an attribute classifier says of an edit: did it do what was asked, and what else did it change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DECISION = 0.5
STYLE_PREFIX = "style_"


@dataclass(frozen=True, kw_only=True)
class AttributeVerdict:
    """`success` is None when the instruction expects nothing; `flips` names the attributes that changed unasked."""

    success: bool | None
    flips: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AttributeJudge:
    """Compare the attribute probabilities before and after an edit.

    An attribute is present when its probability is above one half. Inside an exclusive group (hair colours, expressions ...) the most
    likely member is the decision, and a change of the group counts once, under the name of the member that it changed to.
    """

    names: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]

    def verdict(self, before: Sequence[float], after: Sequence[float], expects: Mapping[str, bool]) -> AttributeVerdict:
        """Judge one image from its probabilities, in the order of `names`."""
        old, new = dict(zip(self.names, before, strict=True)), dict(zip(self.names, after, strict=True))
        success = all((new[name] > DECISION) == wanted for name, wanted in expects.items()) if expects else None
        grouped = {name for members in self.groups.values() for name in members}
        flips = [
            name for name in self.names if name not in grouped and name not in expects and (old[name] > DECISION) != (new[name] > DECISION)
        ]
        for members in self.groups.values():
            was, became = max(members, key=old.__getitem__), max(members, key=new.__getitem__)
            if was != became and not _implied(was, became, expects):
                flips.append(became)
        return AttributeVerdict(success=success, flips=tuple(sorted(flips, key=self.names.index)))


def reads_reliably(expects: Mapping[str, bool]) -> bool:
    """Say whether attributes can be read after an edit that expects this: not when it asks for a style, in which none were learnt."""
    return not any(name.startswith(STYLE_PREFIX) and wanted for name, wanted in expects.items())


def _implied(was: str, became: str, expects: Mapping[str, bool]) -> bool:
    """A group had to change from `was` to `became` when the new member was asked for, or the old one was asked to go."""
    return expects.get(became) is True or expects.get(was) is False
