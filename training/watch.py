"""What a training tells while it runs: the terminal, OUTPUT/log.jsonl, sample sheets, and whoever else records (MLflow)."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from PIL import Image
from torch import Tensor

from pipeline.storage import Storage

LOG = "log.jsonl"
TERMINAL_EVERY_S = 5.0
SENT_AGAIN = 500  # lines of the log that a resumed training hands over once more
Say = Callable[[str], None]


class Recorder(Protocol):
    """Somebody who keeps the figures and pictures of a training."""

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep figures of a step."""
        ...

    def picture(self, step: int, png: bytes) -> None:
        """Keep a sample sheet of a step."""
        ...


class Watch:
    """Report for the first worker; the others' is silent. The log is written just before every checkpoint and so ends where one is."""

    def __init__(
        self, output: str, *, name: str, steps: int, silent: bool = False, recorder: Recorder | None = None, say: Say | None = None
    ) -> None:
        self._storage, self._name, self._steps = Storage(output), name, steps
        self._silent, self._recorder, self._say = silent, recorder, say or to_terminal
        self._lines: list[dict[str, object]] = []
        self._start, self._first, self._said = time.monotonic(), 0, -TERMINAL_EVERY_S

    def resumed(self, step: int) -> None:
        """Go on at a step: later lines of the log are forgotten, since they will come again."""
        self._first = step
        if self._silent:
            return
        if self._storage.exists(LOG):
            lines = [json.loads(line) for line in self._storage.read(LOG).decode().splitlines()]
            self._lines = [line for line in lines if line["step"] <= step]
        if self._recorder is not None:  # what a killed process had not handed over; the rest it knows
            for line in self._lines[-SENT_AGAIN:]:
                figures = {key: float(str(value)) for key, value in line.items() if key not in ("step", "of", "s")}
                self._recorder.metrics(int(str(line["step"])), figures)
        self._say(f"{self._name} goes on at step {step} of {self._steps}")

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Report figures of a step."""
        if self._silent:
            return
        elapsed = time.monotonic() - self._start
        per_s = (step - self._first) / max(elapsed, 1e-9)
        line: dict[str, object] = {"step": step, "of": self._steps, "s": round(elapsed, 4)}
        line |= {key: float(f"{value:.7g}") for key, value in figures.items()}
        images = figures.get("images")
        rate = {"images_per_s": round(images / step * per_s, 2)} if images is not None else {}
        self._lines.append(line | rate)
        if self._recorder is not None:
            self._recorder.metrics(step, {**figures, **rate})
        if step == self._steps or elapsed - self._said >= TERMINAL_EVERY_S:
            self._said = elapsed
            left = (self._steps - step) / max(per_s, 1e-9)
            shown = ", ".join(f"{key} {value:.4g}" for key, value in figures.items() if key not in ("images", "learning_rate"))
            self._say(f"{self._name} {step}/{self._steps}, {shown}, {left:.0f} s left")

    def sheet(self, step: int, pictures_NCkHW: Tensor) -> None:
        """Keep rows of pictures (N, C, 3, H, W) in [-1, 1] as a PNG."""
        if self._silent:
            return
        png = sheet_png(pictures_NCkHW)
        self._storage.write(f"sheets/step-{step:06d}.png", png, durable=False)
        if self._recorder is not None:
            self._recorder.picture(step, png)

    def saves(self) -> None:
        """Write the log: a checkpoint is about to be written."""
        if not self._silent:
            self._storage.write(LOG, "".join(json.dumps(line) + "\n" for line in self._lines).encode(), durable=False)


def to_terminal(text: str) -> None:
    """Say something on standard error: standard output holds the result alone."""
    print(f"train: {text}", file=sys.stderr, flush=True)


def sheet_png(pictures_NCkHW: Tensor) -> bytes:
    """Return rows of pictures as one PNG."""
    n, columns, channels, height, width = pictures_NCkHW.shape
    table = pictures_NCkHW.permute(0, 3, 1, 4, 2).reshape(n * height, columns * width, channels)
    pixels = (table * 127.5 + 127.5).round().clamp(0, 255).byte().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
