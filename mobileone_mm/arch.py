"""Architectures: a row of data each, from which blocks, widths and the shapes of weights follow."""
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from .utils.checks import check_int
from .utils.errors import ArgumentError

#: Architectures by name, as in Apple's ml-mobileone (PARAMS) and the paper's Table 7. Depthwise-pointwise pairs, width
#: multipliers of 64, 128, 256, 512, conv branches per block, and how many of a stage's last pairs have
#: Squeeze-and-Excitation.
ARCHS = {
    's0': dict(num_blocks=(2, 8, 10, 1), width_multipliers=(0.75, 1.0, 1.0, 2.0), num_conv_branches=4,
               num_se_blocks=(0, 0, 0, 0)),
    's1': dict(num_blocks=(2, 8, 10, 1), width_multipliers=(1.5, 1.5, 2.0, 2.5), num_conv_branches=1,
               num_se_blocks=(0, 0, 0, 0)),
    's2': dict(num_blocks=(2, 8, 10, 1), width_multipliers=(1.5, 2.0, 2.5, 4.0), num_conv_branches=1,
               num_se_blocks=(0, 0, 0, 0)),
    's3': dict(num_blocks=(2, 8, 10, 1), width_multipliers=(2.0, 2.5, 3.0, 4.0), num_conv_branches=1,
               num_se_blocks=(0, 0, 0, 0)),
    's4': dict(num_blocks=(2, 8, 10, 1), width_multipliers=(3.0, 3.5, 3.5, 4.0), num_conv_branches=1,
               num_se_blocks=(0, 0, 5, 1)),
    # Segmentation's S4 (Table 11, dagger): trained without Squeeze-and-Excitation.
    's4_nose': dict(num_blocks=(2, 8, 10, 1), width_multipliers=(3.0, 3.5, 3.5, 4.0), num_conv_branches=1,
                    num_se_blocks=(0, 0, 0, 0)),
}
_BASE_WIDTHS = (64, 128, 256, 512)
_SE_REDUCTION = 0.0625  # 1/16, in Apple's code


def resolve_arch(arch: str | dict) -> dict:
    """Look up an architecture by name, or check a dict that has the keys of ``ARCHS``.

    Raises:
        ArgumentError: Unknown name, missing or unknown keys, or not one value per stage.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ArgumentError(f'Unknown arch {arch!r}. Allowed are {", ".join(map(repr, ARCHS))}, or a dict with '
                                f'the keys {", ".join(ARCHS["s0"])}.')
        return ARCHS[arch]
    if not isinstance(arch, dict) or set(arch) != set(ARCHS['s0']):
        got = sorted(arch) if isinstance(arch, dict) else repr(arch)
        raise ArgumentError(f'arch must be a name ({", ".join(map(repr, ARCHS))}) or a dict with exactly the keys '
                            f'{", ".join(ARCHS["s0"])}; got {got}.')
    check_int("arch['num_conv_branches']", arch['num_conv_branches'], 1)
    for key in ('num_blocks', 'width_multipliers', 'num_se_blocks'):
        check_per_stage(f"arch['{key}']", arch[key])
    for blocks, se_blocks in zip(arch['num_blocks'], arch['num_se_blocks'], strict=True):
        check_int("arch['num_blocks'] of each stage", blocks, 1)
        check_int(f"arch['num_se_blocks'] of a stage of {blocks} blocks", se_blocks, 0, blocks)
    multipliers = arch['width_multipliers']
    if any(type(m) not in (int, float) or not 0 < m < float('inf') for m in multipliers) or min(stage_widths(arch)) < 1:
        raise ArgumentError("arch['width_multipliers'] must be positive numbers that leave at least one channel of "
                            f'{_BASE_WIDTHS}, got {multipliers}.')
    return arch


def stage_widths(arch: dict) -> tuple[int, ...]:
    """Output channels of the stem and of stages 1 to 4; the stem has at most 64 (Apple's code)."""
    widths = tuple(int(base * m) for base, m in zip(_BASE_WIDTHS, arch['width_multipliers'], strict=True))
    return (min(64, widths[0]), *widths)


def se_channels(channels: int) -> int:
    """Channels of the bottleneck of Squeeze-and-Excitation."""
    return max(1, int(channels * _SE_REDUCTION))


def block_table(arch: dict, in_channels: int = 3, strides: Sequence[int] = (2, 2, 2, 2),
                dilations: Sequence[int] = (1, 1, 1, 1),
                contract_dilation: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """The blocks of a backbone in order: their names, and their arguments for ``MobileOneBlock``.

    Args:
        arch: A row of ``ARCHS``, or a dict like one.
        in_channels: Channels of the input.
        strides: Stride of each stage.
        dilations: Dilation of the depthwise convolutions of each stage.
        contract_dilation: Halve a stage's dilation in its first depthwise block.
    """
    widths = stage_widths(arch)
    branches = dict(num_conv_branches=arch['num_conv_branches'])
    # The stem has one conv branch also in S0.
    table = [('stage0', dict(in_channels=in_channels, out_channels=widths[0], kernel_size=3, stride=2))]
    for i, (stride, dilation, num_blocks) in enumerate(zip(strides, dilations, arch['num_blocks'], strict=True)):
        for j in range(num_blocks):
            is_first = j == 0
            width = widths[i] if is_first else widths[i + 1]
            common = branches | dict(with_se=j >= num_blocks - arch['num_se_blocks'][i])
            table.append((f'stage{i + 1}.{2 * j}', dict(
                in_channels=width, out_channels=width, kernel_size=3, groups=width, stride=stride if is_first else 1,
                dilation=dilation // 2 if is_first and contract_dilation and dilation > 1 else dilation,
                # The first block has no skip at stride 1 either: no checkpoint has one there.
                with_skip=not is_first, **common)))
            table.append((f'stage{i + 1}.{2 * j + 1}', dict(
                in_channels=width, out_channels=widths[i + 1], kernel_size=1,
                with_skip=width == widths[i + 1], **common)))
    return table


def weight_shapes(arch: dict, in_channels: int = 3, deploy: bool = False,
                  affine: bool = True) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a backbone's ``state_dict()``, by arithmetic: no model is built.

    Args:
        arch: A row of ``ARCHS``, or a dict like one.
        in_channels: Channels of the input.
        deploy: Whether to take the deploy form instead of the train form.
        affine: Whether the norms have weight and bias.
    """
    shapes = {}
    for name, block in block_table(arch, in_channels):
        parts = branch_shapes(block, deploy, affine) | dict(_se_parts(block))
        shapes |= {f'{name}.{key}': shape for key, shape in parts.items()}
    return shapes


def branch_shapes(block: dict, deploy: bool, affine: bool = True) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of what differs between the forms of a block: its branches, or its ``reparam_conv``.

    Args:
        block: The block's arguments, as in :func:`.block_table`.
        deploy: Whether to take the deploy form instead of the train form.
        affine: Whether the norms have weight and bias.
    """
    return dict(_deploy_parts(block) if deploy else _train_parts(block, affine))


def _deploy_parts(block: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    out, size = block['out_channels'], block['kernel_size']
    yield 'reparam_conv.weight', (out, block['in_channels'] // block.get('groups', 1), size, size)
    yield 'reparam_conv.bias', (out, )


def _train_parts(block: dict, affine: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    out, size, per_group = block['out_channels'], block['kernel_size'], block['in_channels'] // block.get('groups', 1)
    norms = []
    for i in range(block.get('num_conv_branches', 1)):
        yield f'conv_branches.{i}.conv.weight', (out, per_group, size, size)
        norms.append(f'conv_branches.{i}.bn')
    if size > 1:
        yield 'scale_branch.conv.weight', (out, per_group, 1, 1)
        norms.append('scale_branch.bn')
    if block.get('with_skip'):
        norms.append('skip_branch')
    for norm in norms:
        for tensor in (*(('weight', 'bias') if affine else ()), 'running_mean', 'running_var'):
            yield f'{norm}.{tensor}', (out, )
        yield f'{norm}.num_batches_tracked', ()


def _se_parts(block: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    if block.get('with_se'):
        out, reduced = block['out_channels'], se_channels(block['out_channels'])
        yield from [('se.reduce.weight', (reduced, out, 1, 1)), ('se.reduce.bias', (reduced, )),
                    ('se.expand.weight', (out, reduced, 1, 1)), ('se.expand.bias', (out, ))]


@functools.cache
def shapes_of_name(name: str, in_channels: int, deploy: bool) -> dict[str, tuple[int, ...]]:
    """:func:`.weight_shapes` of a name in ``ARCHS``, cached: a search goes through all of them."""
    return weight_shapes(ARCHS[name], in_channels, deploy)


def arch_of_shapes(shapes: dict[str, tuple[int, ...]], in_channels: int, deploy: bool) -> str | None:
    """The name in ``ARCHS`` with these keys and shapes, norms' step counters ignored; or None."""

    def without_counters(of: dict) -> dict:
        return {key: tuple(shape) for key, shape in of.items() if not key.endswith('num_batches_tracked')}

    return next((name for name in ARCHS if without_counters(shapes_of_name(name, in_channels, deploy))
                 == without_counters(shapes)), None)


def check_per_stage(name: str, values: Sequence, allowed: Sequence[int] | None = None) -> tuple:
    """``values`` as a tuple of four, one per stage.

    Raises:
        ArgumentError: It is no sequence of four, or one of them is not allowed.
    """
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_sequence or len(values) != 4 or \
            (allowed is not None and any(type(v) is not int or v not in allowed for v in values)):
        each = '' if allowed is None else f', each {" or ".join(map(str, allowed))}'
        raise ArgumentError(f'{name} must be 4 values, one for each of stage1 to stage4{each}; got {values!r}.')
    return tuple(values)
