"""Interleaved timing, for the benchmarks in this folder."""
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from rich.progress import track


def seconds(function: Callable[[], object]) -> float:
    """Wall time of a call, on a CPU or a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def median_seconds(functions: Mapping[str, Callable[[], object]], runs: int, title: str,
                   warmup: int = 2) -> dict[str, float]:
    """Median wall time of each. All are called once per round, so that a slow phase affects all."""
    times = {name: [] for name in functions}
    for i in track(range(warmup + runs), title, transient=True):
        for name, function in functions.items():
            elapsed = seconds(function)
            if i >= warmup:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}
