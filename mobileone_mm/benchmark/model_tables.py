"""The tables of models in Markdown: one beside the configs of each task, and README's overview of all."""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import ModelCardError

FORMS = (' (train form)', '')  # behind Parameters and FLOPs
LATENCY = 'inference time (ms/im)'
_MARKERS = ('<!-- model-card -->', '<!-- /model-card -->')


@dataclass(frozen=True)
class Kind:
    """A folder of configs, which has a metafile and a table.

    Attributes:
        folder: Its name below configs.
        task: As metafiles call it.
        logged: The metric as mm logs it.
        percent: What makes a percentage of that.
        metric: As metafiles call it.
        title: As the table calls it.
        unit: Of MACs in the table.
        scale: The unit in MACs.
        digits: Behind the point, of MACs in that unit.
    """

    folder: str
    task: str
    logged: str
    percent: int
    metric: str
    title: str
    unit: str
    scale: float
    digits: int


KINDS = (Kind('detection', 'Object Detection', 'coco/bbox_mAP', 100, 'box AP', 'mAP', 'M', 1e6, 0),
         Kind('segmentation', 'Semantic Segmentation', 'mIoU', 1, 'mIoU', 'mIoU', 'G', 1e9, 1),
         Kind('pretraining', 'Image Classification', 'accuracy/top1', 1, 'Top 1 Accuracy', 'top-1', 'M', 1e6, 0))


def read(path: Path) -> str:
    """A file of the card.

    Raises:
        ModelCardError: There is none.
    """
    if not path.is_file():
        raise ModelCardError(f'There is no {str(path)!r}. Restore it by git.')
    return path.read_bytes().decode()


def filled(readme: Path, text: str) -> str:
    """The content of a README with ``text`` between its markers."""
    parts = re.split('({}|{})'.format(*map(re.escape, _MARKERS)), read(readme))
    if parts[1::2] != list(_MARKERS):
        raise ModelCardError(f'{str(readme)!r} needs the lines {_MARKERS[0]!r} and {_MARKERS[1]!r} around the table, '
                             'each of them once.')
    return ''.join([*parts[:2], f'\n\n{text}\n', *parts[3:]])


def table(kind: Kind, models: Sequence[dict]) -> str:
    """The models in Markdown, and below it where latencies were measured; a column that would be empty is left out."""
    rows, machines = [], {}
    for model in models:
        metadata = model['Metadata']
        parameters, macs = ([metadata[f'{key}{form}'] for form in FORMS] for key in ('Parameters', 'FLOPs'))
        latency = metadata.get(LATENCY, [None])[0]
        if latency:
            machines.setdefault(latency['hardware'], []).append(model['Name'])
        rows.append({
            'config': f'[{model["Name"]}](./{Path(model["Config"]).name})',
            'parameters (M)': ' → '.join(f'{number / 1e6:.2f}' for number in parameters),
            f'MACs ({kind.unit})': ' → '.join(f'{number / kind.scale:.{kind.digits}f}' for number in macs),
            'latency (ms)': f'{latency["value"]:.1f}' if latency else '',
            f'{kind.title}, ours': _percent(kind, model.get('Results')),
            f'{kind.title} in the paper': _percent(kind, model.get('Paper Results')) or 'not in the paper',
            'sha256': model.get('SHA256', '')[:8],
        })
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    lines = _lines(columns, [[row[column] or '-' for column in columns] for row in rows])
    for machine, names in machines.items():
        of = f' of {", ".join(names)}' if len(machines) > 1 else ''  # of several runs, which are not to be compared
        lines += ['', f'Latency{of}: deploy form, median; {machine}.']
    return '\n'.join([*lines, ''])


def _percent(kind: Kind, results: Sequence[dict] | None) -> str:
    return f'{results[0]["Metrics"][kind.metric]:.1f}' if results else ''


def overview(models: Mapping[Kind, Sequence[dict]]) -> str:
    """All configs: a row for each head and dataset, a column for each arch; the paper's accuracy if it has one."""
    rows, archs = {}, set()
    for kind, entries in models.items():
        for model in entries:
            before, arch, behind = re.fullmatch(r'(.+?)(?:(?<=mobileone_)(s\d)(.*))?', model['Name']).groups('')
            link = f'[{_percent(kind, model.get("Paper Results")) or "config"}]({model["Config"]})'
            if arch:
                archs.add(arch)
                rows.setdefault((f'`{before}*{behind}`', kind.title), {})[arch] = link
            else:
                rows[f'`{before}`: {link}', kind.title] = {}
    return '\n'.join([*_lines(['config', 'accuracy', *map(str.upper, sorted(archs))], [
        [*head, *(row.get(arch, '-') for arch in sorted(archs))] for head, row in rows.items()]), ''])


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f'| {" | ".join(line)} |' for line in (columns, ['---'] * len(columns), *rows)]
