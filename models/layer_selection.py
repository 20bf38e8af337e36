"""HyperEditor's adaptive layer selector: which generator layers an instruction needs.

Shape legend: L latent slots. Source: HyperEditor section 3.4, eq. 6.
"""

from __future__ import annotations

from torch import Tensor

DEFAULT_LAMBDA_STD = 0.6


def chosen_slots(movement_L: Tensor, *, lambda_std: float = DEFAULT_LAMBDA_STD, as_released: bool = False) -> Tensor:
    """Return for every slot but the last whether it moved enough to be edited, (L - 1,) of bool.

    `movement_L` is the mean absolute change of each slot's latent; a slot is chosen from mean + `lambda_std` * deviation on. The paper
    takes mean and population deviation over the slots that can be chosen, the released code (`as_released`) mean and sample deviation
    over all. Raises ValueError for anything but one number per slot.
    """
    if movement_L.ndim != 1 or len(movement_L) < 3:
        raise ValueError(f"layer selector: expected one movement for each of 3 or more slots, found shape {tuple(movement_L.shape)}")
    eligible = movement_L[:-1]
    measured = movement_L if as_released else eligible
    return eligible >= measured.mean() + lambda_std * measured.std(correction=1 if as_released else 0)
