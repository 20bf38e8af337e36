"""Run a script with all floating-point arithmetic of torch in float64: python benchmarks/in_float64.py SCRIPT [ARGUMENTS].

Two runs that differ in float32 because their training amplifies rounding agree here, and two that compute different things do not.
"""

from __future__ import annotations

import runpy
import sys

import torch


def main() -> None:
    """Run the script named by the first argument as `__main__`."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
