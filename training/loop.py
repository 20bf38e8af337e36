"""What every training loop shares: a log that is also the record, a schedule, mixed precision, batches of indices."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn


class Log:
    """Print and keep one JSON line per report: step, of, seconds, and the figures."""

    def __init__(self, path: Path, *, name: str, steps: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self._path = path
        self._name, self._steps, self._start = name, steps, time.monotonic()

    def __call__(self, step: int, **figures: float) -> None:
        """Report `figures` at `step`."""
        line = {"train": self._name, "step": step, "of": self._steps, "s": round(self.seconds, 1)}
        line |= {key: round(float(value), 5) for key, value in figures.items()}
        text = json.dumps(line)
        print(text, flush=True)
        with self._path.open("a") as file:
            file.write(text + "\n")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start


def half_precision(device: torch.device | str = "cpu") -> AbstractContextManager[object]:
    """Run matrix products and convolutions in bfloat16."""
    return torch.autocast(torch.device(device).type, torch.bfloat16)


def cosine(step: int, *, steps: int, warmup: int = 50) -> float:
    """Return the factor of the learning rate: linear warm-up, then a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def batches(n: int, *, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield index batches for ever, each pass over the `n` rows in a new order."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % batch].split(batch)


class Average:
    """Keep an exponential moving average of a module's floating parameters and buffers."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module."""
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - self.decay)
            else:
                self.state[key].copy_(value)


def mean(values: Sequence[float]) -> float:
    """Return the mean of a non-empty list."""
    return sum(values) / len(values)
