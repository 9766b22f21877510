"""A benchmark's results as a table on screen, as CSV and JSON, and as a plot."""
import csv
import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich.console import Console
from rich.table import Table

from ..utils.files import atomic_file
from .bottlenecks import PAPER_MS

_FORMS = {'train': ('o', '#b8b8b8'), 'eval': ('s', '#7fb3d5'), 'deploy': ('D', '#1f5f8b')}
_LABELS = {'macs': 'MACs (millions)', 'parameters': 'Parameters (millions)'}


def headline(report: dict) -> str:
    """The machine and the conditions in one line."""
    settings = report['settings']
    device = '' if settings['device'] == 'cpu' else f'{settings["device"]}; '
    versions = ', '.join(f'{name} {version}' for name, version in report['versions'].items())
    inputs = ', '.join(dict.fromkeys(row['input'] for row in report['rows']))
    return (f'{device}{settings["cpu"]}; threads {settings["threads"]}; batch {settings["batch"]}; input {inputs}; '
            f'{versions}; {settings["rounds"]} interleaved rounds after {settings["warmup"]} for warming up')


def print_report(report: dict, console: Console | None = None) -> None:
    """Print all results: of networks with Spearman's rho, of bottlenecks with the paper's ratios."""
    console = console or Console(width=150)
    is_study = 'correlations' not in report
    kind = ['runtime', 'input'] if is_study else ['form', 'runtime', 'layout', 'input']
    table = Table(title=headline(report), caption=f'Ratio: over {report["settings"]["baseline"]}, deploy form, on the '
                  f'same runtime (torch: {report["settings"]["layout"]}); median of the rounds.')
    for column in ('model', *kind):
        table.add_column(column, overflow='fold')
    for column in ('params (M)', 'MACs (M)', 'median ms', 'quartiles', 'ratio', *(['on a phone'] if is_study else [])):
        table.add_column(column, justify='right')
    for row in report['rows']:
        cells = [f'{row["parameters"] / 1e6:.3f}', f'{row["macs"] / 1e6:.1f}', f'{row["median_ms"]:.2f}',
                 f'{row["q1_ms"]:.2f} to {row["q3_ms"]:.2f}', f'{row["ratio"]:.2f}']
        if is_study:
            cells.append(_paper_ratio(row['model']))
        table.add_row(row['model'], *(row[key] for key in kind), *cells)
    console.print(table)
    if is_study:
        console.print("On a phone: the paper's Table 2, whose CNN's width and resolution are not known.")
    for line in [*map(_sentence, report.get('correlations', ())), *report['notes']]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _paper_ratio(model: str) -> str:
    return f'{PAPER_MS[model] / PAPER_MS["ReLU"]:.2f}' if model in PAPER_MS else ''


def _sentence(correlation: dict) -> str:
    of = 'MACs' if correlation['of'] == 'macs' else 'parameters'
    head = f'Spearman of {of} with latency on {correlation["runtime"]}'
    if correlation['rho'] is None:
        return f'{head}: needs at least three networks that differ in {of}.'
    return (f'{head}: {correlation["rho"]:.2f} (p = {correlation["p"]:.2g}) over {correlation["models"]} networks; '
            f'paper: {correlation["paper_phone"]:.2f} on a phone, {correlation["paper_cpu"]:.2f} on a CPU')


def write_report(report: dict, out_dir: str | Path, name: str) -> list[Path]:
    """Write ``name``.csv, ``name``.json and ``name``.png into a folder, as :func:`.write_rows` does."""
    return write_rows(report, plot_scatter(report) if 'correlations' in report else plot_bars(report), out_dir, name)


def write_rows(report: dict, figure: Figure, out_dir: str | Path, name: str, **texts: str) -> list[Path]:
    """Write ``name``.csv, ``name``.json and ``name``.png into a folder, each complete or not at all.

    Args:
        report: The JSON. Its ``rows`` are the CSV, but for the times of the single rounds.
        figure: The PNG.
        out_dir: The folder.
        name: Of the files, without suffix.
        **texts: What else is to be written, by suffix.

    Returns:
        Their paths.
    """
    text = io.StringIO()
    fields = [key for key in report['rows'][0] if key != 'times_ms']
    writer = csv.DictWriter(text, fields, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(report['rows'])
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    contents = {'csv': text.getvalue().encode(), 'json': json.dumps(report, indent=1).encode(), 'png': png.getvalue()}
    contents |= {suffix: each.encode() for suffix, each in texts.items()}
    paths = []
    for suffix, content in contents.items():
        paths.append(Path(out_dir, f'{name}.{suffix}'))
        with atomic_file(paths[-1]) as file:
            file.write(content)
    return paths


def plot_scatter(report: dict) -> Figure:
    """Latency over MACs and over parameters, a row of panels for each runtime."""
    runtimes = list(dict.fromkeys(row['runtime'] for row in report['rows']))
    figure = Figure(figsize=(13, 0.8 + 4 * len(runtimes)), dpi=110, layout='constrained')
    panels = figure.subplots(len(runtimes), 2, squeeze=False)
    figure.suptitle('\n'.join(textwrap.wrap(headline(report), 120)), fontsize=10)
    for runtime, pair in zip(runtimes, panels, strict=True):
        rows = [row for row in report['rows'] if row['runtime'] == runtime]
        for axes, of in zip(pair, _LABELS, strict=True):
            for form, (marker, color) in _FORMS.items():
                for is_plain, fill, label in ((False, color, form), (True, 'none', f'{form}, plain layout')):
                    points = [(row[of] / 1e6, row['median_ms']) for row in rows
                              if row['form'] == form and (row['layout'] == 'plain') == is_plain]
                    if points:
                        axes.scatter(*zip(*points, strict=True), marker=marker, edgecolors=color, facecolors=fill,
                                     label=label, zorder=2)
            axes.set(xlabel=_LABELS[of], ylabel=f'ms on {runtime}, median', xscale='log', yscale='log')
            for axis in (axes.xaxis, axes.yaxis):
                label_log_axis(axis)
            style_panel(axes)
            label_points(axes, [(row['model'], row[of] / 1e6, row['median_ms']) for row in rows
                                if row['form'] == 'deploy' and row['layout'] != 'plain'])
            rho = next(each['rho'] for each in report['correlations'] if (each['runtime'], each['of']) == (runtime, of))
            if rho is not None:
                axes.set_title(f'Spearman over deploy forms: {rho:.2f}', fontsize=10)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=3, frameon=False)
    return figure


def label_log_axis(axis: Axis) -> None:
    """Plain numbers, and enough of them, on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter('{x:g}')
    axis.set_minor_locator(NullLocator())


def style_panel(axes: Axes, margin: float = 0.1) -> None:
    """Room around the points, a faint grid, no frame; before :func:`.label_points`, which asks for the limits."""
    axes.margins(margin)
    axes.autoscale_view()
    axes.grid(color='#eeeeee', zorder=0)
    axes.spines[['top', 'right']].set_visible(False)


def label_points(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Names in a column right of a panel, apart from each other, each with a line to its point: (name, x, y)."""
    points = sorted(points, key=lambda point: (point[2], -point[1]))  # of a row the last one first: lines do not cross
    to_axes = axes.transData + axes.transAxes.inverted()
    gap, bottom, top = min(0.06, 1 / len(points)), 0.0, 1.0
    heights = [to_axes.transform((x, y))[1] for _, x, y in points]
    for i, height in enumerate(heights):
        heights[i] = max(height, bottom)
        bottom = heights[i] + gap
    for i, height in reversed(list(enumerate(heights))):
        heights[i] = min(height, top)
        top = heights[i] - gap
    for (name, x, y), height in zip(points, heights, strict=True):
        line = dict(arrowstyle='-', color='#999999', linewidth=0.6, relpos=(0, 0.5), shrinkA=2, shrinkB=4)
        axes.annotate(name, (x, y), (1.03, height), textcoords='axes fraction', va='center', fontsize=9,
                      arrowprops=line)


def plot_bars(report: dict) -> Figure:
    """Ratios to the baseline, a panel for each runtime."""
    runtimes = list(dict.fromkeys(row['runtime'] for row in report['rows']))
    models = list(dict.fromkeys(row['model'] for row in report['rows']))
    figure = Figure(figsize=(4 + 4 * len(runtimes), 1.6 + 0.36 * len(models)), dpi=110, layout='constrained')
    figure.suptitle('\n'.join(textwrap.wrap(headline(report), 40 + 40 * len(runtimes))), fontsize=10)
    panels = figure.subplots(1, len(runtimes), sharey=True, squeeze=False)[0]
    for axes, runtime in zip(panels, runtimes, strict=True):
        ratios = [row['ratio'] for row in report['rows'] if row['runtime'] == runtime]
        bars = axes.barh(models, ratios, color=_FORMS['deploy'][1], zorder=2)
        axes.bar_label(bars, fmt='%.2f', padding=3, fontsize=9)
        axes.axvline(1, color='#cccccc', linewidth=0.8, zorder=1)
        axes.set(xlabel=f'latency over {report["settings"]["baseline"]}', title=runtime)
        axes.margins(x=0.15)
        axes.spines[['top', 'right']].set_visible(False)
    panels[0].invert_yaxis()
    return figure
