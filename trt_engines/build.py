"""Build an engine from ONNX: strongly typed, one optimisation profile per batch range, timing cache kept between builds.

Run as `python -m trt_engines.build REQUEST.json` it builds in a process of its own, so that a crash of the builder costs a build and
not the job. Not yet run on TensorRT.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from models.pack_format import write_atomically
from trt_engines.graphs import BackendError
from trt_engines.tensorrt_api import BuilderConfig, NetworkDefinition, TensorRT, load, make_builder, make_parser, member

MIB = 1 << 20
REASON_LINES = 5


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Batches that an engine takes, and the one that it is best at."""

    least: int
    best: int
    most: int


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How to build an engine; every field is part of the cache's key.

    `inputs` are names and shapes without the batch. The type of every value is what the ONNX graph says, half precision too; `tf32`
    lets the builder round the factors of float32 products to 10 bits.
    """

    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    profiles: tuple[Profile, ...]
    workspace_mib: int = 4096
    level: int = 3
    tf32: bool = False


def profiles_for(batch_size: int) -> tuple[Profile, ...]:
    """Return a profile for single pictures and one for full batches."""
    single = Profile(least=1, best=1, most=1)
    return (single,) if batch_size == 1 else (single, Profile(least=batch_size, best=batch_size, most=batch_size))


def build_plan(trt: TensorRT, onnx: bytes, settings: BuildSettings, *, timing: bytes = b"") -> tuple[bytes, bytes]:
    """Return a plan and the timing cache after the build. Raises BackendError with TensorRT's reason."""
    builder = make_builder(trt)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # a later version may have no other kind, and no flag
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    _parse(trt, network, onnx)
    config = builder.create_builder_config()
    config.builder_optimization_level = settings.level
    config.set_memory_pool_limit(member(trt.MemoryPoolType, "WORKSPACE"), settings.workspace_mib * MIB)
    if not settings.tf32:
        config.clear_flag(member(trt.BuilderFlag, "TF32"))
    for profile in settings.profiles:
        shapes = builder.create_optimization_profile()
        for name, shape in settings.inputs:
            shapes.set_shape(name, (profile.least, *shape), (profile.best, *shape), (profile.most, *shape))
        if config.add_optimization_profile(shapes) < 0:
            raise BackendError(f"TensorRT {trt.__version__} does not take the profile {profile}")
    _use_timing(config, timing)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"TensorRT {trt.__version__} built no engine with a workspace of {settings.workspace_mib} MiB; its log says why "
            "('could not find any implementation for node' means too little memory)"
        )
    kept = config.get_timing_cache()
    return bytes(plan), bytes(kept.serialize()) if kept is not None else b""


def _parse(trt: TensorRT, network: NetworkDefinition, onnx: bytes) -> None:
    parser = make_parser(trt, network)
    if not parser.parse(onnx):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BackendError(f"TensorRT {trt.__version__} cannot read the graph: {errors or 'no reason given'}")


def _use_timing(config: BuilderConfig, timing: bytes) -> None:
    """Start from what was measured before; a cache of another device or version is refused by TensorRT, and a new one begun."""
    if not timing or not config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def build_in_child(onnx: bytes, settings: BuildSettings, *, folder: Path) -> bytes:
    """Build in a child process with files in `folder`, where the timing cache stays. Raises BackendError with the child's reason."""
    write_atomically(folder / "model.onnx", onnx)
    write_atomically(folder / "request.json", json.dumps(dataclasses.asdict(settings)).encode())
    plan = folder / "built.plan"
    plan.unlink(missing_ok=True)
    command = [sys.executable, "-m", "trt_engines.build", str(folder / "request.json")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not plan.is_file():
        last = " | ".join((done.stdout + done.stderr).strip().splitlines()[-REASON_LINES:]) or "it said nothing"
        how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with exit code {done.returncode}"
        raise BackendError(f"the process that builds {how}: {last}")
    return plan.read_bytes()


def main(request: Path) -> int:
    """Build what a request file asks for, from and to the files beside it."""
    asked = json.loads(request.read_text())
    settings = BuildSettings(
        inputs=tuple((str(name), tuple(int(side) for side in shape)) for name, shape in asked["inputs"]),
        profiles=tuple(Profile(**profile) for profile in asked["profiles"]),
        workspace_mib=int(asked["workspace_mib"]),
        level=int(asked["level"]),
        tf32=bool(asked["tf32"]),
    )
    folder = request.parent
    timing = folder / "timing.cache"
    try:
        before = timing.read_bytes() if timing.is_file() else b""
        plan, after = build_plan(load(), (folder / "model.onnx").read_bytes(), settings, timing=before)
    except BackendError as error:
        print(error, file=sys.stderr)
        return 1
    if after:
        write_atomically(timing, after)
    write_atomically(folder / "built.plan", plan)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
