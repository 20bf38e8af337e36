"""Scores of an edit: what changed, what was kept, and whether it is what the instruction asked for.

Shape legend: B batch, C/H/W channels, height, width, E embedding, A attributes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from models.instruction import Instruction
from models.pack import Pack
from models.perceptual import PerceptualDistance, PerceptualFeatures
from pipeline.attributes import AttributeJudge, AttributeVerdict, reads_reliably
from pipeline.frechet import Moments

THRESHOLD = "threshold_far1"  # number of an identity network: the similarity that 1 % of pictures of two people exceed
MAX_PSNR_DB = 100.0  # equal images have infinite PSNR, which neither JSON nor a mean can hold


@dataclass(frozen=True, kw_only=True)
class EditScores:
    """Hold the scores of one edited image; the image before is the aligned input, for `*_inversion` it is the inversion.

    `psnr` in dB (at most 100); `ssim` at most 1; `lpips` from 0 (equal) up; `identity` cosine similarity in [-1, 1]; `clip_score` 100 x
    cosine of image and target text (torchmetrics' CLIPScore convention, negative values kept); `clip_directional` cosine of image
    change and text change (HyperEditor eq. 4; differs: from the aligned input, which is what the user sees; `clip_directional_inversion`
    is eq. 4 as printed). `identity` is None where the pack has no identity network, `same_person` also where that has no threshold.
    `success` says whether all that the instruction expects holds, None when it expects nothing. `flips` names the attributes that changed
    unasked and `collateral` counts them, None where the pack has no attribute classifier; where `attributes_reliable` is False the
    instruction asks for a style that the classifiers never learnt to read attributes and identities in.
    """

    psnr: float
    ssim: float
    lpips: float
    psnr_inversion: float
    lpips_inversion: float
    identity: float | None
    same_person: bool | None
    clip_score: float
    clip_directional: float
    clip_directional_inversion: float
    success: bool | None
    collateral: int | None
    flips: tuple[str, ...]
    attributes_reliable: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFeatures:
    """Hold one batch of images with all that the scores need to know of them."""

    unit_BCHW: Tensor  # in [0, 1]
    perceptual: PerceptualFeatures
    embedding_BE: Tensor | None  # unit length; CLIP's where the pack has CLIP, else the identity network's, else None

    def __len__(self) -> int:
        return int(self.unit_BCHW.shape[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceFeatures:
    """Hold what is computed once per batch of source pictures and used for every instruction."""

    aligned: ImageFeatures
    inversion: ImageFeatures
    identity_BE: Tensor | None
    probabilities_BA: Tensor | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Glance:
    """Hold what gates ask of a batch of pictures; None is what the pack has no network for."""

    probabilities_BA: Tensor | None
    identity_BE: Tensor | None
    embedding_BE: Tensor | None


class Scorer:
    """Score edits with the perception networks of a pack and LPIPS; deterministic for given batches and thread count.

    Without an identity network identity stays None, without an attribute classifier success and collateral changes do, and without CLIP
    only inversions can be scored, since an instruction is text. With neither CLIP nor an identity network there are no Frechet moments.
    `features` names the features that LPIPS and the Frechet moments rest on, and what is not measured: write it beside every number.
    """

    def __init__(self, pack: Pack, *, device: str | torch.device = "cpu", allow_lpips_download: bool = False) -> None:
        has = pack.info.networks
        self.identity = pack.identity() if "identity" in has else None
        self.clip = pack.clip() if "clip" in has else None
        self.attributes = pack.attributes() if "attributes" in has else None
        self.same_person_threshold = has["identity"].numbers.get(THRESHOLD) if "identity" in has else None
        self.judge = None if self.attributes is None else AttributeJudge(names=self.attributes.names, groups=self.attributes.groups)
        self.perceptual = PerceptualDistance(device=device, allow_download=allow_lpips_download)
        self._embed = self.identity if self.clip is None else self.clip.embed_images
        self.features: Mapping[str, str] = {
            "lpips": self.perceptual.description, "frechet": self._frechet_features(pack.sha256), **self._not_measured(),
        }  # fmt: skip

    def check(self, instructions: Iterable[Instruction]) -> None:
        """Raise ValueError when an instruction expects an attribute that the pack's classifier does not know."""
        for instruction in instructions:
            for name in instruction.expects:
                if self.attributes is None:
                    raise ValueError(f"instruction {instruction.name!r}: expects {name!r}, but this pack has no attribute classifier")
                if name not in self.attributes.names:
                    nearest = difflib.get_close_matches(name, self.attributes.names, n=1, cutoff=0.0)[0]
                    raise ValueError(
                        f"instruction {instruction.name!r}: expects the attribute {name!r}, which this pack's classifier does not know; "
                        f"did you mean {nearest!r}? It knows: {', '.join(self.attributes.names)}"
                    )

    def _frechet_features(self, pack_sha256: str) -> str:
        if self._embed is None:
            return "not measured, since the pack has neither CLIP nor an identity network"
        seen_by = "identity network" if self.clip is None else "CLIP"
        return f"image embedding of the pack's {seen_by}, unit length (pack {pack_sha256[:12]})"

    def _not_measured(self) -> dict[str, str]:
        """Return which scores of identity this pack leaves out, and why."""
        if self.identity is None:
            return dict.fromkeys(("identity", "same_person"), "not measured, since the pack has no identity network")
        if self.same_person_threshold is None:
            return {"same_person": f"not measured, since the pack's identity network has no number {THRESHOLD}"}
        return {}

    @torch.no_grad()
    def glance(self, image_BCHW: Tensor) -> Glance:
        """Look at pictures (RGB in [-1, 1]) with no more than the networks that gates ask: a part of what a score takes."""
        image_BCHW = _clamped(image_BCHW)
        return Glance(
            probabilities_BA=None if self.attributes is None else self.attributes.probabilities(image_BCHW),
            identity_BE=None if self.identity is None else self.identity(image_BCHW),
            embedding_BE=self.embed(image_BCHW),
        )

    def embed(self, image_BCHW: Tensor) -> Tensor | None:
        """Return unit features (B, E) of pictures (RGB in [-1, 1]): CLIP's, else the identity network's, else None."""
        return None if self._embed is None else F.normalize(self._embed(image_BCHW), dim=-1)

    @torch.no_grad()
    def source(self, aligned_BCHW: Tensor, inversion_BCHW: Tensor, *, moments: Moments | None = None) -> SourceFeatures:
        """Prepare a batch of aligned inputs and their inversions (RGB in [-1, 1]); add the inputs to `moments`."""
        aligned = self._look(aligned_BCHW)
        _add(moments, aligned)
        return SourceFeatures(
            aligned=aligned,
            inversion=self._look(inversion_BCHW),
            identity_BE=None if self.identity is None else self.identity(_clamped(aligned_BCHW)),
            probabilities_BA=None if self.attributes is None else self.attributes.probabilities(_clamped(aligned_BCHW)),
        )

    @torch.no_grad()
    def edit(
        self, source: SourceFeatures, edited_BCHW: Tensor, instruction: Instruction, *, moments: Moments | None = None
    ) -> list[EditScores]:
        """Score a batch of edited images (RGB in [-1, 1]) against their sources, in order; add the edits to `moments`."""
        if len(source.aligned) != edited_BCHW.shape[0]:
            raise ValueError(f"{instruction.name}: {edited_BCHW.shape[0]} edited images for {len(source.aligned)} sources")
        self.check([instruction])
        edited = self._look(edited_BCHW)
        _add(moments, edited)
        columns = self._image_scores(source, edited) | self._text_scores(source, edited, instruction)
        columns |= self._who(source, _clamped(edited_BCHW))
        verdicts = self._verdicts(source, edited_BCHW, instruction)
        return [self._row(row, verdict, instruction) for row, verdict in zip(_rows(columns), verdicts, strict=True)]

    @torch.no_grad()
    def inversion(self, source: SourceFeatures, *, moments: Moments | None = None) -> list[dict[str, float | bool | None]]:
        """Score the inversions themselves against the aligned inputs, in order; add them to `moments`."""
        _add(moments, source.inversion)
        images = self._image_scores(source, source.inversion)
        columns = {name: images[name] for name in ("psnr", "ssim", "lpips")} | self._who(source, source.inversion.unit_BCHW * 2 - 1)
        return [{**row, "identity": row.get("identity"), "same_person": self._is_same_person(row)} for row in _rows(columns)]

    def _who(self, source: SourceFeatures, made_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the similarity of identities (B,), nothing where the pack has no identity network."""
        if self.identity is None or source.identity_BE is None:
            return {}
        return {"identity": (source.identity_BE * self.identity(made_BCHW)).sum(dim=-1)}

    def _is_same_person(self, number: Mapping[str, float]) -> bool | None:
        if self.same_person_threshold is None or "identity" not in number:
            return None
        return number["identity"] >= self.same_person_threshold

    def _verdicts(self, source: SourceFeatures, edited_BCHW: Tensor, instruction: Instruction) -> list[AttributeVerdict | None]:
        """Return what the attribute classifier says of each edit, None for each where there is no classifier."""
        if self.attributes is None or self.judge is None or source.probabilities_BA is None:
            return [None] * len(edited_BCHW)
        after = self.attributes.probabilities(_clamped(edited_BCHW)).double().cpu().tolist()
        before = source.probabilities_BA.double().cpu().tolist()
        return [self.judge.verdict(old, new, instruction.expects) for old, new in zip(before, after, strict=True)]

    def _row(self, number: Mapping[str, float], verdict: AttributeVerdict | None, instruction: Instruction) -> EditScores:
        return EditScores(
            psnr=number["psnr"],
            ssim=number["ssim"],
            lpips=number["lpips"],
            psnr_inversion=number["psnr_inversion"],
            lpips_inversion=number["lpips_inversion"],
            identity=number.get("identity"),
            same_person=self._is_same_person(number),
            clip_score=number["clip_score"],
            clip_directional=number["clip_directional"],
            clip_directional_inversion=number["clip_directional_inversion"],
            success=None if verdict is None else verdict.success,
            collateral=None if verdict is None else len(verdict.flips),
            flips=() if verdict is None else verdict.flips,
            attributes_reliable=reads_reliably(instruction.expects),
        )

    def _look(self, image_BCHW: Tensor) -> ImageFeatures:
        image_BCHW = _clamped(image_BCHW)
        return ImageFeatures(
            unit_BCHW=(image_BCHW + 1) / 2,
            perceptual=self.perceptual.features(image_BCHW),
            embedding_BE=self.embed(image_BCHW),
        )

    def _image_scores(self, source: SourceFeatures, edited: ImageFeatures) -> dict[str, Tensor]:
        aligned, inversion = source.aligned, source.inversion
        return {
            "psnr": _psnr(edited.unit_BCHW, aligned.unit_BCHW),
            "ssim": _ssim(edited.unit_BCHW, aligned.unit_BCHW),
            "lpips": self.perceptual.distance(aligned.perceptual, edited.perceptual),
            "psnr_inversion": _psnr(edited.unit_BCHW, inversion.unit_BCHW),
            "lpips_inversion": self.perceptual.distance(inversion.perceptual, edited.perceptual),
        }

    def _text_scores(self, source: SourceFeatures, edited: ImageFeatures, instruction: Instruction) -> dict[str, Tensor]:
        if self.clip is None:
            raise ValueError(f"instruction {instruction.name!r}: this pack has no CLIP, so no edit can be scored against its text")
        source_E, target_E = self.clip.embed_texts([instruction.source, instruction.target])
        change_E = target_E - source_E
        assert edited.embedding_BE is not None and source.aligned.embedding_BE is not None and source.inversion.embedding_BE is not None
        return {
            "clip_score": 100 * F.cosine_similarity(edited.embedding_BE, target_E[None]),
            "clip_directional": _directional(source.aligned.embedding_BE, edited.embedding_BE, change_E),
            "clip_directional_inversion": _directional(source.inversion.embedding_BE, edited.embedding_BE, change_E),
        }


def _add(moments: Moments | None, images: ImageFeatures) -> None:
    """Add embeddings to moments, where there are both."""
    if moments is not None and images.embedding_BE is not None:
        moments.update(images.embedding_BE)


def _rows(columns: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Return the values of each image, from columns (B,)."""
    numbers = {name: values.double().cpu().tolist() for name, values in columns.items()}
    return [dict(zip(numbers, values, strict=True)) for values in zip(*numbers.values(), strict=True)]


def _clamped(image_BCHW: Tensor) -> Tensor:
    """Return the image as it is written: a generator may leave [-1, 1], a PNG cannot."""
    return image_BCHW.clamp(-1, 1)


def _psnr(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    ratio_B = peak_signal_noise_ratio(a_BCHW, b_BCHW, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return ratio_B.clamp(max=MAX_PSNR_DB)


def _ssim(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    ssim_B = structural_similarity_index_measure(a_BCHW, b_BCHW, data_range=1.0, reduction="none")
    assert isinstance(ssim_B, Tensor)  # a tuple comes only when the map of every pixel is asked for
    return ssim_B


def _directional(before_BE: Tensor, after_BE: Tensor, text_change_E: Tensor) -> Tensor:
    """Return the cosine of the change of unit embeddings and the text change (HyperEditor eq. 4); 0 where the image did not change."""
    return F.cosine_similarity(after_BE - before_BE, text_change_E[None], dim=-1)
