"""Refuse inputs that torch would broadcast into a number that means nothing."""

from __future__ import annotations

from torch import Tensor


def check_same_shape(name: str, made: Tensor, wanted: Tensor) -> None:
    """Raise ValueError unless both inputs of the loss `name` have one shape."""
    if made.shape != wanted.shape:
        raise ValueError(f"{name}: both inputs must have one shape, found {tuple(made.shape)} and {tuple(wanted.shape)}")
