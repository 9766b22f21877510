"""What the pictures share: colours, a figure's size and caption, PNG, and results that may be missing."""
import io
import json
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mobileone_mm.utils.errors import ArgumentError, MissingFileError

# Okabe and Ito's, which colour-blind readers tell apart.
BLUE, SKY, ORANGE, VERMILLION, GREEN, GREY = '#0072B2', '#56B4E9', '#E69F00', '#D55E00', '#009E73', '#9A9A9A'
INK, FAINT = '#1A1A1A', '#5A5A5A'
WIDTH = 5.6  # inches: a point of a font is 2 pixels where a picture is 800 wide, and 1 on a phone
_DPI = 1400 / WIDTH


def new_figure(height: float, caption: str) -> Figure:
    """A figure of ``height`` inches, with small text at its bottom."""
    figure = Figure(figsize=(WIDTH, height), dpi=_DPI, layout='constrained', facecolor='white')
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.06)
    figure.supxlabel(textwrap.fill(caption, 98), x=0.01, ha='left', fontsize=7, color=FAINT)
    return figure


def tidy(axes: Axes, title: str) -> None:
    """The title above a panel, and fonts that a phone shows."""
    axes.set_title(title, loc='left', fontsize=10, fontweight='bold')
    axes.tick_params(labelsize=9, length=0)
    axes.xaxis.label.set(fontsize=9)
    axes.yaxis.label.set(fontsize=9)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['left', 'bottom']].set_color(GREY)


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG of few colours, without transparency."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    file = io.BytesIO()
    image.quantize(48, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, 'PNG', optimize=True)
    return file.getvalue()


def read_report(path: Path, command: str) -> dict:
    """A benchmark's JSON.

    Raises:
        MissingFileError: It is not there; ``command`` makes it.
        ArgumentError: It is no JSON.
    """
    found(path.parent, path.name, command)
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ArgumentError(f'{str(path)!r} is no JSON: {error}. Make it anew: {command}') from error


def found(folder: Path, pattern: str, command: str) -> list[Path]:
    """The files below a folder that a glob pattern matches, sorted.

    Raises:
        MissingFileError: There is none; ``command`` makes them.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise MissingFileError(f'There is no {str(folder / pattern)!r}. Make it: {command}')
    return files
