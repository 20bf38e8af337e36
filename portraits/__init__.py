"""The built-in portraits world: a procedural renderer whose every attribute, landmark and identity is known."""

from portraits.captions import Caption, captions, true_of
from portraits.landmarks import LANDMARK_NAMES, landmarks
from portraits.parameters import (
    ATTRIBUTE_GROUPS,
    ATTRIBUTE_NAMES,
    IDENTITY_NAMES,
    STYLE_NAMES,
    Parameters,
    parameters_from_latent,
    sample_parameters,
)
from portraits.parts import PART_NAMES, part_map
from portraits.render import aligned_frame, jittered_frame, render, render_aligned

__all__ = [
    "ATTRIBUTE_GROUPS",
    "ATTRIBUTE_NAMES",
    "IDENTITY_NAMES",
    "LANDMARK_NAMES",
    "PART_NAMES",
    "STYLE_NAMES",
    "Parameters",
    "aligned_frame",
    "jittered_frame",
    "part_map",
    "Caption",
    "captions",
    "true_of",
    "landmarks",
    "parameters_from_latent",
    "render",
    "render_aligned",
    "sample_parameters",
]
