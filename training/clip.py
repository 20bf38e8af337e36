"""Train the pack's CLIP on captioned renders.

Every person comes with a twin that differs in one attribute or style, and both captions may name the difference: the direction between
two texts then has to mean the direction between two pictures, which is what directional CLIP losses live on. A caption is a positive
for every picture of the batch that it is true of: first in a softmax over the batch (UniCL eq. 3-5, with truth instead of class
labels), then each pair by itself (the sigmoid loss of SigLIP), which tells apart what the softmax leaves close.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models.clip import ClipModel
from portraits import ATTRIBUTE_GROUPS, ATTRIBUTE_NAMES, STYLE_NAMES, Caption, Parameters, captions, sample_parameters, true_of
from portraits.captions import PHRASES, STYLE_PHRASES, TEMPLATES
from training.data import HELD_OUT, aligned_bank, seeded, to_float, wear
from training.loop import Log, batches, cosine, half_precision, set_rate

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 24, "head_width": 32},
    "text_cfg": {"context_length": 32, "width": 128, "heads": 4, "layers": 3},
}


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Settings of the CLIP training."""

    merges: int = 3000
    templates: Sequence[str] = TEMPLATES[:8]
    pairs: int = 24_000
    steps: int = 1600
    batch: int = 96  # pairs
    rate: float = 1.2e-3
    pairwise_steps: int = 700
    pairwise_rate: float = 8e-4
    seed: int = 31
    measured: int = 1200


def twins(p: Parameters, *, rng: random.Random) -> tuple[Parameters, list[str]]:
    """Change one attribute or the style of every portrait; return the twins and what differs."""
    names: list[str] = []
    rows: list[Parameters] = []
    holds = p.attributes().tolist()
    for i in range(len(p)):
        one = p.slice(slice(i, i + 1))
        name = rng.choice(ATTRIBUTE_NAMES + STYLE_NAMES[1:] * 2)
        grouped = any(name in members for members in ATTRIBUTE_GROUPS.values())
        if name in STYLE_NAMES:
            rows.append(one.with_style(name))
        elif grouped or not holds[i][ATTRIBUTE_NAMES.index(name)]:
            rows.append(one.with_values({name: 1.0}))
        else:
            rows.append(one.with_values({name: 0.0}))
        names.append(name)
    return Parameters.concatenate(rows), names


def contrast(image_BE: Tensor, text_NE: Tensor, positive_BN: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric cross entropy to all true pairs (UniCL)."""
    logits = F.normalize(image_BE, dim=1) @ F.normalize(text_NE, dim=1).T * scale
    target = positive_BN.float()
    rows = -(logits.log_softmax(1) * target / target.sum(1, keepdim=True)).sum(1).mean()
    columns = -(logits.log_softmax(0) * target / target.sum(0, keepdim=True)).sum(0).mean()
    return 0.5 * (rows + columns)


def pairwise(image_BE: Tensor, text_NE: Tensor, positive_BN: Tensor, scale_bias: Tensor) -> Tensor:
    """Return the sigmoid loss over all pairs (SigLIP eq. 1), positives and negatives of each caption weighing the same."""
    logits = F.normalize(image_BE, dim=1) @ F.normalize(text_NE, dim=1).T * scale_bias[0] + scale_bias[1]
    target = positive_BN.float()
    weight = target / target.sum(0, keepdim=True).clamp_min(1) + (1 - target) / (1 - target).sum(0, keepdim=True).clamp_min(1)
    return (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum() / len(text_NE)


def train(config: ClipConfig, folder: Path) -> tuple[ClipModel, dict[str, float]]:
    """Train and measure zero-shot on held-out people; returns the model and its numbers."""
    torch.manual_seed(config.seed)
    model = ClipModel(model=MODEL, merges=config.merges, templates=config.templates)
    log = Log(folder / "clip.jsonl", name="clip", steps=config.steps + config.pairwise_steps)
    data = _Data(config)
    scale_bias = torch.nn.Parameter(torch.tensor([10.0, -3.0]))
    optimizer = torch.optim.AdamW([*model.parameters(), scale_bias], lr=config.rate, weight_decay=0.05, betas=(0.9, 0.98))
    for step in range(config.steps + config.pairwise_steps):
        first = step < config.steps
        rate = (
            cosine(step, steps=config.steps) * config.rate
            if first
            else cosine(step - config.steps, steps=config.pairwise_steps) * config.pairwise_rate
        )
        set_rate(optimizer, rate)
        pictures, both, said = data.draw()
        with half_precision():
            image = model.embed_images(pictures)
            text = model.embed_tokens(model.tokenize([c.text for c in said]))
        positive = true_of(said, both)
        scale = model.clip.logit_scale.exp().clamp_max(60)
        loss = (
            contrast(image.float(), text.float(), positive, scale) if first else pairwise(image.float(), text.float(), positive, scale_bias)
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            log(step, loss=loss.item())
    numbers = measure(model.eval(), seed=HELD_OUT + 3, n=config.measured)
    log(config.steps + config.pairwise_steps, **numbers)
    return model, numbers | {"training_s": round(log.seconds, 1)}


class _Data:
    """Rendered twins and fresh captions."""

    def __init__(self, config: ClipConfig) -> None:
        self.rng = random.Random(config.seed)
        self.p = sample_parameters(config.pairs, seeded(config.seed))
        self.q, self.differs = twins(self.p, rng=self.rng)
        self.pictures_p = aligned_bank(self.p, size=64, seed=config.seed, jitter=0.01)
        self.pictures_q = aligned_bank(self.q, size=64, seed=config.seed, jitter=0.01)
        self.stream = seeded(config.seed + 2)
        self.rows = batches(config.pairs, batch=config.batch, generator=self.stream)

    def draw(self) -> tuple[Tensor, Parameters, list[Caption]]:
        """Return pictures (2 * batch), their parameters and one caption each."""
        rows = next(self.rows)
        both = Parameters.concatenate([self.p.slice(rows), self.q.slice(rows)])
        must = [self.differs[i] if self.rng.random() < 0.7 else None for i in rows.tolist()] * 2
        pictures = to_float(torch.cat([self.pictures_p[rows], self.pictures_q[rows]]))
        return wear(pictures, generator=self.stream), both, captions(both, rng=self.rng, must=must)


@torch.no_grad()
def measure(model: ClipModel, *, seed: int, n: int = 1200) -> dict[str, float]:
    """Return zero-shot accuracies on held-out portraits and how well text directions match picture directions of twins."""
    p = sample_parameters(n, seeded(seed))
    rng = random.Random(seed)
    q, differs = twins(p, rng=rng)
    image_p = _embed(model, aligned_bank(p, size=64, seed=seed))
    image_q = _embed(model, aligned_bank(q, size=64, seed=seed))
    numbers = {}
    for group, words in {"expression": EXPRESSION_WORDS, "hair_colour": HAIR_WORDS}.items():
        text = F.normalize(model.embed_texts(list(words)), dim=1)
        said = (F.normalize(image_p, dim=1) @ text.T).argmax(1)
        right = p.columns(ATTRIBUTE_GROUPS[group]).argmax(1)
        visible = ~p.attributes()[:, ATTRIBUTE_NAMES.index("bald")]
        numbers[f"zero_shot_{group}"] = float((said == right)[visible].float().mean())
    text = F.normalize(model.embed_texts(list(STYLE_WORDS)), dim=1)
    numbers["zero_shot_style"] = float(((F.normalize(image_q, dim=1) @ text.T).argmax(1) == q.style).float().mean())
    chosen = [i for i, name in enumerate(differs) if name in DIRECTION_WORDS and bool(q.attributes()[i, ATTRIBUTE_NAMES.index(name)])]
    target = model.embed_texts([DIRECTION_WORDS[differs[i]] for i in chosen])
    text_d = F.normalize(target - model.embed_texts(["a face"]), dim=1)
    image_d = F.normalize(F.normalize(image_q[chosen], dim=1) - F.normalize(image_p[chosen], dim=1) + 1e-6, dim=1)
    numbers["direction_cosine"] = float((text_d * image_d).sum(1).mean())
    return numbers


EXPRESSION_WORDS = tuple(f"a face with {PHRASES[name][0]}" for name in ATTRIBUTE_GROUPS["expression"])
HAIR_WORDS = tuple(f"a face with {PHRASES[name][0]}" for name in ATTRIBUTE_GROUPS["hair_colour"])
STYLE_WORDS = tuple(f"{phrases[0]} of a face" for phrases in STYLE_PHRASES.values())
DIRECTION_WORDS = {name: f"a face with {PHRASES[name][0]}" for name in ("smile", "glasses", "beard", "hat", "old", "lipstick")}


def _embed(model: ClipModel, bank: Tensor) -> Tensor:
    return torch.cat([model.embed_images(to_float(part)) for part in bank.split(400)])
