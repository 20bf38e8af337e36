"""What the papers' authors publish: which of their files hold a network, where, under which licence, and what each method needs.

`docs/official-weights.md` shows the same table. Licences are those that the repositories state; nothing here was fetched or measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

NOT_STATED = "none stated in its repository"
NVIDIA = "NVIDIA Source Code License-NC (weights of NVlabs/stylegan2)"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a network comes from: `files` as the authors name or describe them, `repository` on GitHub, `licence` as stated there."""

    files: str
    repository: str
    licence: str


ORIGINS: Mapping[str, Origin] = {
    "generator": Origin(
        files="`stylegan2-ffhq-config-f.pt` and the other converted StyleGAN2 files", repository="rosinality/stylegan2-pytorch",
        licence=NVIDIA,
    ),
    "discriminator": Origin(
        files="the StyleGAN2 files, converted with their discriminator", repository="rosinality/stylegan2-pytorch", licence=NVIDIA
    ),
    "e4e": Origin(
        files="`e4e_ffhq_encode.pt` and those of cars, horses, churches", repository="omertov/encoder4editing", licence="MIT"
    ),
    "psp": Origin(files="`psp_ffhq_encode.pt` (StyleGAN inversion)", repository="eladrich/pixel2style2pixel", licence="MIT"),
    "restyle_e4e": Origin(
        files="`restyle_e4e_ffhq_encode.pt` and those of cars, churches, wild animals, horses", repository="yuval-alaluf/restyle-encoder",
        licence="MIT",
    ),
    "restyle_psp": Origin(
        files="`restyle_psp_ffhq_encode.pt` and those of cars, churches, wild animals", repository="yuval-alaluf/restyle-encoder",
        licence="MIT",
    ),
    "w_encoder": Origin(
        files="`faces_w_encoder.pt`, `cars_w_encoder.pt`, `afhq_wild_w_encoder.pt`", repository="yuval-alaluf/hyperstyle", licence="MIT"
    ),
    "hyperstyle": Origin(
        files="`hyperstyle_ffhq.pt` and those of cars and wild animals", repository="yuval-alaluf/hyperstyle", licence="MIT"
    ),
    "hypereditor": Origin(
        files="what its training writes (its readme lists no trained file)", repository="Rainbow0204/HyperEditor", licence=NOT_STATED
    ),
    "clip": Origin(
        files="ViT-B/32 of OpenAI as weights alone (open_clip's `.safetensors` or `.bin` of it), or the copy in a HyperEditor file",
        repository="openai/CLIP, mlfoundations/open_clip", licence="MIT",
    ),
    "clip_adapter": Origin(files="`pretrained_faces.pt` (CLIPInverter Faces)", repository="johnberg1/CLIPInverter", licence=NOT_STATED),
    "clip_remapper": Origin(files="`pretrained_faces.pt` (CLIPInverter Faces)", repository="johnberg1/CLIPInverter", licence=NOT_STATED),
    "styleclip_mapper": Origin(files="one file for each text", repository="orpatashnik/StyleCLIP", licence="MIT"),
    "identity": Origin(files="`model_ir_se50.pth` (ArcFace IR-SE50)", repository="TreB1eN/InsightFace_Pytorch", licence="MIT"),
    "moco": Origin(files="`moco_v2_800ep_pretrain.pth.tar`", repository="facebookresearch/moco", licence="CC-BY-NC-4.0"),
}  # fmt: skip
"""Networks that an import can bring, by their names in a pack."""

ELSEWHERE: Mapping[str, str] = {
    "attributes": "no author publishes one: trained on labelled pictures of the domain",
    "landmarks": "no author publishes one in this layout: samples may bring their own, and the extra `faces` finds those of photos",
    "parser": "no author publishes one in this layout: trained by this project",
}
"""Networks that methods need and no import brings, and why."""

METHODS: Mapping[str, Sequence[str]] = {
    "inverter e4e": ("generator", "e4e"),
    "inverter psp": ("generator", "psp"),
    "inverter restyle_e4e": ("generator", "restyle_e4e"),
    "inverter restyle_psp": ("generator", "restyle_psp"),
    "inverter w_encoder": ("generator", "w_encoder"),
    "inverter hyperstyle": ("generator", "w_encoder", "hyperstyle"),
    "inverter w_projection": ("generator",),
    "inverter wplus_projection": ("generator",),
    "inverter pti": ("generator",),
    "inverter gani": ("generator", "e4e"),
    "identity term of the optimising inverters": ("identity",),
    "identity term of the optimising inverters, off faces": ("moco",),
    "gani's parsing term": ("parser",),
    "editor hypereditor": ("generator", "w_encoder", "hypereditor", "clip"),
    "editors styleclip_optimisation and tedigan": ("generator", "clip"),
    "editors interfacegan, ganspace and sefa": ("generator", "attributes"),
    "editor clipinverter": ("generator", "e4e", "clip_adapter", "clip_remapper", "clip"),
    "editor styleclip_mapper": ("generator", "e4e", "styleclip_mapper"),
    "job edit_dataset, inversions": ("generator",),
    "job edit_dataset, instructions": ("generator", "clip"),
    "identity scores": ("identity",),
    "success and side effects of edits": ("attributes",),
    "landmarks without the extra faces": ("landmarks",),
}
"""The networks that each inverter, editor and job, and some parts of them, read."""


def missing(names: Collection[str]) -> dict[str, list[str]]:
    """Return, for each method that a pack of these networks cannot run, the networks that it lacks."""
    lacking = {method: [need for need in needs if need not in names] for method, needs in METHODS.items()}
    return {method: needs for method, needs in lacking.items() if needs}


def where_from(name: str) -> str:
    """Say where a network that is missing can be had, and under which licence."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    origin = ORIGINS[name]
    return f"{origin.files.replace('`', '')}; published by {origin.repository}; licence: {origin.licence}"
