"""Train HyperEditor on many instructions at once: directional (or, as the ablation, global) CLIP loss, identity and L2.

Every sample of a batch has its own instruction and a portrait that does not show the target yet; the further an instruction still is
from its target, the oftener it is drawn. The first phase has the release's weights (L2 1, identity 0.1, CLIP 1, Ranger), with which
hair colours and styles stay half done, because they change many pixels; the second has a smaller L2.
Differs: before CLIP both pictures are shifted alike by up to two pixels, which keeps a CLIP of 3 million parameters from being fooled
by texture that only fits its grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pytorch_optimizer import Ranger
from torch import Tensor
from torch.nn import functional as F

from models.clip import ClipModel
from models.encoders import Encoder4Editing
from models.hypereditor import HyperEditor
from models.instruction import Instruction
from models.losses import directional_clip_loss, global_clip_loss, identity_loss
from models.perception import AttributeNet, IdentityNet
from models.stylegan2 import Generator
from pipeline.attributes import DECISION, AttributeJudge
from portraits import ATTRIBUTE_NAMES, Parameters, sample_parameters
from training.data import HELD_OUT, aligned_bank, seeded, to_bytes, to_float
from training.loop import Log, cosine, half_precision, set_rate

STYLE_PREFIX = "style_"


@dataclass(frozen=True, kw_only=True)
class HyperEditorConfig:
    """Settings of HyperEditor's training; steps count mixed batches."""

    widths: Sequence[int] = (24, 48, 96, 160)
    depths: Sequence[int] = (1, 1, 1, 1)
    inner: int = 96
    kernel_size: int = 1
    pictures: int = 6_000
    phases: Sequence[tuple[int, float]] = ((2400, 1.0), (3000, 0.1))  # steps and weight of L2
    batch: int = 12
    rate: float = 1e-3
    clip: float = 1.0
    identity: float = 0.1
    loss: Literal["directional", "global"] = "directional"
    seed: int = 71


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The frozen networks that training and measuring lean on."""

    generator: Generator
    mean_latent: Tensor
    e4e: Encoder4Editing
    clip: ClipModel
    identity: IdentityNet
    attributes: AttributeNet
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Inversions:
    """Portraits with their codes and reconstructions (bytes), computed once."""

    parameters: Parameters
    pictures: Tensor
    latents_NLD: Tensor
    reconstructions: Tensor


@torch.no_grad()
def invert(n: int, judges: Judges, *, seed: int) -> Inversions:
    """Render and invert `n` portraits."""
    p = sample_parameters(n, seeded(seed))
    bank = aligned_bank(p, size=judges.generator.size, seed=seed)
    latents, made = [], []
    for part in bank.split(200):
        w = judges.e4e(to_float(part)) + judges.mean_latent
        latents.append(w)
        made.append(to_bytes(judges.generator.synthesis(w)))
    return Inversions(parameters=p, pictures=bank, latents_NLD=torch.cat(latents), reconstructions=torch.cat(made))


def eligible(instruction: Instruction, p: Parameters) -> Tensor:
    """Return the rows of portraits that do not show what the instruction asks for."""
    wanted = [name for name, on in instruction.expects.items() if on and name in ATTRIBUTE_NAMES]
    hidden = p.columns(("bald", "hat")).amax(1) > 0.5 if any(name.startswith("hair_") or name == "bangs" for name in wanted) else None
    shown = p.columns(wanted).amin(1) > 0.5 if wanted else torch.zeros(len(p), dtype=torch.bool)
    return (~shown if hidden is None else ~shown & ~hidden).nonzero().flatten()


def network_config(config: HyperEditorConfig, judges: Judges) -> dict[str, object]:
    """Return the constructor arguments that the pack stores."""
    return {
        "size": judges.generator.size, "channels": judges.generator.channels, "kernel_size": config.kernel_size,
        "input_size": judges.generator.size, "text_dim": judges.clip.embed_texts(["a face"]).shape[1],
        "widths": list(config.widths), "depths": list(config.depths), "inner": config.inner,
    }  # fmt: skip


def train(
    config: HyperEditorConfig, folder: Path, *, judges: Judges, instructions: Sequence[Instruction], name: str = "hypereditor"
) -> tuple[HyperEditor, dict[str, float]]:
    """Train on `instructions`; returns the hypernetwork and its training time (measure with `measure`)."""
    torch.manual_seed(config.seed)
    net = HyperEditor.from_config(network_config(config, judges))
    log = Log(folder / f"{name}.jsonl", name=name, steps=sum(steps for steps, _ in config.phases))
    done = 0
    for phase, (steps, l2) in enumerate(config.phases):
        run = _Phase(config, judges, instructions, net=net, seed=config.seed + phase)
        for step in range(steps):
            slow = 1.5 * cosine(step, steps=steps, warmup=0)
            set_rate(run.optimizer, config.rate * min(1.0, slow))
            figures = run.step(l2)
            if step % 50 == 0 or step + 1 == steps:
                log(done + step, **figures)
            if step % 500 == 499:
                torch.save(net.state_dict(), folder / f"{name}.partial.pt")
        done += steps
    return net.eval(), {"training_s": round(log.seconds, 1)}


class _Phase:
    """One phase: its own optimiser, random stream and running loss of every instruction."""

    def __init__(
        self, config: HyperEditorConfig, judges: Judges, instructions: Sequence[Instruction], *, net: HyperEditor, seed: int
    ) -> None:
        self.config, self.judges, self.net = config, judges, net
        self.stream = seeded(seed)
        self.data = invert(config.pictures, judges, seed=seed)
        self.rows_of = [eligible(instruction, self.data.parameters) for instruction in instructions]
        self.target_KE = judges.clip.embed_texts([i.target for i in instructions])
        self.direction_KE = self.target_KE - judges.clip.embed_texts([i.source for i in instructions])
        self.difficulty_K = torch.ones(len(instructions))
        self.optimizer = Ranger(net.parameters(), lr=config.rate)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return the instruction of each sample, in proportion to the instructions' running losses, and a portrait for each."""
        kind = torch.multinomial(self.difficulty_K + 0.1, self.config.batch, replacement=True, generator=self.stream)
        rows = [self.rows_of[k][torch.randint(len(self.rows_of[k]), (1,), generator=self.stream)[0]] for k in kind.tolist()]
        return kind, torch.stack(rows)

    def step(self, l2: float) -> dict[str, float]:
        """Make one step of the optimiser; returns the losses."""
        config, judges = self.config, self.judges
        kind, rows = self.draw()
        made, before = to_float(self.data.reconstructions[rows]), to_float(self.data.pictures[rows])
        with half_precision():
            offsets = {i: o.float() for i, o in self.net(made, self.direction_KE[kind]).items()}
            edited = judges.generator.synthesis(self.data.latents_NLD[rows], offsets).float()
        clip_B = _clip_loss(config, judges, (edited, made), (self.direction_KE[kind], self.target_KE[kind]), self.stream)
        with half_precision():
            same = judges.identity(edited)
        who = identity_loss(same.float(), judges.identity(before))
        loss = config.clip * clip_B.mean() + config.identity * who + l2 * F.mse_loss(edited, before)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        for k, value in zip(kind.tolist(), clip_B.tolist(), strict=True):
            self.difficulty_K[k] += 0.05 * (value - self.difficulty_K[k])
        return {"loss": loss.item(), "clip": clip_B.mean().item(), "identity": who.item()}


def _clip_loss(
    config: HyperEditorConfig, judges: Judges, pictures: tuple[Tensor, Tensor], texts: tuple[Tensor, Tensor], stream: torch.Generator
) -> Tensor:
    """Return the CLIP loss of each (edited, before) under (direction, target), both pictures shifted alike."""
    dy, dx = torch.randint(-2, 3, (2,), generator=stream).tolist()
    edited, before = (torch.roll(picture, (dy, dx), (2, 3)) for picture in pictures)
    with half_precision():
        after_E = judges.clip.embed_images(edited)
        with torch.no_grad():
            before_E = judges.clip.embed_images(before)
    if config.loss == "global":
        return global_clip_loss(after_E.float(), texts[1])
    return directional_clip_loss(after_E.float(), before_E.float(), texts[0])


@torch.no_grad()
def measure(
    net: HyperEditor, *, judges: Judges, instructions: Sequence[Instruction], pictures: int = 200, seed: int = HELD_OUT + 7
) -> dict[str, dict[str, float]]:
    """Measure every instruction on held-out portraits that do not show it yet: success, same person, collateral changes."""
    data = invert(pictures * 4, judges, seed=seed)
    result: dict[str, dict[str, float]] = {}
    for instruction in instructions:
        rows = eligible(instruction, data.parameters)[:pictures]
        direction = judges.clip.embed_texts([instruction.target]) - judges.clip.embed_texts([instruction.source])
        totals = [_judge(net, judges, data, part, direction, instruction) for part in rows.split(50)]
        names = [
            "success",
            "same_person",
            "success_same_person",
            "identity",
            "psnr_db",
            "collateral",
            *(f"flip_{n}" for n in judges.attributes.names),
        ]
        style = float(any(name.startswith(STYLE_PREFIX) for name in instruction.expects))
        figures = dict(zip(names, torch.cat(totals).mean(0).tolist(), strict=True))
        result[instruction.name] = {"portraits": float(len(rows)), "style": style} | figures
    return result


def _judge(net: HyperEditor, judges: Judges, data: Inversions, rows: Tensor, direction: Tensor, instruction: Instruction) -> Tensor:
    before = to_float(data.pictures[rows])
    offsets = {i: o * instruction.strength for i, o in net(to_float(data.reconstructions[rows]), direction).items()}
    edited = judges.generator.synthesis(data.latents_NLD[rows], offsets).clamp(-1, 1)
    same = (judges.identity(edited) * judges.identity(before)).sum(1)
    said, was = judges.attributes.probabilities(edited), judges.attributes.probabilities(before)
    names = judges.attributes.names
    success = torch.stack([(said[:, names.index(name)] > DECISION) == on for name, on in instruction.expects.items()]).all(0)
    psnr = 10 * torch.log10(4 / (edited - before).square().mean((1, 2, 3)))
    judge = AttributeJudge(names=names, groups=judges.attributes.groups)
    verdicts = [judge.verdict(*pair, instruction.expects).flips for pair in zip(was.tolist(), said.tolist(), strict=True)]
    flips = torch.tensor([[float(name in verdict) for name in names] for verdict in verdicts])
    kept = same > judges.threshold
    figures = torch.stack([success.float(), kept.float(), (success & kept).float(), same, psnr, flips.sum(1)], 1)
    return torch.cat([figures, flips], 1)


def summary(detail: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the figures of `measure` in short: mean and worst success, same-person rate of attribute edits, collateral flips per edit."""
    attribute_edits = [figures for figures in detail.values() if figures["style"] < 0.5]
    success = [figures["success"] for figures in detail.values()]
    result = {"success_mean": sum(success) / len(success), "success_worst": min(success)}
    if attribute_edits:
        result["same_person_attribute_edits"] = sum(f["same_person"] for f in attribute_edits) / len(attribute_edits)
        result["success_same_person"] = sum(f["success_same_person"] for f in attribute_edits) / len(attribute_edits)
        result["collateral_flips"] = sum(f["collateral"] for f in attribute_edits) / len(attribute_edits)
    return result | {f"success_{name}": figures["success"] for name, figures in detail.items()}
