"""How many pictures fit into one forward pass: measured on a few, before a run touches data.

The answer is a power of two and depends on the device's whole memory, not on what is free of it at the moment: a run that is resumed on the
same kind of machine gets the same batches, hence the same bytes.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch

MOST = {"cpu": 16, "cuda": 64}
"""Larger batches are no faster (docs/performance.md)."""
SMALL, LARGE = 1, 4
"""Batches that are measured: their difference is what a picture takes."""
SHARE = 0.6
"""Of the memory that a worker's part of the device has; the rest is for allocators and for what the probe does not see."""
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def fitting_batch(run: Callable[[int], object], *, device: str, part: float) -> int:
    """Return the largest power of two that fits, at most MOST; `run` does everything for a batch of the size that it is given.

    `part` is the share of the device that this worker may take: 0.5 where two of them share it.
    """
    peak_bytes = cuda_peak if device != "cpu" else resident_peak
    try:
        run(SMALL)  # what is allocated once is no part of a picture
        small, large = peak_bytes(lambda: run(SMALL)), peak_bytes(lambda: run(LARGE))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return 1
    each = max((large - small) / (LARGE - SMALL), 1.0)
    room = SHARE * part * memory_bytes(device) - (small - each)
    fits = max(1, int(room / each))
    return min(MOST["cpu" if device == "cpu" else "cuda"], 1 << (fits.bit_length() - 1))


def memory_bytes(device: str) -> int:
    """Return the whole memory of a device; on a CPU what this process's container may take of it."""
    if device != "cpu":
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    limits = [int(text) for path in CGROUP_LIMITS if Path(path).is_file() and (text := Path(path).read_text().strip()).isdigit()]
    return min([psutil.virtual_memory().total, *limits])


def cuda_peak(run: Callable[[], object]) -> int:
    """Return the bytes of a GPU that are in use at most while something runs."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated())


def give_back() -> None:
    """Return to the system what the heap kept of freed memory, which would hide what a run takes."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)


def resident_peak(run: Callable[[], object]) -> int:
    """Return the bytes of this process that are resident at most while something runs. Linux; elsewhere the peak since it began.

    The heap gives back first what it kept.
    """
    give_back()
    clear = Path("/proc/self/clear_refs")
    if clear.exists() and os.access(clear, os.W_OK):
        clear.write_text("5")  # the peak counts from here
    run()
    return _peak_bytes()


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
