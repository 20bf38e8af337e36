"""Which edits are kept, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from augmentation.edits import SAME_PERSON, Gates

SUCCESS, IDENTITY, COLLATERAL, REALISM = "success", "identity", "collateral", "realism"
REASONS: Mapping[str, str] = {
    SUCCESS: "the classifier does not see clearly enough what was asked for",
    IDENTITY: "not clearly the same person",
    COLLATERAL: "too much else changed",
    REALISM: "unlike the generator's own pictures",
}
"""Gate -> what it means that an edit did not pass, in the order in which gates are asked."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the gates look at; None is what no network of the pack measures.

    `certainty` is the least probability of what is expected, in the picture and in its mirror image, in [0, 1]; `identity` a cosine;
    `collateral` a count; `realism` a distance whose 1 is the 99 % quantile of the generator's own.
    """

    certainty: float | None
    identity: float | None
    collateral: int | None
    realism: float | None


def failing(gates: Gates, measured: Measured, *, same_person: float | None) -> str | None:
    """Return the first gate that an edit does not pass; `same_person` is the identity network's own threshold."""
    if _below(measured.certainty, gates.success):
        return SUCCESS
    if _below(measured.identity, identity_threshold(gates, same_person)):
        return IDENTITY
    if gates.collateral is not None and measured.collateral is not None and measured.collateral > gates.collateral:
        return COLLATERAL
    if gates.realism is not None and measured.realism is not None and measured.realism > gates.realism:
        return REALISM
    return None


def identity_threshold(gates: Gates, same_person: float | None) -> float | None:
    """Return the least similarity that passes; None where nothing is asked."""
    return same_person if gates.identity == SAME_PERSON else None if gates.identity is None else float(gates.identity)


def certainty(views: Sequence[Mapping[str, float]], expects: Mapping[str, bool]) -> float | None:
    """Return the least probability of anything expected, in any view of a picture; None where nothing is expected.

    A search for the smallest strength that a classifier lets through ends where that classifier errs. It is harder to be wrong about a
    picture and its mirror image at once (docs/augmentation.md has figures).
    """
    return min((view[name] if wanted else 1 - view[name] for view in views for name, wanted in expects.items()), default=None)


def _below(value: float | None, least: float | None) -> bool:
    return least is not None and value is not None and value < least
