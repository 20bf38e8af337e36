"""Which edit a sample gets: chance that depends on who and what alone, so that it is the same for whoever asks. No torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping

from augmentation.edits import Edit

BITS = 56


def weighted_order(edits: Iterable[Edit], labels: Mapping[str, bool], chance_of: Callable[[Edit], float]) -> list[Edit]:
    """Return edits drawn one after the other by their weights, without those whose result is there."""
    return sorted((edit for edit in edits if not shows(edit, labels)), key=lambda edit: -rank(edit, chance_of(edit)))


def rank(edit: Edit, drawn: float) -> float:
    """Return what decides who comes first when edits are drawn by their weights: the largest (Efraimidis and Spirakis 2006).

    The logarithm of their key, since that itself is nought for every small weight.
    """
    return math.log(drawn) / edit.weight if drawn else -math.inf


def shows(edit: Edit, labels: Mapping[str, bool]) -> bool:
    """Say whether somebody with these labels shows all that an edit would make."""
    return bool(edit.expects) and all(labels.get(name, False) == wanted for name, wanted in edit.expects.items())


def chance(*what: object) -> float:
    """Return a number in [0, 1) that depends on these values alone."""
    digest = hashlib.sha256("\0".join(str(one) for one in what).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[: BITS // 8], "big") / 2**BITS
