"""Calls timed in interleaved rounds."""
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.progress import track

from ..utils.errors import ArgumentError

_SETTLE_SECONDS = 0.01


class Timed(Protocol):
    """What :func:`.measure` takes: ``time_ms`` times one call, and ``times_ms`` gets the times that count."""

    times_ms: list[float]

    def time_ms(self) -> float:
        """Milliseconds of one call, as by :func:`.settled_ms`."""


@dataclass
class TimedCall:
    """Any call, for :func:`.measure`.

    Attributes:
        time_ms: Times one call, such as ``partial(settled_ms, function)``.
        times_ms: Milliseconds of the measured rounds.
    """

    time_ms: Callable[[], float]
    times_ms: list[float] = field(default_factory=list)


def measure(entries: Sequence[Timed], rounds: int, warmup: int) -> None:
    """Time all entries once per round and append to their ``times_ms``, in an order shuffled before each round.

    So whatever slows the machine for a while meets all of them.
    """
    order, shuffle = list(entries), random.Random(0).shuffle
    for i in progress(range(warmup + rounds), 'Measuring'):
        shuffle(order)
        for entry in order:
            elapsed = entry.time_ms()
            if i >= warmup:
                entry.times_ms.append(elapsed)


def statistics(times_ms: Sequence[float], base_ms: Sequence[float]) -> dict[str, float]:
    """What is told of a call's times.

    Args:
        times_ms: Of its rounds.
        base_ms: Of the same rounds, those of the call that it is compared with.

    Returns:
        ``median_ms``, ``q1_ms``, ``q3_ms`` (quartiles), ``p95_ms``, ``min_ms``; ``ratio``: the median of the rounds'
        ratios, with ``ratio_q1`` and ``ratio_q3``.
    """
    ratios = np.divide(times_ms, base_ms)
    q1, median, q3, p95 = np.percentile(times_ms, (25, 50, 75, 95)).tolist()
    ratio_q1, ratio, ratio_q3 = np.percentile(ratios, (25, 50, 75)).tolist()
    return dict(median_ms=median, q1_ms=q1, q3_ms=q3, p95_ms=p95, min_ms=min(times_ms), ratio=ratio, ratio_q1=ratio_q1,
                ratio_q3=ratio_q3)


def settled_ms(run: Callable[[], object]) -> float:
    """Milliseconds of one call, after some milliseconds of calls that are not timed, at least one.

    At first the caches hold another network, and the threads of another runtime still spin, waiting for work. (On two
    cores that made ONNX Runtime's first pass after torch's 1.6 times as long.)
    """
    settled = time.perf_counter() + _SETTLE_SECONDS
    run()
    while time.perf_counter() < settled:
        run()
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def check_least(least: int, **options: int | None) -> None:
    """Refuse options that are less than ``least``; None is one that was not given.

    Raises:
        ArgumentError: Naming the option and what was got.
    """
    for name, value in options.items():
        if value is not None and value < least:
            raise ArgumentError(f'--{name} must be at least {least}, got {value}.')


def progress(iterable, what: str, total: int | None = None):
    """The items, with a bar on stderr that goes when they are done."""
    return track(iterable, what, total, console=Console(stderr=True), transient=True)
