"""Suite `pack`: what the networks of a portraits pack reach on held-out raw pictures that went through the pipeline's own steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from evaluation.held_out import BATCH, HeldOut, held_out
from models.instruction import Instruction
from models.pack import Pack
from pipeline.invert import invert
from pipeline.score import EditScores, Scorer
from portraits import STYLE_NAMES

NAME = "pack"
PICTURES, EDITS = 1000, 200
Say = Callable[[str], None]
Numbers = dict[str, float]
HIDES_HAIR = ("bald", "hat")


def measure(
    pack: Pack, instructions: Sequence[Instruction], *, say: Say, editor: str = "hypereditor", inverter: str = "e4e",
    pictures: int = PICTURES, edits: int = EDITS,
) -> dict[str, object]:  # fmt: skip
    """Return all figures of the suite: on `pictures` held-out portraits, and on `edits` of them for every instruction."""
    start = time.monotonic()
    say(f"making and aligning {pictures} held-out portraits")
    data, scorer = held_out(pack, pictures), Scorer(pack, device=pack.device)
    result: dict[str, object] = {"alignment": alignment(data), "features": {"lpips": scorer.features["lpips"]}}
    result["attributes"] = attributes(pack, data)
    result["inversion"] = {inverter: inversion(pack, data, name=inverter)}
    say("editing")
    made = editing(pack, scorer, data, instructions, editor=editor, inverter=inverter, pictures=edits, say=say)
    return result | {"editing": made, "editing_overall": overall(made), "seconds": round(time.monotonic() - start, 1)}


def alignment(data: HeldOut) -> Numbers:
    """Return landmark errors as shares of the eye distance."""
    errors = data.landmark_errors
    return {
        "pictures": len(data.truth), "faces_found": len(data.found) / len(data.truth), "landmark_error_mean": float(errors.mean()),
        "landmark_error_p95": float(errors.quantile(0.95)), "landmark_within_3pct": float((errors <= 0.03).float().mean()),
    }  # fmt: skip


@torch.no_grad()
def attributes(pack: Pack, data: HeldOut) -> Numbers:
    """Return the share of right attribute decisions: over all attributes, and of the worst one."""
    net = pack.attributes()
    said = torch.cat([net.probabilities(part) > 0.5 for part in data.aligned_BCHW.split(BATCH)]).cpu()
    names = [name for name in net.names if name.removeprefix("style_") not in STYLE_NAMES]
    right = {name: float((said[:, net.names.index(name)] == data.has(name)).float().mean()) for name in names}
    worst = min(right, key=right.__getitem__)
    return {"accuracy": sum(right.values()) / len(right), "accuracy_worst": right[worst]} | {
        f"accuracy_{name}": v for name, v in right.items()
    }


@torch.no_grad()
def inversion(pack: Pack, data: HeldOut, *, name: str) -> Numbers:
    """Return same-person rate, identity similarity and PSNR (dB) of an inverter."""
    inverter, generator, identity = pack.inverter(name), pack.generator(), pack.identity()
    threshold = pack.info.networks["identity"].numbers["threshold_far1"]
    similar, psnr = [], []
    for picture in data.aligned_BCHW.split(BATCH):
        made = generator(inverter.invert(picture)).clamp(-1, 1)
        similar.append((identity(made) * identity(picture)).sum(1))
        psnr.append(10 * torch.log10(4 / (made - picture).square().mean((1, 2, 3))))
    cosine = torch.cat(similar)
    return {
        "pictures": len(cosine), "same_person": float((cosine >= threshold).float().mean()), "identity": float(cosine.mean()),
        "psnr_db": float(torch.cat(psnr).mean()),
    }  # fmt: skip


def eligible(data: HeldOut, instruction: Instruction) -> Tensor:
    """Return the rows that do not show, by truth, what the instruction asks for, and on which it could be seen."""
    free = torch.ones(len(data.found), dtype=torch.bool)
    wanted = [name for name, on in instruction.expects.items() if on]
    if wanted:
        free = ~torch.stack([data.has(name) for name in wanted]).all(0)
    if any(name.startswith("hair_") for name in wanted):
        free &= ~torch.stack([data.has(name) for name in HIDES_HAIR]).any(0)
    return free.nonzero().flatten()


@torch.no_grad()
def editing(
    pack: Pack, scorer: Scorer, data: HeldOut, instructions: Sequence[Instruction], *, editor: str, inverter: str, pictures: int, say: Say
) -> dict[str, dict[str, float | dict[str, float]]]:
    """Return, per instruction, success, same-person rate, CLIP scores and unasked changes, on `pictures` portraits each."""
    generator, edit, inverse = pack.generator(), pack.editor(editor), pack.inverter(inverter)
    result: dict[str, dict[str, float | dict[str, float]]] = {}
    for instruction in instructions:
        scores: list[EditScores] = []
        for rows in eligible(data, instruction)[:pictures].split(BATCH):
            inversion = invert(inverse, generator, data.aligned_BCHW[rows])
            source = scorer.source(inversion.aligned_BCHW, inversion.made_BCHW)
            scores += scorer.edit(source, generator(edit.edit(inversion, instruction)), instruction)
        result[instruction.name] = _summary(scores)
        say(f"{instruction.name}: success {result[instruction.name]['success']:.3f} on {len(scores)} portraits")
    return result


def overall(edits: dict[str, dict[str, float | dict[str, float]]]) -> Numbers:
    """Return mean and worst success, and the same-person rate of the edits whose identity can be read (no style)."""
    success = [float(figures["success"]) for figures in edits.values()]  # type: ignore[arg-type]
    same = [float(figures["same_person"]) for figures in edits.values() if figures["reliable"]]  # type: ignore[arg-type]
    numbers = {"success_mean": sum(success) / len(success), "success_worst": min(success), "instructions": float(len(edits))}
    return numbers | ({"same_person_attribute_edits": sum(same) / len(same), "same_person_worst": min(same)} if same else {})


def _summary(scores: Sequence[EditScores]) -> dict[str, float | dict[str, float]]:
    n = len(scores)
    flips: dict[str, float] = {}
    for score in scores:
        for name in score.flips:
            flips[name] = flips.get(name, 0.0) + 1 / n
    columns = (
        "success",
        "same_person",
        "identity",
        "psnr",
        "ssim",
        "lpips",
        "clip_score",
        "clip_directional",
        "clip_directional_inversion",
        "collateral",
    )
    means = {name: sum(float(getattr(score, name) or 0.0) for score in scores) / n for name in columns}
    return {"portraits": float(n), "reliable": float(scores[0].attributes_reliable), **means, "flips": flips}
