"""The block's three forms as an SVG, with the branches and parameters of a real block."""
import torch
from torch import nn

from mobileone_mm import reparameterize_model
from mobileone_mm.arch import ARCHS, block_table
from mobileone_mm.block import MobileOneBlock

from .style import BLUE, FAINT, GREEN, INK, ORANGE

_BLOCK = 'stage1.2'  # of S0: depthwise, with branches of all kinds
_PALE = '#BDBDBD'
_KINDS = {'conv': ('#E3F0F8', BLUE), 'scale': ('#FCF0D9', ORANGE), 'skip': ('#DDF2EB', GREEN),
          'idle': ('#F4F4F4', _PALE), 'activation': ('white', INK)}
_WIDTH, _GAP = 280, 20  # of a panel, and to the next one
_TOP, _ROW, _HEIGHT = 112, 40, 32  # of the first branch, from one to the next, of one
_LEFT, _RIGHT, _MIDDLE = 44, 240, 142  # of a box in its panel
_IN, _OUT = 22, 260  # of the lines beside the boxes


def draw() -> bytes:
    """The SVG."""
    block = MobileOneBlock(**dict(block_table(ARCHS['s0']))[_BLOCK])
    branches, size, activation = _branches(block), _size(block), type(block.activate).__name__
    block.eval()
    with torch.no_grad():
        folded, _ = block.current_kernel()
    deployed = reparameterize_model(block)
    end = _TOP + _ROW * len(branches) + 46  # where the branches are summed
    bottom = end + 106
    panels = [('Train form', f'{size} parameters', _summed(branches, end)),
              ('Eval form', 'the same parameters', _folded(branches, end) + _one_conv(folded.shape[-1], '', end)),
              ('Deploy form', f'{_size(deployed)} parameters', _no_branches(end) + _one_conv(
                  deployed.reparam_conv.kernel_size[0], _size(deployed), end))]
    about = f'A depthwise block of MobileOne-S0, {block.out_channels} channels. Numbers in boxes are parameters.'
    described = (f'{about} Train form: {len(branches)} branches are summed. Eval form: the branches are kept, and one '
                 'folded convolution runs; train() leads back. Deploy form: one convolution without a way back.')
    parts = [_panel(i, bottom, *panel, _activation(activation, end)) for i, panel in enumerate(panels)]
    return f'''<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * _WIDTH + 2 * _GAP + 20} {bottom + 126}"
 font-family="Arial, Helvetica, sans-serif" role="img" aria-labelledby="title desc">
<title id="title">The three forms of a MobileOne block</title>
<desc id="desc">{described}</desc>
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="5" markerHeight="5" orient="auto">
<path d="M0,0 L10,5 L0,10 z" fill="{INK}"/></marker></defs>
<rect width="100%" height="100%" fill="white"/>
{''.join(parts)}{_transitions(bottom + 40)}{_text(10, bottom + 112, about, 17, 'start', FAINT)}</svg>
'''.encode()


def _size(module: nn.Module) -> str:
    return f'{sum(parameter.numel() for parameter in module.parameters()):,}'


def _branches(block: MobileOneBlock) -> list[tuple[str, str, str]]:
    """Kind, text and parameters of each branch."""
    convs = [*(('conv', branch) for branch in block.conv_branches), ('scale', block.scale_branch)]
    rows = [(kind, '{0}x{0} conv, BN'.format(branch.conv.kernel_size[0]), _size(branch)) for kind, branch in convs]
    return [*rows, ('skip', 'BN (skip)', _size(block.skip_branch))]


def _summed(branches: list[tuple[str, str, str]], end: float) -> str:
    """All branches between the input and their sum."""
    middles = [_TOP + _ROW * i + _HEIGHT / 2 for i in range(len(branches))]
    parts = [_line((_IN, 102), (_IN, middles[-1])),
             _line((_OUT, middles[0]), (_OUT, end), (_MIDDLE + 18, end), arrow=True)]
    for y, branch in zip(middles, branches, strict=True):
        parts += [_line((_IN, y), (_LEFT, y), arrow=True), _line((_RIGHT, y), (_OUT, y)), _box(y, *branch)]
    plus = f'<circle cx="{_MIDDLE}" cy="{end}" r="16" fill="white" stroke="{INK}" stroke-width="2"/>'
    return ''.join([*parts, plus, _text(_MIDDLE, end + 8, '+', 24)])


def _folded(branches: list[tuple[str, str, str]], end: float) -> str:
    """Branches that are there and do not run."""
    boxes = [_box(_TOP + _ROW * i + _HEIGHT / 2, 'idle', *rest) for i, (_, *rest) in enumerate(branches)]
    return ''.join([*boxes, _line((_MIDDLE, end - 52), (_MIDDLE, end - 17), arrow=True, style='stroke-dasharray="4 3"'),
                    _text(_MIDDLE + 14, end - 29, 'folded', 18, 'start', FAINT)])


def _no_branches(end: float) -> str:
    place = (f'<rect x="{_LEFT}" y="{_TOP}" width="{_RIGHT - _LEFT}" height="{end - 54 - _TOP}" rx="6" fill="none" '
             f'stroke="{_PALE}" stroke-width="1.5" stroke-dasharray="5 5"/>')
    return place + _text(_MIDDLE, (_TOP + end - 46) / 2, 'no branches', 18, fill=FAINT)


def _one_conv(kernel_size: int, size: str, end: float) -> str:
    return (_line((_IN, 102), (_IN, end), (_LEFT, end), arrow=True)
            + _box(end, 'conv', f'{kernel_size}x{kernel_size} conv, bias', size))


def _activation(name: str, end: float) -> str:
    return (_line((_MIDDLE, end + 16), (_MIDDLE, end + 40), arrow=True) + _box(end + 57, 'activation', name, '')
            + _line((_MIDDLE, end + 73), (_MIDDLE, end + 98), arrow=True))


def _panel(i: int, bottom: float, title: str, subtitle: str, *parts: str) -> str:
    return ''.join([
        f'<g transform="translate({10 + i * (_WIDTH + _GAP)} 0)">', _text(0, 34, title, 25, 'start', weight='bold'),
        _text(0, 62, subtitle, 19, 'start', FAINT), f'<rect y="76" width="{_WIDTH}" height="{bottom - 76}" rx="10" ',
        f'fill="white" stroke="{_PALE}" stroke-width="1.5"/>\n', _text(_IN, 97, 'x', 20), *parts, '</g>\n'])


def _transitions(y: float) -> str:
    """Arrows from form to form, below the panels."""
    left, middle, right = (10 + _WIDTH / 2 + i * (_WIDTH + _GAP) for i in range(3))
    back, onward = (left + middle) / 2, (middle + right) / 2 + 6
    return ''.join([
        _line((left, y), (middle - 12, y), arrow=True), _text(back, y - 10, 'eval()', 20),
        _line((middle - 12, y + 14), (left, y + 14), arrow=True), _text(back, y + 38, 'train()', 20),
        _line((middle + 12, y + 7), (right, y + 7), arrow=True), _text(onward, y - 10, 'reparameterize_model()', 20),
        _text(onward, y + 38, 'for good', 20, fill=FAINT)])


def _box(y: float, kind: str, label: str, size: str) -> str:
    """A box around the height y, with its label, and its parameters if they are known."""
    fill, stroke = _KINDS[kind]
    ink, dash = (FAINT, 'stroke-dasharray="5 4"') if kind == 'idle' else (INK, '')
    rect = (f'<rect x="{_LEFT}" y="{y - _HEIGHT / 2:g}" width="{_RIGHT - _LEFT}" height="{_HEIGHT}" rx="6" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="2" {dash}/>\n')
    if not size:
        return rect + _text(_MIDDLE, y + 6, label, 18, fill=ink)
    return rect + _text(_LEFT + 12, y + 6, label, 18, 'start', ink) + _text(_RIGHT - 12, y + 6, size, 18, 'end', ink)


def _text(x: float, y: float, content: str, size: int, anchor: str = 'middle', fill: str = INK,
          weight: str = 'normal') -> str:
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" '
            f'font-weight="{weight}">{content}</text>\n')


def _line(*points: tuple[float, float], arrow: bool = False, style: str = '') -> str:
    path = ' '.join(f'{x:g},{y:g}' for x, y in points)
    head = 'marker-end="url(#head)"' if arrow else ''
    return f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="2" {style} {head}/>\n'
