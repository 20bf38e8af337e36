"""Run engines of TensorRT on torch tensors: no copies to the host, one stream and one context per graph.

Not yet run on TensorRT.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from trt_engines.batching import Padded
from trt_engines.build import MIB, BuildSettings, build_in_child, profiles_for
from trt_engines.cache import Around, Device, EngineCache, EngineKey
from trt_engines.export import export
from trt_engines.graphs import BackendError, Graph, Runner, Tensors
from trt_engines.parity import check
from trt_engines.tensorrt_api import CudaEngine, ExecutionContext, TensorRT, make_runtime, member
from trt_engines.tensorrt_api import load as load_tensorrt

TYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT32": torch.int32, "INT64": torch.int64}


def load(graph: Graph, *, device: str, batch_size: int) -> Runner:
    """Return a runner on an engine from the cache, built and tried if need be.

    Raises BackendError with the reason where there can be none.
    """
    if device == "cpu":
        raise BackendError("TensorRT needs an NVIDIA GPU and --device is cpu; take --backend onnxruntime or eager on a CPU")
    trt = load_tensorrt()
    settings = settings_for(graph, batch_size=batch_size)
    exported = export(graph)
    key = EngineKey(
        tensorrt=trt.__version__, system=f"{platform.system()}-{platform.machine()}", onnx_sha256=exported.sha256, settings=settings,
        device=this_device(),
    )  # fmt: skip

    def runner_of(plan: bytes) -> Runner:
        profiles = [profile.best for profile in settings.profiles]
        runner = EngineRunner(trt, read_engine(trt, plan, free_mib=_free_mib()), graph, profiles=profiles)
        return Padded(runner, sizes=[profile.most for profile in settings.profiles])

    def test(plan: bytes) -> None:
        with suppress(NoRoomError, torch.OutOfMemoryError):  # of this moment, which is nothing to remember for a day
            check(graph, runner_of(plan), device=device, batch_size=batch_size)

    cache = EngineCache(build=_build, test=test, around=Around(driver=_driver(), cuda=str(torch.version.cuda)))
    plan = cache.engine(exported.data, key)
    try:
        return runner_of(plan)
    except UnreadableError as error:
        cache.set_aside(key, str(error))
        return runner_of(cache.engine(exported.data, key))


def settings_for(graph: Graph, *, batch_size: int) -> BuildSettings:
    """Return how the engine of a graph is built for a batch size; it rounds to TF32 where torch's convolutions do."""
    rounds = torch.backends.cudnn.allow_tf32
    return BuildSettings(inputs=tuple(graph.inputs.items()), profiles=profiles_for(batch_size), tf32=rounds)


def this_device() -> Device:
    """Return the GPU that torch uses."""
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Device(
        name=found.name, compute_capability=f"{found.major}.{found.minor}", multiprocessors=found.multi_processor_count,
        memory_mib=found.total_memory // MIB, l2_kib=found.L2_cache_size // 1024,
    )  # fmt: skip


def _build(onnx: bytes, settings: BuildSettings, folder: Path) -> bytes:
    return build_in_child(onnx, settings, folder=folder)


def _driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        return "unknown"


def _free_mib() -> int:
    """Return what engines can have: what is free, and what torch's allocator, from which they take it, keeps for later."""
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return (torch.cuda.mem_get_info()[0] + kept) // MIB


class UnreadableError(BackendError):
    """TensorRT does not take a plan."""


class NoRoomError(BackendError):
    """An engine needs more memory than is free."""


def read_engine(trt: TensorRT, plan: bytes, *, free_mib: int) -> CudaEngine:
    """Return the engine of a plan. Raises UnreadableError, or NoRoomError where it does not fit into the memory that is free."""
    engine = make_runtime(trt).deserialize_cuda_engine(plan)
    if engine is None:
        raise UnreadableError(f"TensorRT {trt.__version__} does not take this plan")
    needed_mib = engine.device_memory_size_v2 // MIB + 1
    if needed_mib > free_mib:
        raise NoRoomError(
            f"this engine does not fit the device: it needs {needed_mib} MiB to run and {free_mib} MiB are free; lower --batch_size, free "
            "the GPU, or take --backend compile"
        )
    return engine


class EngineRunner:
    """Run one engine at the batches of its profiles, in order."""

    def __init__(self, trt: TensorRT, engine: CudaEngine, graph: Graph, *, profiles: list[int]) -> None:
        self._check(trt, engine, graph, profiles=len(profiles))
        context = engine.create_execution_context(member(trt.ExecutionContextAllocationStrategy, "USER_MANAGED"))
        if context is None:
            raise NoRoomError(f"TensorRT {trt.__version__} makes no context of the {graph.name}'s engine: too little memory on the device")
        self._engine, self._context, self._graph = engine, context, graph
        self._profiles = profiles
        self._profile: int | None = None
        self._types = {name: _torch_type(trt, engine.get_tensor_dtype(name)) for name in (*graph.inputs, *graph.outputs)}
        self._stream = torch.cuda.Stream()

    @staticmethod
    def _check(trt: TensorRT, engine: CudaEngine, graph: Graph, *, profiles: int) -> None:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        inputs = {name for name, mode in modes.items() if mode == member(trt.TensorIOMode, "INPUT")}
        if inputs != set(graph.inputs) or set(modes) - inputs != set(graph.outputs) or engine.num_optimization_profiles != profiles:
            raise UnreadableError(
                f"the engine is not one of the {graph.name}: it has {sorted(modes)} and {engine.num_optimization_profiles} profiles, "
                f"expected {sorted((*graph.inputs, *graph.outputs))} and {profiles}"
            )

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Return outputs on the device; the caller's stream waits for them."""
        caller = torch.cuda.current_stream()
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            given = [value.to(self._types[name]).contiguous() for name, value in zip(self._graph.inputs, inputs, strict=True)]
            outputs = self._run(given)
        caller.wait_stream(self._stream)
        for value in inputs:
            value.record_stream(self._stream)  # its memory is not given away before the engine has read it
        for value in outputs:
            value.record_stream(caller)
        return outputs

    def _run(self, inputs: list[Tensor]) -> Tensors:
        context, stream = self._context, self._stream.cuda_stream
        profile = self._profiles.index(inputs[0].shape[0])
        if profile != self._profile:
            _must(context.set_optimization_profile_async(profile, stream), "take the profile", self._graph)
            self._profile = profile
        for name, value in zip(self._graph.inputs, inputs, strict=True):
            _must(context.set_input_shape(name, tuple(value.shape)), f"take {name} of shape {tuple(value.shape)}", self._graph)
            _must(context.set_tensor_address(name, value.data_ptr()), f"take the address of {name}", self._graph)
        outputs = tuple(self._output(context, name, inputs[0].device) for name in self._graph.outputs)
        # From torch's allocator: engines that never run at the same time share it.
        scratch = torch.empty(max(1, self._engine.device_memory_size_v2), dtype=torch.uint8, device=inputs[0].device)
        context.set_device_memory(scratch.data_ptr(), self._engine.device_memory_size_v2)
        _must(context.execute_async_v3(stream), "run", self._graph)
        return outputs

    def _output(self, context: ExecutionContext, name: str, device: torch.device) -> Tensor:
        value = torch.empty(tuple(context.get_tensor_shape(name)), dtype=self._types[name], device=device)
        _must(context.set_tensor_address(name, value.data_ptr()), f"take the address of {name}", self._graph)
        return value


def _torch_type(trt: TensorRT, found: object) -> torch.dtype:
    for name, dtype in TYPES.items():
        if found == member(trt.DataType, name):
            return dtype
    raise BackendError(f"the engine has a tensor of type {found}; expected one of {', '.join(TYPES)}")


def _must(done: bool, what: str, graph: Graph) -> None:
    if not done:
        raise BackendError(f"TensorRT would not {what} in the {graph.name}'s engine; its log above says why")
