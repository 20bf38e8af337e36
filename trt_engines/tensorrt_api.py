"""The part of TensorRT's Python interface that engines are built and run with, and the only import of it.

Every name below is in versions 10.3, 10.16 and 11.4 (tests/trt_engines/data/api_subset.json). Not yet run on TensorRT: its libraries cannot
be had on the machines that test this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from trt_engines.graphs import BackendError


class HostMemory(Protocol):
    """Bytes that TensorRT owns; `bytes(memory)` copies them."""

    nbytes: int

    def __buffer__(self, flags: int, /) -> memoryview: ...


class TimingCache(Protocol):
    """What the builder measured, for later builds on the same device."""

    def serialize(self) -> HostMemory: ...


class OptimizationProfile(Protocol):
    """The shapes that an engine takes, and the one that it is best at."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None: ...


class BuilderConfig(Protocol):
    """How to build."""

    builder_optimization_level: int

    def set_memory_pool_limit(self, pool: object, pool_size: int) -> None: ...
    def clear_flag(self, flag: object) -> None: ...
    def add_optimization_profile(self, profile: OptimizationProfile) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache: ...
    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> TimingCache | None: ...


class NetworkDefinition(Protocol):
    """A network that a parser fills."""

    num_inputs: int
    num_outputs: int


class Builder(Protocol):
    """Make engines."""

    def create_network(self, flags: int = 0) -> NetworkDefinition: ...
    def create_builder_config(self) -> BuilderConfig: ...
    def create_optimization_profile(self) -> OptimizationProfile: ...
    def build_serialized_network(self, network: NetworkDefinition, config: BuilderConfig) -> HostMemory | None: ...


class OnnxParser(Protocol):
    """Read ONNX into a network."""

    num_errors: int

    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> object: ...


class ExecutionContext(Protocol):
    """One use of an engine at a time."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def set_device_memory(self, memory: int, size: int) -> None: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class CudaEngine(Protocol):
    """A network compiled for one device."""

    num_io_tensors: int
    num_optimization_profiles: int
    device_memory_size_v2: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> object: ...
    def get_tensor_dtype(self, name: str) -> object: ...
    def create_execution_context(self, strategy: object) -> ExecutionContext | None: ...


class Runtime(Protocol):
    """Read engines."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None: ...


class _Makes(Protocol):
    def __call__(self, *arguments: object) -> object: ...


class TensorRT(Protocol):
    """The module `tensorrt`; enumerations are read by name, their numbers differ between versions."""

    __version__: str
    BuilderFlag: object
    DataType: object
    ExecutionContextAllocationStrategy: object
    MemoryPoolType: object
    NetworkDefinitionCreationFlag: object
    TensorIOMode: object
    Logger: _Makes
    Builder: _Makes
    OnnxParser: _Makes
    Runtime: _Makes


_loggers: dict[int, object] = {}


def load() -> TensorRT:
    """Return TensorRT where it can build here. Raises BackendError with the reason where it cannot."""
    try:
        import tensorrt
    except ImportError as error:
        raise BackendError(
            f"TensorRT is not installed ({error}): pip install 'hyperedit[tensorrt]' on a machine with an NVIDIA GPU"
        ) from None
    found = cast(TensorRT, tensorrt)
    try:
        make_builder(found)
    except (TypeError, RuntimeError) as error:  # "factory function returned nullptr": no driver, or one that is too old
        raise BackendError(f"TensorRT {found.__version__} cannot be used here: {error}; look at the driver with nvidia-smi") from None
    return found


def make_logger(trt: TensorRT) -> object:
    """Return the one logger of this process, which says warnings and errors."""
    return _loggers.setdefault(id(trt), trt.Logger())


def make_builder(trt: TensorRT) -> Builder:
    """Return a builder. Raises TypeError where TensorRT finds no device."""
    return cast(Builder, trt.Builder(make_logger(trt)))


def make_parser(trt: TensorRT, network: NetworkDefinition) -> OnnxParser:
    """Return a parser that fills a network."""
    return cast(OnnxParser, trt.OnnxParser(network, make_logger(trt)))


def make_runtime(trt: TensorRT) -> Runtime:
    """Return what reads engines."""
    return cast(Runtime, trt.Runtime(make_logger(trt)))


def member(enumeration: object, name: str) -> object:
    """Return a value of an enumeration by its name."""
    return getattr(enumeration, name)
