"""What the trainings of editors share: instructions with portraits that do not show them yet, losses, and how edits are measured.

Every sample of a batch has its own instruction; the further an instruction still is from its target, the oftener it is drawn. CLIP sees
both pictures through one random window (training/windows.py) and worn alike, as it was trained.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, Self, TypeVar

import torch
from pytorch_optimizer import Ranger
from torch import Tensor

from models.editors import Editor
from models.instruction import Instruction, InstructionError, load_instructions
from models.inversion import Inversion
from models.losses import directional_clip_loss, global_clip_loss, identity_loss, l2_loss
from models.state import GeneratorState
from portraits import sample_parameters
from training.data import SEEDS, VALIDATION, seeded, to_float, wear
from training.edits import Inversions, Judges, eligible, invert, measure, measure_pictures, summary
from training.objective import Objective, Setting, SettingError, Split, cosine
from training.share import Share
from training.windows import seen_through, windows
from training.wordings import WORDINGS, requests

INSTRUCTIONS = "configs/train/editing_instructions.yaml"
Drawn = TypeVar("Drawn")


@dataclass(frozen=True, kw_only=True)
class EditingConfig:
    """Settings that every editor's training has; steps count mixed batches."""

    instructions: str = INSTRUCTIONS
    """YAML list of instructions."""
    only: Sequence[str] = ()
    """Names of the instructions to train; empty trains all of the file."""
    listed: Sequence[Mapping[str, object]] = ()
    """The instructions themselves, in place of the file: what `resolved` fills in for workers that cannot see the file."""
    inverter: str = "e4e"
    """Encoder of the pack whose inversions are edited."""
    pictures: int = 6_000
    """Portraits that are rendered and inverted for each phase, where none come from shards."""
    phases: Sequence[tuple[int, float]] = ((2400, 1.0), (6000, 0.1))
    """Steps and weight of L2 of each phase."""
    batch: int = 12
    rate: float = 1e-3
    clip: float = 1.0
    identity: float = 0.1
    movement: float = 0.0
    """Weight of the mean squared change of the latents (StyleCLIP eq. 5, as released)."""
    loss: Literal["directional", "global"] = "directional"
    towards: float = 0.0
    """Weight of the global CLIP loss beside the directional one: a direction leaves open how far an edit goes, the target does not."""
    zoom: float = 0.25
    """Largest share of the side that the windows leave out through which CLIP sees the pictures; 0 shows them whole."""
    wear: float = 1.0
    """How strongly both pictures are blurred, grained and shifted in light before CLIP sees them; 0 leaves them as they are."""
    wordings: float = 0.0
    """Share of the samples whose text says the same in other words; instructions that expect nothing keep their own."""
    pairs: float = 0.0
    """Share of the samples that are asked for two of the attributes at once."""
    seed: int = 71
    measured: int = 200
    """Portraits that each instruction is measured on."""

    def __post_init__(self) -> None:
        if not 0 <= self.zoom < 1 or self.wear < 0:
            raise ValueError(f"zoom {self.zoom}, wear {self.wear}: expected a share below 1, and 0 or more")
        if not (0 <= self.wordings <= 1 and 0 <= self.pairs < 1):
            raise ValueError(f"wordings {self.wordings}, pairs {self.pairs}: expected shares of the samples, pairs below 1")

    def resolved(self) -> Self:
        """Return the settings with the chosen instructions in place of the file's name. Raises InstructionError or ValueError."""
        return replace(self, instructions="", only=(), listed=tuple(instruction.plain() for instruction in chosen_instructions(self)))


class EditorObjective(Objective[Drawn]):
    """An editor in training: its instructions, the networks that judge it, the numbers that it reaches."""

    clip_norm = 1.0
    what = "an editor's training"

    def __init__(self, config: EditingConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.batch, self.seed = config, config.batch, config.seed
        ends = list(accumulate(steps for steps, _ in config.phases))
        self.steps, self.restarts = ends[-1], tuple(ends[:-1])
        self.instructions = chosen_instructions(config)
        self.judges = Judges.of(setting.needed(self.what), inverter=config.inverter)
        if setting.pictures is None:
            _check_truth(self.instructions, self.judges)
        self._detail = dict[str, dict[str, float]]()

    @abstractmethod
    def editor(self) -> Editor:
        """Return the editor that `net` makes."""

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Ranger as released: the library's default would climb in its first five steps, before it can rectify."""
        return Ranger(self.net.parameters(), lr=self.config.rate, degenerated_to_sgd=True)

    def rate(self, step: int) -> float:
        """Return a flat rate that falls to nothing over the last part of each phase."""
        phase, first = self.phase_at(step)
        return self.config.rate * min(1.0, 1.5 * cosine(step - first, steps=self.config.phases[phase][0], warmup=0))

    def phase_at(self, step: int) -> tuple[int, int]:
        """Return the phase of a step and the step that it began at."""
        starts = (0, *self.restarts)
        phase = max(i for i, start in enumerate(starts) if start <= step)
        return phase, starts[phase]

    def shown_to_clip(self, picture_BCHW: Tensor, window_B3: Tensor, wear_seeds: Sequence[int]) -> Tensor:
        """Return pictures as CLIP sees them while training: each through its window, and worn."""
        seen = seen_through(picture_BCHW, window_B3)
        return wear(seen, streams=[seeded(seed) for seed in wear_seeds], amount=self.config.wear) if self.config.wear else seen

    def measure(self, split: Split) -> dict[str, float]:
        """Return success, same-person rate and collateral changes on renders; direction and identity on pictures from shards."""
        pictures = self.setting.pictures
        if pictures is not None:
            rows = self.setting.rows.unseen(split)
            return measure_pictures(
                self.editor(), pictures.pictures(rows), pictures.latents(rows), judges=self.judges, instructions=self.instructions
            )
        count = self.config.measured if split == "held_out" else min(50, self.config.measured)
        self._detail = measure(self.editor(), judges=self.judges, instructions=self.instructions, pictures=count, seed=SEEDS[split] + 7)
        return summary(self._detail)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return success on what is still the same person; without truth, direction and identity."""
        if "direction" in numbers:
            return numbers["direction"] + 0.5 * numbers["identity"]
        return (numbers["success_mean"] + numbers.get("success_same_person", numbers["success_mean"])) / 2

    def details(self) -> Mapping[str, object] | None:
        """Return the figures of every instruction."""
        return self._detail or None

    def sheet(self) -> Tensor:
        """Return pictures, their reconstructions, and one column per instruction."""
        judges, device = self.judges, self.setting.group.device
        before, w = self._shown()
        made = judges.generator.synthesis(w.to(device)).clamp(-1, 1)
        columns = [before.to(device), made]
        inversion = Inversion(aligned_BCHW=columns[0], state=GeneratorState(latents_BLD=w.to(device)), made_BCHW=made)
        editor = self.editor()
        for instruction in self.instructions:
            columns.append(judges.generator(editor.edit(inversion, replace(instruction, strength=1.0))).clamp(-1, 1))
        return torch.stack(columns, 1)

    def _shown(self) -> tuple[Tensor, Tensor]:
        """Return six validation pictures and their latents."""
        pictures = self.setting.pictures
        if pictures is not None:
            rows = self.setting.rows.validation[:6]
            return to_float(pictures.pictures(rows)), pictures.latents(rows)
        data = _invert(6, self.judges, seed=VALIDATION)
        return to_float(data.pictures), data.latents_NLD


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Each sample's request, wording, picture and reconstruction in [-1, 1], latents, window, wear seed, and this step's weight of L2."""

    kind_B: Tensor
    wording_B: Tensor
    before_BCHW: Tensor
    made_BCHW: Tensor
    latents_BLD: Tensor
    window_B3: Tensor
    wear_seeds: tuple[int, ...]
    l2: float


class EditingObjective(EditorObjective[Batch]):
    """CLIP, identity and L2 losses of the edits of an editor that follows instructions; subclasses say how it changes a state."""

    difficulty_K: Tensor

    def __init__(self, config: EditingConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.requests = requests(
            self.instructions, self.judges.clip, wordings=config.wordings > 0, pairs=config.pairs > 0, seed=config.seed
        )
        self.register_buffer("difficulty_K", torch.ones(len(self.requests.instructions)))
        self.ahead = 2 if setting.pictures is not None else 0
        self.phase = -1

    @abstractmethod
    def moved(self, batch: Batch, direction_BE: Tensor, target_BE: Tensor) -> GeneratorState:
        """Return the edited state of each sample by raw text embeddings: target minus source, and of the target."""

    def draw(self, share: Share) -> Batch:
        """Draw instructions in proportion to their running losses, and a portrait for each that does not show it yet.

        Pictures from shards are read in advance, before those losses are known, and get instructions evenly.
        """
        phase, _ = self.phase_at(share.step)
        stream = share.stream()
        weights = self.difficulty_K.cpu() + 0.1 if not self.ahead else torch.ones_like(self.difficulty_K, device="cpu")
        if self.config.pairs:
            weights = self.requests.weights(weights, pairs=self.config.pairs)
        kind = torch.multinomial(weights, share.batch, replacement=True, generator=stream)
        window = share.own(windows(share.batch, zoom=self.config.zoom, whole=0.0, generator=share.stream(2)))
        kind, device = share.own(kind), self.setting.group.device
        before, made, latents = self._rendered(share, phase, kind) if self.setting.pictures is None else self._read(share)
        return Batch(
            kind_B=kind.to(device),
            wording_B=self._wordings(share, kind).to(device),
            before_BCHW=before,
            made_BCHW=made,
            latents_BLD=latents,
            window_B3=window.to(device),
            wear_seeds=share.seeds(3),
            l2=self.config.phases[phase][1],
        )

    def _wordings(self, share: Share, kind_B: Tensor) -> Tensor:
        """Return which wording each sample is asked in; a pair has none of its own."""
        stream = share.stream(4)
        other = share.own(torch.rand(share.batch, generator=stream) < self.config.wordings) | (kind_B >= self.requests.singles)
        return torch.where(other, share.own(torch.randint(WORDINGS, (share.batch,), generator=stream)), 0)

    def _rendered(self, share: Share, phase: int, kind_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures, reconstructions and latents of rendered portraits that do not show what is asked for."""
        if phase != self.phase:
            self.phase, self.data = phase, _invert(self.config.pictures, self.judges, seed=self.seed + phase)
            self.rows_of = [eligible(instruction, self.data.parameters) for instruction in self.requests.instructions]
        chance = share.own(torch.rand(share.batch, generator=share.stream(1)))
        own = [self.rows_of[k] for k in kind_B.tolist()]
        rows = torch.stack([candidates[int(c * len(candidates))] for candidates, c in zip(own, chance.tolist(), strict=True)])
        data, device = self.data, self.setting.group.device
        return to_float(data.pictures[rows]).to(device), to_float(data.reconstructions[rows]).to(device), data.latents_NLD[rows].to(device)

    @torch.no_grad()
    def _read(self, share: Share) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures and latents from shards, and their reconstructions."""
        assert self.setting.pictures is not None
        train, device = self.setting.rows.train, self.setting.group.device
        rows = train[share.rows(len(train))]
        latents = self.setting.pictures.latents(rows).to(device)
        return to_float(self.setting.pictures.pictures(rows)).to(device), self.judges.generator.synthesis(latents).clamp(-1, 1), latents

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the losses, and each sample's CLIP loss with its instruction for `observe`."""
        config, judges = self.config, self.judges
        target = self.requests.targets_KVE[batch.kind_B, batch.wording_B]
        direction = target - self.requests.sources_KE[batch.kind_B]
        with self.mixed_precision():
            state = self.moved(batch, direction, target)
            edited = judges.generator.synthesis(state.latents_BLD, state.offsets).float()
        clip_B = self._clip_loss(batch, edited, direction, target)
        with self.mixed_precision():
            same = judges.identity(edited)
        who = identity_loss(same.float(), judges.identity(batch.before_BCHW))
        l2 = l2_loss(edited, batch.before_BCHW)
        loss = config.clip * clip_B.mean() + config.identity * who + batch.l2 * l2
        if config.movement:
            loss = loss + config.movement * (state.latents_BLD - batch.latents_BLD).float().square().mean()
        seen = torch.stack([batch.kind_B.float(), clip_B.detach()], 1)
        return loss, {"clip": clip_B.mean(), "identity": who, "l2": l2, "seen_B2": seen}

    def _clip_loss(self, batch: Batch, edited: Tensor, direction: Tensor, target: Tensor) -> Tensor:
        """Return the CLIP loss of each sample, both pictures seen through one window and worn alike."""
        after, before = (self.shown_to_clip(picture, batch.window_B3, batch.wear_seeds) for picture in (edited, batch.made_BCHW))
        with self.mixed_precision():
            after_E = self.judges.clip.embed_images(after)
            with torch.no_grad():
                before_E = self.judges.clip.embed_images(before)
        if self.config.loss == "global":
            return global_clip_loss(after_E.float(), target)
        loss_B = directional_clip_loss(after_E.float(), before_E.float(), direction)
        return loss_B + self.config.towards * global_clip_loss(after_E.float(), target) if self.config.towards else loss_B

    def observe(self, figures: Mapping[str, Tensor]) -> None:
        """Update the instructions' running losses with the samples of all workers."""
        seen = self.setting.group.gather(figures["seen_B2"].float()).cpu()
        for k, value in seen.tolist():
            self.difficulty_K[int(k)] += 0.05 * (value - self.difficulty_K[int(k)])


def _invert(n: int, judges: Judges, *, seed: int) -> Inversions:
    return invert(sample_parameters(n, seeded(seed)), judges, seed=seed)


def _check_truth(instructions: Sequence[Instruction], judges: Judges) -> None:
    """Raise SettingError or InstructionError where edits of rendered portraits could not be judged after the training."""
    if judges.attributes is None:
        raise SettingError(
            "an editor's training on rendered portraits measures its edits with the network attributes, which the pack lacks"
        )
    for instruction in instructions:
        unknown = sorted(set(instruction.expects) - set(judges.attributes.names))
        if unknown or not instruction.expects:
            found = f"expects {unknown[0]!r}" if unknown else "expects nothing"
            raise InstructionError(
                f"instruction {instruction.name!r}: {found}; on rendered portraits it has to expect one or more of "
                f"{', '.join(judges.attributes.names)}"
            )


def chosen_instructions(config: EditingConfig) -> tuple[Instruction, ...]:
    """Return the instructions to train. Raises InstructionError where `only` names one that there is not."""
    listed = [Instruction(**entry) for entry in config.listed]  # type: ignore[arg-type]
    everything = tuple(listed) or load_instructions(config.instructions)
    unknown = sorted(set(config.only) - {i.name for i in everything})
    if unknown:
        known = ", ".join(i.name for i in everything)
        raise InstructionError(f"settings.only: no instruction {unknown[0]!r}; {config.instructions} has {known}")
    return tuple(i for i in everything if not config.only or i.name in config.only)
