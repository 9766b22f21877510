"""Pictures of the two demos' trainings: what they predict, and how they learnt."""
import io
import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from mobileone_mm.benchmark.model_card import logged_values

from .style import BLUE, FAINT, INK, SKY, VERMILLION, found, new_figure, tidy, to_png

_DEMOS = {'demo': ('Detection', 'coco/bbox_mAP', 'box mAP', 100), 'demo-seg': ('Segmentation', 'mIoU', 'mIoU', 1)}
_SHOWN = ('val_0009', 'val_0026')  # with many shapes; both demos validate on the same images
_HALF, _GAP, _BETWEEN = 352, 4, 24  # pixels: of an image, between truth and prediction, between pairs
_REACH = 2  # logged losses before and after one, over which the line is the mean


def predictions(demos: Path) -> bytes:
    """The same validation images by the detector and by the segmentor, truth beside prediction, as a JPEG."""
    pair = 2 * _HALF + _GAP
    row = 94 + _HALF
    montage = Image.new('RGB', (len(_SHOWN) * (pair + _BETWEEN) + _BETWEEN, 2 * row + _BETWEEN), 'white')
    pen = ImageDraw.Draw(montage)
    for i, (name, (task, *_)) in enumerate(_DEMOS.items()):
        pen.text((_BETWEEN, i * row + 12), f'{task}: {_config(demos, name)}', INK, _font(34, bold=True))
        for j, shown in enumerate(_SHOWN):
            file = found(demos / name / 'images', f'**/*{shown}*.[jp][pn]g', f'make {name}')[0]
            truth, predicted = _halves(Image.open(file).convert('RGB'))
            x, y = _BETWEEN + j * (pair + _BETWEEN), i * row + 90
            for image, title, left in ((truth, 'truth', x), (predicted, 'predicted', x + _HALF + _GAP)):
                montage.paste(image, (left, y))
                pen.text((left, y - 8), title, FAINT, _font(27), anchor='ls')
    file = io.BytesIO()
    montage.save(file, 'JPEG', quality=82, optimize=True, progressive=True)
    return file.getvalue()


def _config(demos: Path, name: str) -> str:
    return found(demos / name, '*.py', f'make {name}')[0].stem  # mmengine writes it into its work dir


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont(f'DejaVu Sans:{"bold" if bold else "regular"}'), size)


def _halves(image: Image.Image) -> list[Image.Image]:
    """Truth, on the left, and prediction, as mm draws them beside each other."""
    middle = image.width // 2
    boxes = ((0, 0, middle, image.height), (middle, 0, 2 * middle, image.height))
    return [image.crop(box).resize((_HALF, _HALF), Image.Resampling.LANCZOS) for box in boxes]


def curves(demos: Path) -> bytes:
    """Loss over iterations and metric over epochs of both demos."""
    figure = new_figure(4.7, '. '.join(_training(demos, name) for name in _DEMOS)
                        + '. Dots: the loss as logged; line: its moving average.')
    for name, (loss, metric) in zip(_DEMOS, figure.subplots(2, 2), strict=True):
        task, key, label, scale = _DEMOS[name]
        _draw_loss(loss, logged_values(demos / name, 'iter'), logged_values(demos / name, 'loss'))
        tidy(loss, f'{task}: loss')
        _draw_metric(metric, np.array(logged_values(demos / name, key)) * scale)
        tidy(metric, f'{task}: {label}')
    return to_png(figure)


def _training(demos: Path, name: str) -> str:
    """A training in words."""
    log = found(demos / name, '*/*.log', f'make {name}')[0].read_text(encoding='utf-8')
    found(demos / name, '*/vis_data/scalars.json', f'make {name}')
    torch = re.search(r'PyTorch: (\S+)', log)
    return (f'{_config(demos, name)}: {logged_values(demos / name, "iter")[-1]} iterations from scratch'
            + (f', torch {torch[1]}' if torch else ''))


def _draw_loss(axes: Axes, iterations: list[float], losses: list[float]) -> None:
    reach = [min(_REACH, i, len(losses) - 1 - i) for i in range(len(losses))]  # as far to either side
    smooth = [np.mean(losses[i - n:i + n + 1]) for i, n in enumerate(reach)]
    axes.plot(iterations, losses, '.', color=SKY, markersize=5)
    axes.plot(iterations, smooth, color=BLUE, linewidth=1.5)
    axes.set(xlabel='iteration', ylim=(0, None))


def _draw_metric(axes: Axes, values: np.ndarray) -> None:
    epochs = range(1, len(values) + 1)
    axes.plot(epochs, values, color=VERMILLION, marker='o', linewidth=2)
    for i, value in zip(epochs, values, strict=True):
        axes.annotate(f'{value:.1f}', (i, value), (0, -9), textcoords='offset points', ha='center', va='top',
                      fontsize=9)
    axes.set(xlabel='epoch', ylim=(0, 1.1 * max(values)), xticks=epochs, xlim=(0.6, len(values) + 0.4))
