"""Charts of what the benchmarks measured."""
from itertools import product
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mobileone_mm.arch import ARCHS
from mobileone_mm.benchmark.report import headline, label_log_axis, label_points, style_panel
from mobileone_mm.utils.errors import ArgumentError

from .style import BLUE, GREY, INK, ORANGE, SKY, VERMILLION, new_figure, read_report, tidy, to_png

_PEERS = 'python tools/benchmark.py --arch s0 s2 s4 --peers --runtime torch onnxruntime openvino --out-dir {}'
_FORMATS = 'python tools/compare_formats.py {} {} --int8 CALIB_DIR --threads 1 --out-dir {}'
_STEPS = 'python benchmarks/train_step.py --arch s0 s2 s4 --batch 1 4 8 --out-dir {}'

# Text, colour, and whose row it is: model ({} is the arch), form, runtime, layout.
_LATENCIES = [
    ('train form', GREY, ('{}', 'train', 'torch', 'channels_last')),
    ('eval form', SKY, ('{}', 'eval', 'torch', 'channels_last')),
    ('deploy form', BLUE, ('{}', 'deploy', 'torch', 'channels_last')),
    ('deploy, plain layout', BLUE, ('{}', 'deploy', 'torch', 'plain')),
    ('deploy, ONNX Runtime', BLUE, ('{}', 'deploy', 'onnxruntime', 'own')),
    ('deploy, OpenVINO', BLUE, ('{}', 'deploy', 'openvino', 'own')),
    ('mmpretrain, eval()', ORANGE, ('mmpretrain {}', 'eval', 'torch', 'channels_last')),
    ('mmpretrain, deployed', ORANGE, ('mmpretrain {}', 'deploy', 'torch', 'channels_last')),
]
_WAYS = {'all branches': ('our branches, summed', SKY), 'all branches, plain layout': ('the same, plain layout', BLUE),
         'mmpretrain': ('mmpretrain', ORANGE)}
_NORMS = {'live': 'Live norms', 'frozen': 'Frozen norms'}
_KINDS = {'PyTorch': ('s', INK), 'float32': ('o', BLUE), 'int8': ('D', VERMILLION)}
# Title, config and checkpoint.
_TASKS = {'formats-detection': ('Detection', 'configs/detection/ssdlite_mobileone_s2_shapes.py',
                                'work_dirs/demo/best_*.pth'),
          'formats-segmentation': ('Segmentation', 'configs/segmentation/lraspp_mobileone_s1_shapes.py',
                                   'work_dirs/demo-seg/best_*.pth')}


def latency(results: Path) -> bytes:
    """Median latency of the backbones in all forms, a panel for each arch."""
    folder = results / 'peers'
    report = read_report(folder / 'benchmark.json', _PEERS.format(folder))
    rows = {(row['model'], row['form'], row['runtime'], row['layout']): row for row in report['rows']}
    archs = [arch for arch in ARCHS if any(key[0] == arch for key in rows)]
    if not archs:
        raise ArgumentError(f'{str(folder)!r} has no MobileOne. Make it anew: {_PEERS.format(folder)}')
    bars = {arch: [(label, color, rows[key]) for label, color, (model, *rest) in _LATENCIES
                   if (key := (model.format(arch), *rest)) in rows] for arch in archs}
    counts = [len(bars[arch]) for arch in archs]
    figure = new_figure(1.2 + 0.2 * sum(counts) + 0.4 * len(archs), 'One forward pass of the backbone: median, and a '
                        'line from quartile to quartile. torch in channels_last, but for the plain layout. mmpretrain '
                        f'sums its branches in eval(). {headline(report)}.')
    panels = figure.subplots(len(archs), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    for arch, axes in zip(archs, panels, strict=True):
        for i, (_, color, row) in enumerate(bars[arch]):
            _bar(axes, i, row['median_ms'], row['q1_ms'], row['q3_ms'], color, f'{row["median_ms"]:.1f}')
        axes.set_yticks(range(len(bars[arch])), [label for label, *_ in bars[arch]])
        axes.invert_yaxis()
        tidy(axes, f'MobileOne-{arch.upper()}')
    panels[-1].set_xlabel('ms', fontsize=9)
    panels[-1].margins(x=0.12)
    return to_png(figure)


def _bar(axes: Axes, y: float, value: float, low: float, high: float, color: str, label: str, size: float = 9,
         height: float = 0.78) -> None:
    axes.barh(y, value, height=height, color=color, zorder=2)
    axes.plot([low, high], [y, y], color=INK, linewidth=1.1, zorder=3)
    axes.annotate(label, (max(high, value), y), (4, 0), textcoords='offset points', va='center_baseline',
                  fontsize=size, zorder=5, bbox=dict(facecolor='white', edgecolor='none', pad=0.3))


def formats(results: Path) -> bytes:
    """Accuracy over latency of all exported formats, a panel for each task."""
    reports = {task: read_report(results / name / 'formats.json', _FORMATS.format(config, weights, results / name))
               for name, (task, config, weights) in _TASKS.items()}
    conditions = [*map(_tested, reports.values()), *dict.fromkeys(map(headline, reports.values()))]
    figure = new_figure(7.2, f'{"; ".join(conditions)}.')
    for (task, report), axes in zip(reports.items(), figure.subplots(2, 1), strict=True):
        _draw_formats(axes, task, report)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside upper center', ncols=3, frameon=False, fontsize=9)
    return to_png(figure)


def _tested(report: dict) -> str:
    settings = report['settings']
    return (f'{settings["config"].removesuffix(".py")} on {settings["images"]} images, int8 calibrated on '
            f'{settings["calibration_images"]}')


def _draw_formats(axes: Axes, task: str, report: dict) -> None:
    metric = report['settings']['metric']
    scale, name = (100, 'box mAP') if metric.startswith('coco/') else (1, metric)  # a fraction, or a percentage
    rows = [row for row in report['rows'] if None not in (row['metric'], row['median_ms'])]
    points = [(f'{row["model"]}, {row["median_ms"]:.1f} ms', row['median_ms'], row['metric'] * scale) for row in rows]
    for kind, (marker, color) in _KINDS.items():
        chosen = [point[1:] for row, point in zip(rows, points, strict=True) if kind == _kind(row)]
        axes.scatter(*zip(*chosen, strict=True) if chosen else ([], []), marker=marker, color=color, label=kind, s=36,
                     zorder=3)
    axes.set(xscale='log', xlabel='latency of one image, median (ms)', ylabel=name)
    label_log_axis(axes.xaxis)
    style_panel(axes)
    low, high = axes.get_ylim()
    room = max(0, 4 - (high - low)) / 2  # at least four points high, so that noise looks as small as it is
    axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    label_points(axes, points)
    tidy(axes, task)


def _kind(row: dict) -> str:
    return 'PyTorch' if row['format'] == 'pytorch' else 'int8' if row['int8'] else 'float32'


def training(results: Path) -> bytes:
    """Time of a training step over that of the default, a panel for each kind of norms."""
    folder = results / 'train_step'
    report = read_report(folder / 'train_step.json', _STEPS.format(folder))
    rows = {(row['norms'], row['arch'], row['batch'], row['way']): row for row in report['rows']}
    groups = list(dict.fromkeys(key[1:3] for key in rows))
    figure = new_figure(1.6 + 0.5 * len(groups), 'Forward and backward, over the time of MobileOne by default: median '
                        f'of the rounds, and a line from quartile to quartile. {report["settings"]["machine"]}.')
    panels = figure.subplots(1, len(_NORMS), sharey=True)
    for norms, axes in zip(_NORMS, panels, strict=True):
        for (i, group), (j, way) in product(enumerate(groups), enumerate(_WAYS)):
            if row := rows.get((norms, *group, way)):
                _bar(axes, i + 0.27 * (j - 1), row['ratio'], row['ratio_q1'], row['ratio_q3'], _WAYS[way][1],
                     f'{row["ratio"]:.2f}', 7.5, 0.25)
        axes.axvline(1, color=INK, linewidth=1, zorder=4)
        axes.set_xlabel('time over that of ours')
        axes.margins(x=0.15, y=0.02)
        tidy(axes, _NORMS[norms])
    panels[0].set_yticks(range(len(groups)), [f'{arch.upper()}, batch {batch}' for arch, batch in groups])
    panels[0].invert_yaxis()
    figure.legend([Patch(color=color) for _, color in _WAYS.values()], [label for label, _ in _WAYS.values()],
                  loc='outside upper center', ncols=3, frameon=False, fontsize=9)
    return to_png(figure)
