"""What an editor is trained on and judged by: portraits with their inversions, and the frozen networks that look at the edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.clip import ClipModel
from models.editors import Editor
from models.instruction import Instruction
from models.inversion import Inversion
from models.inverters import Inverter
from models.losses import directional_clip_loss
from models.pack import Pack
from models.perception import AttributeNet, IdentityNet
from models.state import GeneratorState
from models.stylegan2 import Generator
from pipeline.attributes import DECISION, AttributeJudge
from portraits import ATTRIBUTE_NAMES, Parameters, sample_parameters
from training.data import aligned_bank, device_of, seeded, to_bytes, to_float

STYLE_PREFIX = "style_"


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The frozen networks that training and measuring lean on."""

    generator: Generator
    inverter: Inverter
    clip: ClipModel
    identity: IdentityNet
    attributes: AttributeNet | None
    threshold: float

    @classmethod
    def of(cls, pack: Pack, *, inverter: str = "e4e") -> Judges:
        """Take them out of a pack; one without an attribute classifier can train, but success is not measured."""
        return cls(
            generator=pack.generator(), inverter=pack.inverter(inverter), clip=pack.clip(), identity=pack.identity(),
            attributes=pack.attributes() if "attributes" in pack.info.networks else None,
            threshold=pack.info.networks["identity"].numbers.get("threshold_far1", 0.0),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Inversions:
    """Portraits with their codes and reconstructions (bytes), computed once."""

    parameters: Parameters
    pictures: Tensor
    latents_NLD: Tensor
    reconstructions: Tensor

    def batch(self, rows: Tensor, *, device: torch.device) -> Inversion:
        """Return some of them as an editor takes them."""
        state = GeneratorState(latents_BLD=self.latents_NLD[rows].to(device))
        aligned, made = (to_float(bank[rows]).to(device) for bank in (self.pictures, self.reconstructions))
        return Inversion(aligned_BCHW=aligned, state=state, made_BCHW=made)


@torch.no_grad()
def invert(p: Parameters, judges: Judges, *, seed: int) -> Inversions:
    """Render and invert portraits."""
    bank = aligned_bank(p, size=judges.generator.size, seed=seed)
    latents, made = [], []
    for part in bank.split(200):
        w = judges.inverter.invert(to_float(part).to(device_of(judges.generator))).latents_BLD
        latents.append(w.cpu())
        made.append(to_bytes(judges.generator.synthesis(w)).cpu())
    return Inversions(parameters=p, pictures=bank, latents_NLD=torch.cat(latents), reconstructions=torch.cat(made))


def eligible(instruction: Instruction, p: Parameters) -> Tensor:
    """Return the rows of portraits that do not show what the instruction asks for."""
    wanted = [name for name, on in instruction.expects.items() if on and name in ATTRIBUTE_NAMES]
    hidden = p.columns(("bald", "hat")).amax(1) > 0.5 if any(name.startswith("hair_") or name == "bangs" for name in wanted) else None
    shown = p.columns(wanted).amin(1) > 0.5 if wanted else torch.zeros(len(p), dtype=torch.bool)
    return (~shown if hidden is None else ~shown & ~hidden).nonzero().flatten()


@torch.no_grad()
def measure(
    editor: Editor, *, judges: Judges, instructions: Sequence[Instruction], pictures: int = 200, seed: int
) -> dict[str, dict[str, float]]:
    """Measure every instruction on rendered portraits that do not show it yet: success, same person, collateral changes."""
    assert judges.attributes is not None
    people = sample_parameters(pictures * 4, seeded(seed))
    chosen = [eligible(instruction, people)[:pictures] for instruction in instructions]
    used = torch.cat(chosen).unique()  # sorted: only these are rendered
    data = invert(people.slice(used), judges, seed=seed)
    result: dict[str, dict[str, float]] = {}
    for instruction, wanted in zip(instructions, chosen, strict=True):
        rows = torch.searchsorted(used, wanted)
        totals = [_judge(editor, judges, data, part, instruction) for part in rows.split(50)]
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


def _judge(editor: Editor, judges: Judges, data: Inversions, rows: Tensor, instruction: Instruction) -> Tensor:
    assert judges.attributes is not None
    device = device_of(judges.generator)
    inversion = data.batch(rows, device=device)
    before = inversion.aligned_BCHW
    edited = judges.generator(editor.edit(inversion, instruction)).clamp(-1, 1)
    same = (judges.identity(edited) * judges.identity(before)).sum(1)
    said, was = judges.attributes.probabilities(edited), judges.attributes.probabilities(before)
    names = judges.attributes.names
    success = torch.stack([(said[:, names.index(name)] > DECISION) == on for name, on in instruction.expects.items()]).all(0)
    psnr = 10 * torch.log10(4 / (edited - before).square().mean((1, 2, 3)))
    judge = AttributeJudge(names=names, groups=judges.attributes.groups)
    verdicts = [judge.verdict(*pair, instruction.expects).flips for pair in zip(was.tolist(), said.tolist(), strict=True)]
    flips = torch.tensor([[float(name in verdict) for name in names] for verdict in verdicts], device=device)
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


@torch.no_grad()
def measure_pictures(
    editor: Editor, bank: Tensor, latents_NLD: Tensor, *, judges: Judges, instructions: Sequence[Instruction]
) -> dict[str, float]:
    """Return what can be said without truth, means over stored pictures (N, 3, H, W) and instructions.

    `direction`: cosine of picture and text directions; `identity`: similarity to the picture before; `same_person`: its rate.
    """
    device, totals = device_of(judges.generator), list[Tensor]()
    for instruction in instructions:
        direction = judges.clip.embed_texts([instruction.target]) - judges.clip.embed_texts([instruction.source])
        for rows in torch.arange(len(bank)).split(50):
            before, w = to_float(bank[rows]).to(device), latents_NLD[rows].to(device)
            made = judges.generator.synthesis(w)
            inversion = Inversion(aligned_BCHW=before, state=GeneratorState(latents_BLD=w), made_BCHW=made)
            edited = judges.generator(editor.edit(inversion, instruction)).clamp(-1, 1)
            towards = 1 - directional_clip_loss(judges.clip.embed_images(edited), judges.clip.embed_images(made), direction)
            same = (judges.identity(edited) * judges.identity(before)).sum(1)
            totals.append(torch.stack([towards, same, (same > judges.threshold).float()], 1))
    return dict(zip(("direction", "identity", "same_person"), torch.cat(totals).mean(0).tolist(), strict=True))
