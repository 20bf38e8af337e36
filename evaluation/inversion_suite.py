"""Suite `inversion`: how well inverters reproduce held-out portraits, what they cost, what they leave alone, and what can be edited after.

The columns are those of HyperStyle Table 2 and GANI Table 2, with PSNR and the same-person rate; the curve is that of HyperStyle Figure 6.

Shape legend: N pictures, B batch, C channels, H/W rows/columns, L latent slots, D style width. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

from models.directions import Directions
from models.inverters import Inverter
from models.optimisation import Stepwise
from models.pack import Pack
from models.perceptual import PerceptualDistance
from models.state import GeneratorState
from models.stylegan2 import Generator

NAME = "inversion"
BATCH = 16
SILENT_S = 10.0
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST_FOR_FIVE_SCALES = 176  # what torchmetrics' check leaves for a kernel of 11
Say = Callable[[str], None]
Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Inverted:
    """What a method made of the pictures: one state per batch, the reconstructions (N, 3, H, W), and the seconds it took in all."""

    states: Sequence[GeneratorState]
    image_NCHW: Tensor
    seconds: float


class Judge:
    """The networks that pictures are compared with, built once; a pack without an identity network has no measures of who is shown."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.lpips = PerceptualDistance(device=pack.device)
        known = pack.info.networks.get("identity")
        self.identity = pack.identity() if known is not None else None
        self.threshold = known.numbers.get("threshold_far1") if known is not None else None

    @torch.no_grad()
    def columns(self, made_NCHW: Tensor, wanted_NCHW: Tensor) -> dict[str, Tensor]:
        """Return every measure of each picture, (N,)."""
        parts = [self._batch(made, wanted) for made, wanted in zip(made_NCHW.split(BATCH), wanted_NCHW.split(BATCH), strict=True)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _batch(self, made_BCHW: Tensor, wanted_BCHW: Tensor) -> dict[str, Tensor]:
        made = made_BCHW.clamp(-1, 1)
        l2 = (made - wanted_BCHW).square().mean((1, 2, 3))
        betas = scales(made.shape[-1])
        structure = ms_ssim((made + 1) / 2, (wanted_BCHW + 1) / 2, data_range=1.0, betas=betas, reduction="none")
        assert isinstance(structure, Tensor)
        psnr = 10 * torch.log10(4 / l2.clamp_min(1e-10))
        return self._who(made, wanted_BCHW) | {"ms_ssim": structure, "lpips": self.lpips(made, wanted_BCHW), "l2": l2, "psnr_db": psnr}

    def _who(self, made_BCHW: Tensor, wanted_BCHW: Tensor) -> dict[str, Tensor]:
        if self.identity is None:
            return {}
        same = (self.identity(made_BCHW) * self.identity(wanted_BCHW)).sum(1)
        return {"identity": same} | ({} if self.threshold is None else {"same_person": (same >= self.threshold).float()})


def scales(size: int) -> tuple[float, ...]:
    """Return the weights of MS-SSIM's scales: all five from 176 pixels up, else the first three, brought to the sum 1.

    Raises ValueError below 44 pixels.
    """
    if size >= SMALLEST_FOR_FIVE_SCALES:
        return BETAS
    if size < SMALLEST_FOR_FIVE_SCALES // 4:
        raise ValueError(f"MS-SSIM: expected pictures of {SMALLEST_FOR_FIVE_SCALES // 4} pixels or more, found {size}")
    return tuple(beta / sum(BETAS[:3]) for beta in BETAS[:3])


def run(inverter: Inverter, generator: Generator, images_NCHW: Tensor, *, batch: int = BATCH, say: Say | None = None) -> Inverted:
    """Invert all pictures, in batches; only the inverter's own time counts. `say` hears of progress every few seconds."""
    states, made, seconds = list[GeneratorState](), list[Tensor](), 0.0
    heard = time.monotonic()

    def tell(done: int, total: int, losses_B: Tensor) -> None:
        nonlocal heard
        if say is not None and time.monotonic() - heard > SILENT_S:
            heard = time.monotonic()
            say(f"{inverter.name}: {sum(map(len, made))} of {len(images_NCHW)}, step {done} of {total} of the next")

    if isinstance(inverter, Stepwise):
        inverter.on_step = tell
    for part in images_NCHW.split(batch):
        finish(part.device)  # of the last picture's synthesis
        start = time.perf_counter()
        state = inverter.invert(part)
        finish(part.device)
        seconds += time.perf_counter() - start
        states.append(state)
        with torch.no_grad():
            made.append(generator(state))
        if say is not None and time.monotonic() - heard > SILENT_S:
            heard = time.monotonic()
            say(f"{inverter.name}: {sum(map(len, made))} of {len(images_NCHW)}")
    return Inverted(states=states, image_NCHW=torch.cat(made), seconds=seconds)


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was told, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def row(judge: Judge, inverted: Inverted, wanted_NCHW: Tensor) -> Numbers:
    """Return the means of a method's measures, their standard errors (`*_se`) and its seconds per picture."""
    n = len(wanted_NCHW)
    found: Numbers = {"pictures": float(n), "seconds": inverted.seconds / n}
    for name, values in judge.columns(inverted.image_NCHW, wanted_NCHW).items():
        found |= {name: float(values.mean()), f"{name}_se": float(values.std() / n**0.5) if n > 1 else 0.0}
    return found


def table(
    judge: Judge, inverters: Mapping[str, Inverter], images_NCHW: Tensor, *, say: Say
) -> tuple[dict[str, Numbers], dict[str, Inverted]]:
    """Return the table of inverters by label on the same pictures, and what each made of them."""
    rows, made = dict[str, Numbers](), dict[str, Inverted]()
    for label, inverter in inverters.items():
        made[label] = run(inverter, judge.pack.generator(), images_NCHW, say=say)
        rows[label] = row(judge, made[label], images_NCHW)
        shown = (name for name in ("identity", "ms_ssim", "lpips", "l2", "seconds") if name in rows[label])
        figures = ", ".join(f"{name} {rows[label][name]:.4f}" for name in shown)
        say(f"{label}: {figures}")
    return rows, made


@torch.no_grad()
def drift(judge: Judge, state: GeneratorState, *, latents: int = 100, seed: int = 0) -> Tensor:
    """Return how far the offsets of each picture move the pictures of other random latents in W: mean LPIPS, (B,) (GANI, locality)."""
    generator, lpips = judge.pack.generator(), judge.lpips
    z = torch.randn(latents, generator.style_dim, generator=torch.Generator().manual_seed(seed))
    others = generator.repeat(generator.mapping(z.to(state.latents_BLD)))
    plain = [lpips.features(generator.synthesis(part).clamp(-1, 1)) for part in others.split(BATCH)]
    found = []
    for picture in range(len(state)):
        offsets = state.slice(picture, picture + 1).offsets
        moved = [
            lpips.distance(lpips.features(generator.synthesis(part, offsets).clamp(-1, 1)), before)
            for part, before in zip(others.split(BATCH), plain, strict=True)
        ]
        found.append(torch.cat(moved).mean())
    return torch.stack(found)


@torch.no_grad()
def editability(
    judge: Judge, inverted: Inverted, images_NCHW: Tensor, *, direction: Directions, amounts: Sequence[float], attribute: str
) -> list[Numbers]:
    """Return for every amount along a direction how much the attribute changed and how much of the person stayed (HyperStyle Figure 6).

    `change` is the mean change of the attribute's probability from the reconstruction's, `identity` the mean similarity to the input.
    """
    column = judge.pack.attributes().names.index(attribute)
    points = [effect(judge, inverted, images_NCHW, direction=direction, amount=amount) for amount in (0.0, *amounts)]
    return [
        {"amount": amount, "change": float(shown[column] - points[0][0][column]), "identity": same}
        for amount, (shown, same) in zip((0.0, *amounts), points, strict=True)
    ]


@torch.no_grad()
def effect(judge: Judge, inverted: Inverted, images_NCHW: Tensor, *, direction: Directions, amount: float) -> tuple[Tensor, float]:
    """Return the mean probability of every attribute after a move along a direction, (A,), and the mean similarity to the inputs."""
    generator, net = judge.pack.generator(), judge.pack.attributes()
    assert judge.identity is not None
    shown, same = [], []
    rest = images_NCHW
    for state in inverted.states:
        made = generator.synthesis(direction.moved(state.latents_BLD, amount), state.offsets).clamp(-1, 1)
        shown.append(net.probabilities(made))
        same.append((judge.identity(made) * judge.identity(rest[: len(made)])).sum(1))
        rest = rest[len(made) :]
    return torch.cat(shown).mean(0), float(torch.cat(same).mean())


def at_change(curve: Sequence[Numbers], change: float) -> float | None:
    """Return the identity similarity of a curve at a measured change, between its points; None beyond them."""
    points = sorted((point["change"], point["identity"]) for point in curve)
    for (low, a), (high, b) in zip(points, points[1:], strict=False):
        if low <= change <= high:
            return b if high == low else a + (b - a) * (change - low) / (high - low)
    return None
