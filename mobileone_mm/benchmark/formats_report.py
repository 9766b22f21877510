"""What :func:`.formats.compare_formats` found: as a table on screen and in Markdown, as CSV and JSON, and as a plot."""
import textwrap
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from .report import headline, label_log_axis, label_points, style_panel, write_rows

_KINDS = {'PyTorch': ('s', '#444444'), 'float32': ('o', '#1f5f8b'), 'int8': ('D', '#d9822b')}
_UNITS = {'boxes': ', px'}
_CAPTION = ('Size: of PyTorch, the weights of the deploy form. Differences: the largest one to PyTorch on the first '
            'image of the test. Latency: the call of the runtime on one image, without reading and resizing it and '
            'without NMS.')


def print_formats(report: dict, console: Console | None = None) -> None:
    """Print the table, and below it why something in it is missing."""
    console = console or Console(width=120)
    table = Table(title=_title(report), caption=_CAPTION)
    for i, column in enumerate(_columns(report)):
        table.add_column(column, justify='right' if i else 'left')
    for cells in _cells(report):
        table.add_row(*cells)
    console.print(table)
    for line in _reasons(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_formats(report: dict, out_dir: str | Path) -> list[Path]:
    """Write formats.csv, formats.json, formats.png and formats.md into a folder; returns their paths."""
    return write_rows(report, plot_formats(report), out_dir, 'formats', md=markdown(report))


def markdown(report: dict) -> str:
    """The table, with its title before it, and behind it why something in it is missing."""
    columns = _columns(report)
    rows = [columns, ['---', *['---:'] * (len(columns) - 1)], *_cells(report)]
    parts = [_title(report), '\n'.join(f'| {" | ".join(cells)} |' for cells in rows), _CAPTION]
    return '\n\n'.join([*parts, *(f'- {line}' for line in _reasons(report))]) + '\n'


def plot_formats(report: dict) -> Figure:
    """The metric over the median latency, a point for each row that has both; the others below, with their reasons."""
    rows = [row for row in report['rows'] if None not in (row['metric'], row['median_ms'])]
    reasons = [line for each in _reasons(report) for line in textwrap.wrap(each, 130, max_lines=2)]
    figure = Figure(figsize=(10, 5.6 + 0.18 * len(reasons)), dpi=110, layout='constrained')
    figure.suptitle('\n'.join(textwrap.wrap(_title(report), 110)), fontsize=10)
    axes = figure.subplots()
    for kind, (marker, color) in _KINDS.items():
        points = [(row['median_ms'], row['metric']) for row in rows if _kind(row) == kind]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, color=color, label=kind, zorder=2)
    axes.set(xlabel='\n'.join(['latency of one image, median (ms)', '', *reasons]), ylabel=report['settings']['metric'],
             xscale='log')
    axes.xaxis.label.set(fontsize=9)
    label_log_axis(axes.xaxis)
    style_panel(axes)
    label_points(axes, [(row['model'], row['median_ms'], row['metric']) for row in rows])
    figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=3, frameon=False)
    return figure


def _kind(row: dict) -> str:
    return 'PyTorch' if row['format'] == 'pytorch' else 'int8' if row['int8'] else 'float32'


def _title(report: dict) -> str:
    settings = report['settings']
    calibrated = settings['calibration_images']
    return (f'{settings["config"]}, {settings["checkpoint"]}: {settings["metric"]} on {settings["images"]} images; '
            f'{headline(report)}' + (f'; int8 calibrated on {calibrated} images' if calibrated else ''))


def _columns(report: dict) -> list[str]:
    names = [name.removesuffix('_difference') for name in _differences(report)]
    return ['format', 'size, MiB', *(f'{name} differ{_UNITS.get(name, "")}' for name in names),
            report['settings']['metric'], 'median ms', 'p95 ms']


def _differences(report: dict) -> list[str]:
    return [key for key in report['rows'][0] if key.endswith('_difference')]


def _cells(report: dict) -> Iterator[list[str]]:
    for row in report['rows']:
        numbers = [(row['size_mib'], '.2f'), *((row[key], '.2g') for key in _differences(report)),
                   (row['metric'], '.3f'), (row['median_ms'], '.2f'), (row['p95_ms'], '.2f')]
        yield [row['model'], *('-' if number is None else f'{number:{digits}}' for number, digits in numbers)]


def _reasons(report: dict) -> list[str]:
    return [f'{row["model"]}: {row["reason"]}' for row in report['rows'] if row['reason']]
