"""A pack that was damaged on purpose: sound files with true hashes, but an editor that forgot what it had learnt."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from models.hypereditor import HyperEditor
from models.pack import Pack, write_network


def damaged(source: Path, folder: Path, *, noise: float = 1.0, seed: int = 0) -> Path:
    """Copy a pack and add noise to HyperEditor's matrices and kernels, `noise` times as large as their own spread; return the copy."""
    shutil.copytree(source, folder)
    pack = Pack.load(folder)
    info, network = pack.info.networks["hypereditor"], pack.network("hypereditor", HyperEditor)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight += torch.randn(weight.shape, generator=generator) * weight.std() * noise
    write_network(folder, "hypereditor", network, config=info.config, numbers=info.numbers, extra=pack.extra("hypereditor"))
    return folder
