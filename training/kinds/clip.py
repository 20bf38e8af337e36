"""Train the pack's CLIP on captioned renders.

Every person comes with a twin that differs in one attribute or style, and both captions may name the difference: the direction between
two texts then has to mean the direction between two pictures, which is what directional CLIP losses live on. A caption is a positive
for every picture of the batch that it is true of: first in a softmax over the batch (UniCL eq. 3-5, with truth instead of class
labels), then each pair by itself (the sigmoid loss of SigLIP), which tells apart what the softmax leaves close.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.clip import ClipModel
from portraits import ATTRIBUTE_GROUPS, ATTRIBUTE_NAMES, STYLE_NAMES, Parameters, captions, sample_parameters, true_of
from portraits.captions import PHRASES, STYLE_PHRASES, TEMPLATES
from training.data import SEEDS, aligned_bank, device_of, seeded, to_float, wear
from training.objective import Kind, Objective, Setting, Split, cosine
from training.rows import sample_rows
from training.share import Share, mixed
from training.windows import seen_through, windows

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
    zoom: float = 0.25
    """Largest share of a picture's side that its window leaves out; every other picture is seen whole."""
    seed: int = 31
    measured: int = 1200

    def __post_init__(self) -> None:
        if not 0 <= self.zoom < 1:
            raise ValueError(f"zoom {self.zoom}: expected a share of 0 or more and below 1")


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


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A share's pictures (pairs, then their twins) and captions, and which captions of all workers' shares are true of which pictures."""

    image_BCHW: Tensor
    tokens_BT: Tensor
    positive_NN: Tensor
    contrasts: bool


class ClipObjective(Objective[Batch]):
    """UniCL's contrast over the pictures of all workers, then the sigmoid loss."""

    clip_norm = 1.0

    def __init__(self, config: ClipConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps + config.pairwise_steps, config.batch, config.seed
        torch.manual_seed(config.seed)
        self.net: ClipModel = ClipModel(model=MODEL, merges=config.merges, templates=config.templates)
        self.scale_bias = nn.Parameter(torch.tensor([10.0, -3.0]))

    def prepare(self) -> None:
        """Render the training people and their twins."""
        seed = self.config.seed
        self.p = sample_parameters(self.config.pairs, seeded(seed))
        self.q, self.differs = twins(self.p, rng=random.Random(seed))
        self.pictures_p = aligned_bank(self.p, size=64, seed=seed, jitter=0.01)
        self.pictures_q = aligned_bank(self.q, size=64, seed=seed, jitter=0.01)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW; the scales of the logits do not decay."""
        scales = [self.net.clip.logit_scale, self.scale_bias]
        others = [parameter for parameter in self.net.parameters() if parameter is not scales[0]]
        groups = [{"params": others, "weight_decay": 0.05}, {"params": scales, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.config.rate, betas=(0.9, 0.98))

    def rate(self, step: int) -> float:
        """Return a cosine schedule for each phase."""
        config = self.config
        if step < config.steps:
            return cosine(step, steps=config.steps) * config.rate
        return cosine(step - config.steps, steps=config.pairwise_steps) * config.pairwise_rate

    def draw(self, share: Share) -> Batch:
        """Draw pairs and captions; captions of other shares are needed too, since they must not count as wrong where they are true."""
        rng = random.Random(mixed(share.seed, share.step, 1))
        rows = sample_rows(share.step, batch=share.batch, n=self.config.pairs, seed=share.seed)
        must = [self.differs[row] if rng.random() < 0.7 else None for row in rows.tolist()] * 2
        both = Parameters.concatenate([self.p.slice(rows), self.q.slice(rows)])
        said = captions(both, rng=rng, must=must)
        order = torch.cat([torch.cat([part, part + share.batch]) for part in torch.arange(share.batch)[share.together].split(share.count)])
        own = [said[i] for i in order[share.rank * 2 * share.count :][: 2 * share.count].tolist()]
        mine = share.own(rows)
        window = [share.own(windows(share.batch, zoom=self.config.zoom, whole=0.5, generator=share.stream(salt))) for salt in (4, 5)]
        image = seen_through(to_float(torch.cat([self.pictures_p[mine], self.pictures_q[mine]])), torch.cat(window))
        image = wear(image, streams=share.streams(2) + share.streams(3))
        device = self.setting.group.device
        return Batch(
            image_BCHW=image.to(device),
            tokens_BT=self.net.tokenize([caption.text for caption in own]).to(device),
            positive_NN=true_of([said[i] for i in order.tolist()], both.slice(order)).to(device),
            contrasts=share.step < self.config.steps,
        )

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss over the pictures and captions of all workers."""
        group = self.setting.group
        with self.mixed_precision():
            image, text = self.net.embed_images(batch.image_BCHW), self.net.embed_tokens(batch.tokens_BT)
        image, text = group.gather_with_gradient(image.float()), group.gather_with_gradient(text.float())
        scale = self.net.clip.logit_scale.exp().clamp_max(60)
        unused = 0 * (scale + self.scale_bias.sum())  # the scale of the other phase: workers exchange gradients of all parameters
        if batch.contrasts:
            return contrast(image, text, batch.positive_NN, scale) + unused, {}
        return pairwise(image, text, batch.positive_NN, self.scale_bias) + unused, {}

    def measure(self, split: Split) -> dict[str, float]:
        """Return zero-shot accuracies and the agreement of directions."""
        return measure(self.net, seed=SEEDS[split] + 3, n=self.config.measured)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the mean of the accuracies and the agreement of directions."""
        return sum(numbers.values()) / len(numbers)

    def network_config(self) -> Mapping[str, object]:
        """Return the model's shape, caption templates and vocabulary size."""
        return {"model": MODEL, "templates": list(self.config.templates), "merges": self.config.merges}


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
        text = F.normalize(model.embed_texts(list(words)).cpu(), dim=1)
        said = (F.normalize(image_p, dim=1) @ text.T).argmax(1)
        right = p.columns(ATTRIBUTE_GROUPS[group]).argmax(1)
        visible = ~p.attributes()[:, ATTRIBUTE_NAMES.index("bald")]
        numbers[f"zero_shot_{group}"] = float((said == right)[visible].float().mean())
    text = F.normalize(model.embed_texts(list(STYLE_WORDS)).cpu(), dim=1)
    numbers["zero_shot_style"] = float(((F.normalize(image_q, dim=1) @ text.T).argmax(1) == q.style).float().mean())
    chosen = [i for i, name in enumerate(differs) if name in DIRECTION_WORDS and bool(q.attributes()[i, ATTRIBUTE_NAMES.index(name)])]
    target = model.embed_texts([DIRECTION_WORDS[differs[i]] for i in chosen]).cpu()
    text_d = F.normalize(target - model.embed_texts(["a face"]).cpu(), dim=1)
    image_d = F.normalize(F.normalize(image_q[chosen], dim=1) - F.normalize(image_p[chosen], dim=1) + 1e-6, dim=1)
    numbers["direction_cosine"] = float((text_d * image_d).sum(1).mean())
    return numbers


EXPRESSION_WORDS = tuple(f"a face with {PHRASES[name][0]}" for name in ATTRIBUTE_GROUPS["expression"])
HAIR_WORDS = tuple(f"a face with {PHRASES[name][0]}" for name in ATTRIBUTE_GROUPS["hair_colour"])
STYLE_WORDS = tuple(f"{phrases[0]} of a face" for phrases in STYLE_PHRASES.values())
DIRECTION_WORDS = {name: f"a face with {PHRASES[name][0]}" for name in ("smile", "glasses", "beard", "hat", "old", "lipstick")}


def _embed(model: ClipModel, bank: Tensor) -> Tensor:
    return torch.cat([model.embed_images(to_float(part).to(device_of(model))).cpu() for part in bank.split(400)])


KIND = Kind(config=ClipConfig, objective=ClipObjective, network="clip", summary="CLIP on captioned renders")
