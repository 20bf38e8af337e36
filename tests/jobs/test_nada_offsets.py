"""The job that puts fine-tuned generators into a pack as one editor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from models.nada import NadaOffsets
from models.pack import Pack, write_network
from models.stylegan2 import Generator, StyledConv
from tests.commands import ROOT
from tests.models.small_pack import CONFIGS, write_small_pack

torch.set_num_threads(1)
TEXT = "a sketch of a face"


def job(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "jobs" / "nada_offsets.py"), *flags], capture_output=True, text=True, check=False)


def test_fine_tuned_generators_become_an_editor(tmp_path: Path) -> None:
    base, tuned = write_small_pack(tmp_path / "base"), tmp_path / "tuned"
    shutil.copytree(base, tuned)
    generator = Pack.load(base).generator()
    extra = Pack.load(base).extra("generator")
    other = Generator.from_config(CONFIGS["generator"])
    other.load_state_dict(generator.state_dict())
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, StyledConv):
                module.conv.weight.mul_(1.5)
    write_network(tuned, "generator", other, config=CONFIGS["generator"], extra=extra)
    flags = ["--pack", str(base), "--output", str(tmp_path / "new")]
    ended = job(*flags, "--tuned", json.dumps({TEXT: str(tuned)}))
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["texts"] == [TEXT]
    new = Pack.load(tmp_path / "new")
    assert set(new.info.networks) == {*Pack.load(base).info.networks, "nada"}
    offsets = new.network("nada", NadaOffsets)(TEXT)
    assert all(torch.allclose(offset, torch.full_like(offset, 0.5), atol=1e-2) for offset in offsets.values())

    wrong = job(*flags, "--tuned", "{}")
    assert wrong.returncode == 2 and "expected one text or more" in wrong.stderr
    missing = job(*flags, "--tuned", json.dumps({TEXT: str(tmp_path / "nowhere")}))
    assert missing.returncode == 2 and "nowhere: no such folder" in missing.stderr
