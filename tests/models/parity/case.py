"""Run one parity case: official key names in, stored reference numbers out."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tests.models.parity import fill

HERE = Path(__file__).parent


class Case:
    """Hold the inputs and the expected outputs of one case."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.facts = _cases()["cases"][name]
        self.inputs = {key: fill.make_input(recipe) for key, recipe in self.facts["inputs"].items()}

    def load(self, role: str, module: nn.Module) -> nn.Module:
        """Fill a module built on the meta device with the case's weights, strictly, in eval mode."""
        module.load_state_dict(self.weights(role), strict=True, assign=True)
        return module.eval()

    def weights(self, role: str) -> dict[str, Tensor]:
        """Return the case's weights of a role under their official names, without a prefix."""
        recipe = self.facts["weights"][role]
        return _weights(recipe["layout"], recipe["seed"])

    def check(self, outputs: dict[str, Tensor]) -> None:
        """Compare every output with the stored numbers at the case's own tolerance."""
        assert set(outputs) == set(self.facts["outputs"])
        with np.load(HERE / "golden" / f"{self.name}.npz") as golden:
            for key, spec in self.facts["outputs"].items():
                assert list(outputs[key].shape) == spec["shape"], key
                l2, largest = fill.errors(fill.take(outputs[key], spec["grid"]), golden[key])
                assert l2 <= spec["tolerance"][0] and largest <= spec["tolerance"][1], (key, l2, largest, spec["tolerance"])


@functools.cache
def _cases() -> dict:
    return json.loads((HERE / "cases.json").read_text())


# Drawing the numbers costs more than running the networks; one entry, since the 1024 px ones weigh a gigabyte.
@functools.lru_cache(maxsize=1)
def _weights(layout: str, seed: int) -> dict[str, Tensor]:
    return fill.fill(fill.load_layout(HERE / "layouts" / f"{layout}.json"), seed)


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as a checkpoint names them."""
    return {f"{prefix}.{key}": value for key, value in weights.items()}


def meta() -> torch.device:
    """Return the device on which modules are built without drawing weights that would be thrown away."""
    return torch.device("meta")
