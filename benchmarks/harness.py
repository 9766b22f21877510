"""What the benchmarks of this folder share: interleaved times of functions, and a table, JSON and a picture of them."""
import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from mobileone_mm.benchmark.report import write_rows
from mobileone_mm.benchmark.timing import TimedCall, check_least, measure, settled_ms, statistics
from mobileone_mm.utils.errors import errors_in_one_line
from mobileone_mm.utils.files import make_folder
from mobileone_mm.utils.machine import cpu_name

WARMUP = 2
_TIMES = ('median ms', 'quartiles', 'ratio')


def parse(doc: str, rounds: int, add_options: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """Arguments of a benchmark; ``--rounds`` and ``--out-dir`` are those of all."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument('--rounds', type=int, default=rounds, help='measured rounds (default: %(default)s)')
    parser.add_argument('--out-dir', default='work_dirs/benchmarks', help='for the results (default: %(default)s)')
    args = parser.parse_args()
    with errors_in_one_line():
        check_least(1, rounds=args.rounds)
        make_folder(args.out_dir)  # before the minutes, not after them
    return args


def timed(kind: Mapping[str, object], ways: Mapping[str, Callable[[], object]], rounds: int) -> list[dict]:
    """A row for each way to do one thing, all timed in interleaved rounds.

    Returns:
        ``kind`` and ``way``, :func:`~mobileone_mm.benchmark.timing.statistics` of the times, with ratios to the first
        way, and all times.
    """
    print(*kind.values(), '...', flush=True)
    calls = {name: TimedCall(partial(settled_ms, _waiting(function))) for name, function in ways.items()}
    measure(list(calls.values()), rounds, WARMUP)
    first = next(iter(calls.values())).times_ms
    return [dict(kind) | dict(way=name, **statistics(call.times_ms, first), times_ms=call.times_ms)
            for name, call in calls.items()]


def _waiting(function: Callable[[], object]) -> Callable[[], None]:
    """The function, and then whatever it left to a GPU."""

    def run() -> None:
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def finish(name: str, rows: Sequence[dict], args: argparse.Namespace, **settings) -> None:
    """Print the table, and write ``name``.csv, .json and .png into ``args.out_dir``."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{torch.get_num_threads()} threads'
    title = f'{cpu_name()}; {device}; torch {torch.__version__}; {args.rounds} interleaved rounds'
    measured = {*statistics([1], [1]), 'times_ms'}
    kind = [key for key in rows[0] if key not in measured]
    table = Table(*kind, *_TIMES, title=title)
    for row in rows:
        table.add_row(*(_text(row[key]) for key in kind), f'{row["median_ms"]:.2f}',
                      f'{row["q1_ms"]:.2f} to {row["q3_ms"]:.2f}', f'{row["ratio"]:.2f}')
    Console(width=140).print(table)
    report = dict(settings=vars(args) | settings | dict(machine=title, warmup=WARMUP), rows=list(rows))
    with errors_in_one_line():
        print('Wrote', *write_rows(report, _plot(title, rows, kind), args.out_dir, name))


def _text(value: object) -> str:
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def _plot(title: str, rows: Sequence[dict], kind: Sequence[str]) -> Figure:
    """Bars of the ratios with their quartiles, those of one kind together, the first way as the line at 1."""
    same = [key for key in kind if key != 'way' and isinstance(rows[0][key], str | int)]
    groups = [(head, list(group))
              for head, group in groupby(rows, lambda row: ', '.join(str(row[key]) for key in same))]
    ways = list(dict.fromkeys(row['way'] for row in rows))
    figure = Figure(figsize=(8, 1.4 + 0.22 * (len(rows) + len(groups))), dpi=110, layout='constrained')
    axes = figure.subplots()
    place, ticks = 0, {}
    for head, group in groups:
        ticks[place + (len(group) - 1) / 2] = head
        for row in group:
            low, high = row['ratio_q1'], row['ratio_q3']
            axes.barh(place, row['ratio'], color=f'C{ways.index(row["way"])}', zorder=2)
            axes.plot([low, high], [place, place], color='#222222', linewidth=1, zorder=3)
            axes.annotate(f'{row["ratio"]:.2f}', (max(high, row['ratio']), place), (4, 0), textcoords='offset points',
                          va='center', fontsize=8)
            place += 1
        place += 1
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color='#999999', linewidth=0.8, zorder=1)
    axes.margins(x=0.12)
    axes.set(xlabel=f'time over that of: {ways[0]}')
    axes.spines[['top', 'right']].set_visible(False)
    handles = [axes.barh(0, 0, color=f'C{i}') for i in range(len(ways))]
    figure.legend(handles, ways, loc='outside lower center', ncols=3, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=8, wrap=True)
    return figure
