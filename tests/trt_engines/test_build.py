"""What is asked of TensorRT, by names that its versions 10 and 11 have, and what is made of its answers.

The stand-in of fake_tensorrt.py proves nothing about TensorRT; test_on_tensorrt.py runs on the real one.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.commands import ROOT
from tests.trt_engines.conftest import toy
from tests.trt_engines.fake_tensorrt import FakeTensorRT
from trt_engines import tensorrt_api
from trt_engines.build import BuildSettings, Profile, build_in_child, build_plan, profiles_for
from trt_engines.graphs import BackendError
from trt_engines.runtime import EngineRunner, UnreadableError, load, read_engine, settings_for

API = json.loads((Path(__file__).parent / "data" / "api_subset.json").read_text())
SOURCES = sorted((ROOT / "trt_engines").glob("*.py"))
SETTINGS = BuildSettings(inputs=(("image", (3, 8, 8)),), profiles=profiles_for(4), workspace_mib=64, level=2)
PUBLISHED = {
    "TimingCache": "ITimingCache", "OptimizationProfile": "IOptimizationProfile", "BuilderConfig": "IBuilderConfig", "Runtime": "Runtime",
    "NetworkDefinition": "INetworkDefinition", "Builder": "Builder", "OnnxParser": "OnnxParser", "ExecutionContext": "IExecutionContext",
    "CudaEngine": "ICudaEngine", "HostMemory": "IHostMemory",
}  # fmt: skip
"""Protocols of tensorrt_api.py -> the classes that they are of."""


def attributes() -> Iterator[tuple[str, str]]:
    """Yield every attribute, and every name given to `member` or getattr, in the code that meets TensorRT."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                yield path.name, node.attr
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("member", "getattr"):
                yield from ((path.name, arg.value) for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def test_no_name_that_tensorrt_11_took_away_is_used() -> None:
    gone = {name for names in API["forbidden_on_11"].values() for name in names.split()}
    used = list(attributes())
    assert {"FP16", "EXPLICIT_BATCH", "device_memory_size"} <= gone and ("build.py", "STRONGLY_TYPED") in used
    # `precision` and the like are words that other libraries have too; here nobody needs them.
    assert not [entry for entry in used if entry[1] in gone]


@pytest.mark.parametrize(("protocol", "published"), PUBLISHED.items())
def test_every_name_is_one_that_all_versions_have(protocol: str, published: str) -> None:
    mine, known = getattr(tensorrt_api, protocol), API["use"][published]
    names = {name for name in (*vars(mine), *mine.__annotations__) if not name.startswith("_")}
    assert names and names <= set(known)
    for name in names & set(vars(mine)):
        parameters = list(inspect.signature(getattr(mine, name)).parameters)[1:]
        if "*args" in known[name]:  # the bindings hide an overloaded signature
            continue
        given = re.findall(r"(\w+):", known[name].split("(", 1)[1].rsplit(") ->", 1)[0])[1:]
        assert parameters == given[: len(parameters)], f"{published}.{name}: {known[name]}"


def test_every_enumeration_value_is_one_that_all_versions_have() -> None:
    found = set()
    for path in SOURCES:
        found |= set(re.findall(r"member\(trt\.(\w+), \"(\w+)\"\)", path.read_text()))
    assert ("MemoryPoolType", "WORKSPACE") in found
    for enumeration, name in found:
        assert set(API["enums"][enumeration][name]) == set(API["versions"])


def test_only_one_module_imports_tensorrt() -> None:
    importers = [path.name for path in SOURCES if re.search(r"^\s*(import|from) tensorrt\b", path.read_text(), re.MULTILINE)]
    assert importers == ["tensorrt_api.py"]


@pytest.mark.parametrize(("version", "typed", "flags"), [("10.3.0", 1, 0b10), ("11.4.0.106", 0, 0b1), ("12.0", None, 0)])
def test_networks_are_strongly_typed_in_every_version(version: str, typed: int | None, flags: int) -> None:
    fake = FakeTensorRT(version, typed=typed)
    plan, timing = build_plan(fake, b"model", SETTINGS)  # type: ignore[arg-type]
    assert fake.network_flags == [flags] and json.loads(plan) == {"model": 5} and timing == b"+measured"


def test_a_build_is_asked_for_as_its_settings_say() -> None:
    fake = FakeTensorRT("11.4", typed=0)
    for settings in (SETTINGS, replace(SETTINGS, tf32=True)):
        build_plan(fake, b"model", settings)  # type: ignore[arg-type]
    strict, loose = fake.configs
    assert not strict.flags and loose.flags == {fake.BuilderFlag.TF32}
    assert strict.builder_optimization_level == 2 and strict.pools == {fake.MemoryPoolType.WORKSPACE: 64 << 20}
    shapes = [profile.shapes["image"] for profile in strict.profiles]
    assert shapes == [((1, 3, 8, 8),) * 3, ((4, 3, 8, 8),) * 3]
    assert profiles_for(1) == (Profile(least=1, best=1, most=1),)


@pytest.mark.parametrize(("before", "used"), [(b"mine", b"mine"), (b"other device", b""), (b"", b"")])
def test_a_timing_cache_of_another_device_is_not_used(before: bytes, used: bytes) -> None:
    fake = FakeTensorRT("11.4", typed=0)
    _, after = build_plan(fake, b"model", SETTINGS, timing=before)  # type: ignore[arg-type]
    assert after == used + b"+measured"


def test_what_tensorrt_refuses_is_said_with_its_reason() -> None:
    fake = FakeTensorRT("11.4", typed=0)
    with pytest.raises(BackendError, match="TensorRT 11.4 cannot read the graph: node 7: no importer for Frobnicate; node 9: the same"):
        build_plan(fake, b"bad model", SETTINGS)  # type: ignore[arg-type]
    fake.builds_nothing = True
    with pytest.raises(BackendError, match="built no engine with a workspace of 64 MiB.*means too little memory"):
        build_plan(fake, b"model", SETTINGS)  # type: ignore[arg-type]


def test_an_engine_that_does_not_fit_is_refused_with_the_numbers() -> None:
    fake = FakeTensorRT("11.4", typed=0)
    plan, _ = build_plan(fake, b"model", SETTINGS)  # type: ignore[arg-type]
    assert read_engine(fake, plan, free_mib=6).num_io_tensors == 2  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"does not fit the device: it needs 6 MiB to run and 5 MiB are free; lower --batch_size"):
        read_engine(fake, plan, free_mib=5)  # type: ignore[arg-type]
    with pytest.raises(UnreadableError, match="TensorRT 11.4 does not take this plan"):
        read_engine(fake, b"not a plan", free_mib=5)  # type: ignore[arg-type]


def test_an_engine_of_something_else_is_refused() -> None:
    fake = FakeTensorRT("11.4", typed=0)
    engine = read_engine(fake, b"{}", free_mib=6)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="makes no context of the encoder's engine: too little memory"):
        EngineRunner(fake, engine, toy(), profiles=[1])  # type: ignore[arg-type]
    for graph, profiles in ((replace(toy(), outputs=("picture",)), [1]), (toy(), [1, 4])):
        with pytest.raises(UnreadableError, match=r"not one of the encoder: it has \['features', 'image'\] and 1 profiles, expected"):
            EngineRunner(fake, engine, graph, profiles=profiles)  # type: ignore[arg-type]


@pytest.mark.parametrize("rounds", [True, False])
def test_an_engine_rounds_as_torch_does(monkeypatch: pytest.MonkeyPatch, rounds: bool) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", rounds)
    settings = settings_for(toy(), batch_size=4)
    assert settings.tf32 is rounds and settings.inputs == (("image", (3, 8, 8)),) and settings.profiles == profiles_for(4)


def test_a_cpu_is_refused_before_anything_is_exported() -> None:
    with pytest.raises(BackendError, match="TensorRT needs an NVIDIA GPU and --device is cpu"):
        load(toy(), device="cpu", batch_size=1)


def test_a_machine_without_tensorrt_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"TensorRT is not installed .*pip install 'hyperedit\[tensorrt\]'"):
        tensorrt_api.load()


def test_a_driver_that_tensorrt_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT("11.4", typed=0)

    def refuse(logger: object) -> object:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(fake, "Builder", refuse)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="TensorRT 11.4 cannot be used here: .*returned nullptr; look at the driver with nvidia-smi"):
        tensorrt_api.load()


def test_a_builder_that_fails_in_its_process_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder named `tensorrt` that cannot be loaded, wherever the real one may be.
    broken = tmp_path / "path" / "tensorrt"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libnvinfer.so.10 is not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    with pytest.raises(BackendError, match="the process that builds ended with exit code 1: .*libnvinfer.so.10 is not here"):
        build_in_child(b"model", SETTINGS, folder=tmp_path)
