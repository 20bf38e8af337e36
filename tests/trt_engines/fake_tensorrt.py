"""A strict stand-in for the module `tensorrt`: it knows the names and signatures that the code may use and refuses everything else.

It shows the order of calls and what is made of their answers. It proves nothing about TensorRT.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence


class _BuilderFlag(enum.Enum):
    TF32 = 6


class _MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class _TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class _DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    BF16 = 7
    INT32 = 3
    INT64 = 8


class _AllocationStrategy(enum.Enum):
    USER_MANAGED = 2


class _Memory:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.nbytes = len(data)

    def __bytes__(self) -> bytes:
        return self._data


class _Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> _Memory:
        return _Memory(self.data + b"+measured")


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        assert tuple(min) <= tuple(opt) <= tuple(max)
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))


class _Config:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt
        self.builder_optimization_level = -1
        self.flags = {_BuilderFlag.TF32}
        self.pools: dict[_MemoryPoolType, int] = {}
        self.profiles: list[_Profile] = []
        self.cache: _Cache | None = None

    def set_memory_pool_limit(self, pool: _MemoryPoolType, pool_size: int) -> None:
        self.pools[pool] = pool_size

    def clear_flag(self, flag: _BuilderFlag) -> None:
        self.flags.remove(flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> _Cache:
        return _Cache(serialized_timing_cache)

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.data.startswith(b"other device"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> _Cache | None:
        return self.cache


class _Network:
    num_inputs = num_outputs = 0

    def __init__(self) -> None:
        self.model = b""


class _Builder:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt

    def create_network(self, flags: int = 0) -> _Network:
        self._trt.network_flags.append(flags)
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config(self._trt)

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> _Memory | None:
        self._trt.configs.append(config)
        assert network.model, "nothing was parsed into this network"
        return None if self._trt.builds_nothing else _Memory(json.dumps({"model": len(network.model)}).encode())


class _Parser:
    def __init__(self, network: _Network) -> None:
        self._network = network
        self.num_errors = 0

    def parse(self, model: bytes) -> bool:
        if model.startswith(b"bad"):
            self.num_errors = 2
            return False
        self._network.model = model
        return True

    def get_error(self, index: int) -> str:
        return ("node 7: no importer for Frobnicate", "node 9: the same")[index]


class _Engine:
    num_optimization_profiles = 1

    def __init__(self, memory: int, tensors: Sequence[tuple[str, _TensorIOMode]]) -> None:
        self.device_memory_size_v2 = memory
        self._tensors = list(tensors)
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return self._tensors[index][0]

    def get_tensor_mode(self, name: str) -> _TensorIOMode:
        return dict(self._tensors)[name]

    def get_tensor_dtype(self, name: str) -> _DataType:
        return _DataType.FLOAT

    def create_execution_context(self, strategy: _AllocationStrategy) -> None:
        assert strategy is _AllocationStrategy.USER_MANAGED
        return None


class _Runtime:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> _Engine | None:
        try:
            json.loads(serialized_engine)
        except ValueError:
            return None
        tensors = [("image", _TensorIOMode.INPUT), ("features", _TensorIOMode.OUTPUT)]
        return _Engine(self._trt.engine_memory, tensors)


class FakeTensorRT:
    """The module: `typed` is the value of the flag STRONGLY_TYPED, None where a version has no such flag."""

    BuilderFlag = _BuilderFlag
    DataType = _DataType
    ExecutionContextAllocationStrategy = _AllocationStrategy
    MemoryPoolType = _MemoryPoolType
    TensorIOMode = _TensorIOMode

    def __init__(self, version: str, *, typed: int | None) -> None:
        self.__version__ = version
        members = {} if typed is None else {"STRONGLY_TYPED": typed}
        self.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", members)
        self.network_flags: list[int] = []
        self.configs: list[_Config] = []
        self.builds_nothing = False
        self.engine_memory = 5 << 20
        self.Logger = object
        self.Builder = lambda logger: _Builder(self)
        self.OnnxParser = lambda network, logger: _Parser(network)
        self.Runtime = lambda logger: _Runtime(self)
