"""Load the next steps' data while the current step computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Yield load(start), load(start + 1), ... in this order, while threads load up to `ahead` steps in advance.

    Without `stop` it never ends; with it, load(stop - 1) is the last. What `load` raises is raised when its step is due; after that,
    and after `close`, nothing more is yielded. `load` is called from `threads` threads at once. Use as a context manager: leaving
    it drops what was loaded and waits for the calls under way. `waited_s` counts the seconds in which the consumer had to wait.
    """

    def __init__(self, load: Callable[[int], T], start: int, *, stop: int | None = None, ahead: int = 4, threads: int = 2) -> None:
        if ahead < 1 or threads < 1:
            raise ValueError(f"Prefetcher: ahead {ahead}, threads {threads}: expected 1 or more of each")
        self.waited_s = 0.0
        self._load, self._next, self._stop = load, start, stop
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
        self._loading: deque[Future[T]] = deque()
        self._closed = False
        for _ in range(ahead):
            self._submit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._closed or not self._loading:
            raise StopIteration
        due = self._loading.popleft()
        start = time.perf_counter()
        try:
            loaded = due.result()
        except StopIteration as error:  # would end the consumer's loop without a word
            self.close()
            raise RuntimeError("load raised StopIteration") from error
        except BaseException:
            self.close()
            raise
        finally:
            self.waited_s += time.perf_counter() - start
        self._submit()
        return loaded

    def close(self) -> None:
        """Drop what was loaded, and wait until no thread loads any more. Closing twice is fine."""
        self._closed = True
        self._loading.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        if self._stop is None or self._next < self._stop:
            self._loading.append(self._pool.submit(self._load, self._next))
            self._next += 1
