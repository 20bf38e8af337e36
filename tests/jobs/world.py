"""A small world to run whole jobs in: a pack with random weights that finds faces, shards of portraits, and a job as a user starts it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from jobs.local_ray import LocalRay
from models.pack import Pack, write_network
from models.perception import LandmarkNet
from pipeline.align import Aligner
from pipeline.sample import SampleFailure
from portraits import render_aligned, sample_parameters
from tests.commands import ROOT, Ended
from tests.models.small_pack import CONFIGS, write_small_pack

JOB = "jobs/edit_dataset.py"
SMILE = "smile: a face -> a smiling face @1.2"
BEARD = "beard: a face -> a face with a beard"
TIMED = {"run.json", "report.html", "sheet.png", "README.md", "croissant.json"}  # hold timings; the sheet belongs to the report


@dataclass(frozen=True, kw_only=True)
class World:
    """Where the pack and the raw shards are; `keys` are the samples of each shard."""

    pack: Path
    raw: Path
    keys: Mapping[str, tuple[str, ...]]


def portraits(count: int, *, seed: int = 0, size: int = 96) -> list[bytes]:
    """Return JPEGs of rendered faces."""
    pixels = render_aligned(sample_parameters(count, torch.Generator().manual_seed(seed)), size=size)
    pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return [jpeg(image.numpy()) for image in pixels]


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_seeing_pack(folder: Path) -> Path:
    """Write the small pack with a landmark network that sees a face in a portrait, none in a plain wall, and spreads its landmarks.

    The weights stay random, but for the last layers: heat maps get peaks, and the face score is fitted to tell portraits from walls.
    """
    write_small_pack(folder)
    faces = [np.array(Image.open(io.BytesIO(data))) for data in portraits(24, seed=5)]
    colours = ((90, 120, 150), (250, 250, 250), (10, 10, 10))
    walls = [np.full((size, size, 3), colour, dtype=np.uint8) for size in (96, 160) for colour in colours]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = LandmarkNet.from_config(CONFIGS["landmarks"]).eval()
    with torch.no_grad():
        network.heat.weight.mul_(60)
        network.face.weight.zero_()
        _fit_face(network, faces, walls)
    write_network(folder, "landmarks", network, config=CONFIGS["landmarks"])
    return folder


def _fit_face(network: LandmarkNet, faces: Sequence[np.ndarray], walls: Sequence[np.ndarray]) -> None:
    """Fit the last layer of the face score by least squares: +8 for faces, -8 for walls."""
    features: list[torch.Tensor] = []
    hook = network.face.register_forward_hook(lambda _module, inputs, _output: features.append(inputs[0]))
    network.locate(faces)
    network.locate(walls)
    hook.remove()
    seen = torch.cat([features[1], features[3]])  # the second, closer look decides
    wanted = torch.cat([torch.full((len(faces),), 8.0), torch.full((len(walls),), -8.0)])
    with_bias = torch.cat([seen, torch.ones(len(seen), 1)], 1).double()
    ridge = torch.eye(with_bias.shape[1], dtype=torch.float64) * 1e-6
    solution = torch.linalg.solve(with_bias.T @ with_bias + ridge, with_bias.T @ wanted.double()).float()
    network.face.weight.copy_(solution[None, :-1])
    network.face.bias.copy_(solution[-1:])


def seen(pack: Path, pictures: Sequence[bytes]) -> list[bytes]:
    """Return the pictures in which the pack finds a face: its weights are random, so it does not find all."""
    opened = Pack.load(pack)
    found = Aligner(opened.landmarks(), size=opened.size).align_all([np.array(Image.open(io.BytesIO(data))) for data in pictures])
    return [picture for picture, face in zip(pictures, found, strict=True) if not isinstance(face, SampleFailure)]


def write_shard(path: Path, samples: Mapping[str, bytes]) -> None:
    """Write a shard as other tools do: KEY.jpg, KEY.json, KEY.txt."""
    with tarfile.open(path, "w") as tar:
        for key, picture in samples.items():
            for ext, data in (("jpg", picture), ("json", json.dumps({"key": key}).encode()), ("txt", b"a face")):
                info = tarfile.TarInfo(f"{key}.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def make_world(folder: Path, *, shards: int, per_shard: int) -> World:
    """Write a pack and shards whose last sample is no picture."""
    pack, raw = write_seeing_pack(folder / "pack"), folder / "raw"
    raw.mkdir()
    pictures = seen(pack, portraits(2 * shards * (per_shard - 1)))
    keys = {}
    for shard in range(shards):
        own = pictures[shard * (per_shard - 1) : (shard + 1) * (per_shard - 1)]
        samples = {f"{shard}{i:03d}": data for i, data in enumerate(own)} | {f"{shard}bad": b"this is no picture"}
        write_shard(raw / f"part-{shard}.tar", samples)
        keys[f"part-{shard}"] = tuple(samples)
    return World(pack=pack, raw=raw, keys=keys)


def arguments(world: World, out: Path, *more: str) -> list[str]:
    """Return the flags of a job over the world."""
    common = ["--input", str(world.raw), "--output", str(out), "--pack", str(world.pack), "--batch_size", "3"]
    return [*common, "--workers.threads", "1", "--workers.max", "1", "--instructions", SMILE, BEARD, *more]


def clean_environment(**more: str) -> dict[str, str]:
    """Return an environment without the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, **more}


def start(flags: Sequence[str], *, env: Mapping[str, str] | None = None, job: str = JOB) -> subprocess.Popen[str]:
    """Start a job as a user does."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / job), *flags],
        cwd=ROOT,
        env=dict(env or clean_environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def submit(flags: Sequence[str], *, ray: LocalRay, job: str = JOB) -> Ended:
    """Submit a job to a Ray from a folder with the code, and wait; `err` is all that was printed, `out` the line of JSON in it."""
    command = ["job", "submit", "--address", ray.job_address, "--working-dir", ".", "--", "python", job, *flags]
    done = subprocess.run(ray.command(*command), cwd=ROOT, env=ray.env, capture_output=True, text=True, check=False)
    results = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return Ended(code=done.returncode, out="\n".join(results), err=done.stdout + done.stderr)


def wait(process: subprocess.Popen[str], timeout_s: float = 280) -> Ended:
    """Wait for the end of a job."""
    out, err = process.communicate(timeout=timeout_s)
    return Ended(code=process.returncode, out=out, err=err)


def run(flags: Sequence[str], *, env: Mapping[str, str] | None = None, job: str = JOB) -> Ended:
    """Run a job to its end."""
    return wait(start(flags, env=env, job=job))


def tree(out: Path) -> dict[str, str]:
    """Return the sha256 of every file that two runs must share."""
    files = [path for path in out.rglob("*") if path.is_file() and path.relative_to(out).as_posix() not in TIMED]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def members(tar: Path) -> dict[str, bytes]:
    """Return what a tar holds, in its order."""
    with tarfile.open(tar) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
