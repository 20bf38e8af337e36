"""What an instruction wants, as CLIP embeds it: the words of its target, or the picture that it refers to (CLIPInverter section 4.5).

Shape legend: E embedding.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from models.instruction import Instruction, InstructionError, read_reference

if TYPE_CHECKING:
    from models.clip import ClipModel


@torch.no_grad()
def wanted(clip: ClipModel, instruction: Instruction, *, templated: bool = True) -> Tensor:
    """Return the raw embedding (1, E) of the target text, or of the reference picture at the length that the text's has.

    `templated` takes the text's mean over CLIP's prompt templates, as HyperEditor does; CLIPInverter reads it as it is.
    Raises InstructionError where the picture cannot be read or is not the one that the run began with, ValueError for too long a text.
    """
    text_1E = clip.embed_texts([instruction.target]) if templated else clip.embed_captions([instruction.target])
    if not instruction.reference:
        return text_1E
    key = instruction.reference_sha256 or instruction.reference
    if key not in clip.pictures:
        clip.pictures[key] = clip.embed_images(reference_picture(instruction, size=clip.image_size).to(text_1E))
    return F.normalize(clip.pictures[key].to(text_1E), dim=1) * text_1E.norm()


def reference_picture(instruction: Instruction, *, size: int) -> Tensor:
    """Return the middle square of the reference picture, (1, 3, size, size) in [-1, 1]. Raises InstructionError.

    A face should lie as in aligned pictures (KEY.aligned.png of an earlier run, for instance): it is not aligned here.
    """
    data = read_reference(instruction.name, instruction.reference)
    found = hashlib.sha256(data).hexdigest()
    if instruction.reference_sha256 and found != instruction.reference_sha256:
        raise InstructionError(
            f"instruction {instruction.name!r}: reference {instruction.reference} has changed: expected sha256 "
            f"{instruction.reference_sha256}, found {found}; put the picture back, or begin anew"
        )
    picture = ImageOps.fit(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
