"""The losses of all papers as pure functions, each with its source.

A loss is a mean over the batch; where each picture has its own, the shape is in the docstring. Weights are the caller's, and so is
cutting the gradient of what a loss compares with, unless the docstring says that the loss does it.
"""

from models.losses.adversarial import discriminator_adversarial_loss, generator_adversarial_loss, r1_penalty
from models.losses.clip import directional_clip_loss, global_clip_loss
from models.losses.cycle import CLIPINVERTER_WEIGHTS, LatentPair, View, cycle_loss, cycle_terms, manipulation_terms, weighted_sum
from models.losses.latents import delta_loss, mean_latent_loss
from models.losses.perceptual import identity_loss, lpips_loss, moco_loss, parsing_loss
from models.losses.pixels import PictureDistance, l2_loss, localisation_loss, smooth_l1_loss

__all__ = [
    "CLIPINVERTER_WEIGHTS",
    "LatentPair",
    "PictureDistance",
    "View",
    "cycle_loss",
    "cycle_terms",
    "delta_loss",
    "directional_clip_loss",
    "discriminator_adversarial_loss",
    "generator_adversarial_loss",
    "global_clip_loss",
    "identity_loss",
    "l2_loss",
    "localisation_loss",
    "lpips_loss",
    "manipulation_terms",
    "mean_latent_loss",
    "moco_loss",
    "parsing_loss",
    "r1_penalty",
    "smooth_l1_loss",
    "weighted_sum",
]
