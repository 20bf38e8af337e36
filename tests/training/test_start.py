"""A training may begin with the network of another pack: `--start`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.pack import Pack
from training.group import Group
from training.kinds.e4e import EncoderConfig
from training.objective import Objective, Setting, SettingError, build_objective
from training.run import Training, begin, fingerprint, open_setting

COMMITTED = Path(__file__).parents[2] / "packs" / "portraits64"


def built(settings: EncoderConfig, *, start: str | None) -> tuple[Training, Objective[object], Setting]:
    """Return a training of an encoder, its objective, still untrained, and what it stands on."""
    training = Training(network="e4e", settings=settings, output="unused", pack=str(COMMITTED), start=start)
    setting = open_setting(training, Group())
    return training, build_objective("e4e", settings, setting), setting


def test_the_network_begins_with_the_weights_of_the_named_pack() -> None:
    wanted = Pack.load(COMMITTED).network("e4e", torch.nn.Module).state_dict()
    for start, expected in ((None, False), (str(COMMITTED), True)):
        training, objective, setting = built(EncoderConfig(), start=start)
        begin(training, objective, setting)
        same = all(torch.equal(value, wanted[name]) for name, value in objective.net.state_dict().items())
        assert same is expected
    assert all(parameter.requires_grad for parameter in objective.net.parameters())


def test_a_network_of_another_shape_is_refused() -> None:
    built_one = built(EncoderConfig(widths=(8, 8, 8, 8)), start=str(COMMITTED))
    with pytest.raises(SettingError, match=r"--start .*portraits64: its e4e has another shape than the settings say"):
        begin(*built_one)


def test_checkpoints_tell_trainings_with_another_beginning_apart() -> None:
    begun = [built(EncoderConfig(), start=start) for start in (None, str(COMMITTED))]
    marks = [fingerprint(training, setting) for training, _, setting in begun]
    assert marks[0] != marks[1]
