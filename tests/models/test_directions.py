"""Directions in latent space against what they must find where the answer is known."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models.directions import Directions, ganspace, interfacegan, sefa
from models.stylegan2 import Generator

torch.set_num_threads(1)


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(8, 16, 2, channels={4: 8, 8: 8}).requires_grad_(False)


class _Shown(Generator):
    """Shows a latent as the brightness of its picture along a known direction."""

    def synthesis(self, latents_BLD: Tensor, *_: object, **__: object) -> Tensor:  # type: ignore[override]
        return (latents_BLD[:, 0] @ self.secret)[:, None, None, None].expand(-1, 3, 8, 8).mul(0.1)


def test_interfacegan_finds_the_direction_that_a_label_follows() -> None:
    torch.manual_seed(1)
    g = _Shown(8, 16, 2, channels={4: 8, 8: 8}).requires_grad_(False)
    g.secret = F.normalize(torch.randn(16), dim=0)
    g.style = torch.nn.Identity()  # type: ignore[assignment]
    found = interfacegan(g, lambda image: image.mean((1, 2, 3)), samples=2000)
    assert float(found.vectors_KD[0] @ g.secret) > 0.97


def test_ganspace_orders_orthogonal_directions_by_variance() -> None:
    g = generator()
    found = ganspace(g, n=5, samples=500).vectors_KD
    w = g.mapping(torch.randn(500, 16, generator=torch.Generator().manual_seed(0)))
    spread = ((w - w.mean(0)) @ found.T).std(0)
    assert torch.allclose(found @ found.T, torch.eye(5), atol=1e-4) and bool((spread[:-1] >= spread[1:]).all())
    assert torch.equal(found, ganspace(g, n=5, samples=500).vectors_KD)


def test_sefa_finds_what_a_modulation_amplifies() -> None:
    g = generator()
    secret = F.normalize(torch.randn(16, generator=torch.Generator().manual_seed(2)), dim=0)
    for conv in g.convolutions():
        conv.modulation.weight.copy_(conv.modulation.weight * 0.1 + secret)
    assert abs(float(sefa(g, n=1).vectors_KD[0] @ secret)) > 0.95


def test_moving_touches_the_chosen_slots_only() -> None:
    latents = torch.randn(2, 4, 16)
    direction = Directions(vectors_KD=torch.eye(16)[:1], slots=(1, 3))
    change = direction.moved(latents, 2.0) - latents
    assert torch.equal(change[:, (0, 2)], torch.zeros(2, 2, 16)) and torch.allclose(change[:, (1, 3), 0], torch.full((2, 2), 2.0))
    everywhere = Directions(vectors_KD=torch.eye(16)[:1]).moved(latents, 2.0) - latents
    assert torch.allclose(everywhere[..., 0], torch.full((2, 4), 2.0), atol=1e-5)
