"""One of several gloo workers, started with torchrun's variables: `python -m tests.training.two_workers OUTPUT`.

It normalises its part of a batch, then takes the first steps of every kind; the first worker's logs and both workers' tensors stay in
OUTPUT. With `--go-on` it ends the training of GROWN that one worker began there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from tests.training.small_kinds import COMPARED, train
from training.batch_norm import share_batch_norms
from training.checkpoint import pack_tree
from training.group import Group, launched_group

GROWN = "e4e"
SHAPES = {"pictures": (4, 3, 5, 6), "vectors": (8, 3, 1, 1)}


def norm() -> nn.Sequential:
    """Return a normalisation whose weights are not the neutral ones."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3))
    nn.init.normal_(net[0].weight)  # type: ignore[arg-type]
    nn.init.normal_(net[0].bias)  # type: ignore[arg-type]
    return net.double()


def batch(name: str, step: int) -> tuple[Tensor, Tensor]:
    """Return a whole batch, far from mean 0, and what its output is weighed with."""
    stream = torch.Generator().manual_seed(step)
    shape = SHAPES[name]
    x = torch.randn(shape, generator=stream, dtype=torch.float64) * 3 + 20 * torch.arange(shape[0])[:, None, None, None] / shape[0]
    return x, torch.randn(shape, generator=stream, dtype=torch.float64)


def normalised(net: nn.Sequential, name: str, part: slice) -> dict[str, Tensor]:
    """Return outputs, gradients and running statistics after two training steps, and the output in evaluation, of a part of the batch."""
    found: dict[str, Tensor] = {}
    for step in range(2):
        whole, weight = batch(name, step)
        x = whole[part].clone().requires_grad_()
        y = net.train()(x)
        (y * weight[part]).sum().backward()
        assert x.grad is not None
        found |= {f"output{step}": y.detach(), f"gradient{step}": x.grad}
    found |= {f"grad_{key}": value.grad for key, value in net[0].named_parameters() if value.grad is not None}
    found |= {f"own_{key}": value for key, value in net[0].named_buffers()}
    return found | {"evaluated": net.eval()(batch(name, 9)[0][part]).detach()}


def part_of(group: Group, name: str) -> slice:
    """Return a worker's part of a batch."""
    count = SHAPES[name][0] // group.world
    return slice(group.rank * count, (group.rank + 1) * count)


def main(output: Path, *, go_on: bool) -> None:
    """Be one worker."""
    torch.set_num_threads(1)
    group = launched_group(torch.device("cpu"))
    if go_on:
        train(GROWN, output / GROWN, group=group)
    else:
        begin(output, group)
    distributed.destroy_process_group()


def begin(output: Path, group: Group) -> None:
    """Normalise, and take the first steps of every kind."""
    for name in SHAPES:
        net = norm()
        share_batch_norms(net, group)
        (output / f"{name}-{group.rank}").write_bytes(pack_tree(normalised(net, name, part_of(group, name))))
    for network in COMPARED:
        train(network, output / network, group=group, should_stop=lambda: group.is_first)


if __name__ == "__main__":
    main(Path(sys.argv[1]), go_on=sys.argv[2:] == ["--go-on"])
