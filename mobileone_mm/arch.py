"""Architectures: a variant is a row of data."""
from collections.abc import Sequence

# Apple's ml-mobileone, PARAMS; in the paper Table 7. Depthwise-pointwise pairs, width multipliers of
# 64, 128, 256, 512, conv branches per block, and how many of a stage's last pairs have Squeeze-and-Excitation.
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


def resolve_arch(arch: str | dict) -> dict:
    """Look up an architecture by name, or check one that is given as a dict with the keys of ``ARCHS``.

    Raises:
        ValueError: Unknown name, missing or unknown keys, or not one value per stage.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f'Unknown arch {arch!r}. Allowed are {", ".join(map(repr, ARCHS))}, or a dict with the '
                             f'keys {", ".join(ARCHS["s0"])}.')
        return ARCHS[arch]
    if not isinstance(arch, dict) or set(arch) != set(ARCHS['s0']):
        got = sorted(arch) if isinstance(arch, dict) else repr(arch)
        raise ValueError(f'arch must be a name ({", ".join(map(repr, ARCHS))}) or a dict with exactly the keys '
                         f'{", ".join(ARCHS["s0"])}; got {got}.')
    for key in ('num_blocks', 'width_multipliers', 'num_se_blocks'):
        check_per_stage(f"arch['{key}']", arch[key])
    if any(isinstance(m, str) or not 0 < m < float('inf') for m in arch['width_multipliers']):
        raise ValueError(f"arch['width_multipliers'] must be positive numbers, got {arch['width_multipliers']}.")
    branches = arch['num_conv_branches']
    if not isinstance(branches, int) or branches < 1:
        raise ValueError(f"arch['num_conv_branches'] must be an int of at least 1, got {branches!r}.")
    if any(not isinstance(n, int) for n in (*arch['num_blocks'], *arch['num_se_blocks'])):
        raise ValueError(f"arch['num_blocks'] and arch['num_se_blocks'] must be ints, got {arch['num_blocks']} and "
                         f"{arch['num_se_blocks']}.")
    for blocks, se_blocks in zip(arch['num_blocks'], arch['num_se_blocks'], strict=True):
        if not 0 <= se_blocks <= blocks or blocks < 1:
            raise ValueError(f"arch must have at least one block a stage and num_se_blocks within num_blocks, got "
                             f"num_blocks={arch['num_blocks']}, num_se_blocks={arch['num_se_blocks']}.")
    return arch


def stage_widths(arch: dict) -> tuple[int, ...]:
    """Output channels of stem and stages 1 to 4; the stem is at most 64 wide (Apple's code)."""
    widths = tuple(int(base * m) for base, m in zip(_BASE_WIDTHS, arch['width_multipliers'], strict=True))
    return (min(64, widths[0]), *widths)


def check_per_stage(name: str, values: Sequence, allowed: Sequence | None = None) -> tuple:
    """``values`` as a tuple of four, one per stage, or a ValueError."""
    is_sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_sequence or len(values) != 4 or (allowed is not None and any(v not in allowed for v in values)):
        each = '' if allowed is None else f', each {" or ".join(map(str, allowed))}'
        raise ValueError(f'{name} must be 4 values, one for each of stage1 to stage4{each}; got {values!r}.')
    return tuple(values)
