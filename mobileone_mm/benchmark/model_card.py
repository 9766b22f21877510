"""The model card: tables and metafile.yml beside the configs, README's overview, and model-index.yml, from the configs.

The metafiles are the store, of which the tables are made. What a run does not measure or get stays in them: results,
weights and latencies of earlier runs, and what was written by hand, such as Collections and Paper Results.
"""
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path

import torch
import yaml

from ..datasets.check import datasets
from ..engine.config import read_config
from ..engine.trained import load_trained
from ..reparameterize import reparameterize_model
from ..utils.errors import ArgumentError, ModelCardError
from ..utils.files import atomic_file, sha256
from ..utils.types import type_name
from .contenders import Contender, build_all, plan
from .measure import benchmark, count
from .model_tables import FORMS, KINDS, LATENCY, Kind, filled, overview, read, table
from .report import headline

_HEADER = ('# By tools/model_card.py, which keeps what it does not know: Collections, Paper Results, a URL as Weights.'
           '\n# FLOPs are MACs, as everywhere in mm, of one image; numbers without a form are of the deploy form.\n')
_DATASETS = {'CocoDataset': 'COCO', 'PascalVOCDataset': 'Pascal VOC 2012', 'ADE20KDataset': 'ADE20K',
             'ImageNet': 'ImageNet-1k'}


def make_card(root: str | Path, configs: Sequence[str] = (), checkpoints: Mapping[str, str] | None = None,
              logs: Mapping[str, str] | None = None, rounds: int | None = None) -> dict[Path, str]:
    """What README.md, those beside the configs, the metafiles and model-index.yml should contain; nothing is written.

    Args:
        root: Folder of README.md and configs.
        configs: What to count again, by path or by name; default: all but those of the drawn shapes. What is in no
            metafile yet is counted in any case, and so is what ``checkpoints`` and ``logs`` name.
        checkpoints: Config -> its trained checkpoint.
        logs: Config -> work dir or scalars.json of its training.
        rounds: Rounds of measuring the latency of what is counted; None: latencies stay as they were.

    Returns:
        Text by path.

    Raises:
        ArgumentError: A config is not among those of the card.
        CheckpointError: A checkpoint does not fit its config.
        ModelCardError: A log, a metafile or a README is missing, or is not what it should be.
    """
    root = Path(root)
    leaves = {path.stem: (kind, path) for kind in KINDS
              for path in sorted((root / 'configs' / kind.folder).glob('*.py')) if not path.stem.endswith('_shapes')}
    checkpoints, logs = ({_known(config, leaves): file for config, file in (given or {}).items()}
                         for given in (checkpoints, logs))
    metafiles = {kind: _read_metafile(root / 'configs' / kind.folder / 'metafile.yml') for kind in KINDS}
    counted = {model['Name'] for metafile in metafiles.values() for model in metafile['Models']
               if 'FLOPs' in model.get('Metadata', {})}
    chosen = {_known(config, leaves) for config in configs or leaves}
    chosen |= {*checkpoints, *logs} | (leaves.keys() - counted)

    # What may be refused comes before what takes minutes.
    pages = {kind: root / 'configs' / kind.folder / 'README.md' for kind in KINDS}
    for path in (root / 'README.md', *pages.values()):
        filled(path, '')
    news = {name: {} for name in leaves if name in chosen}
    for name, file in checkpoints.items():
        load_trained(read_config(leaves[name][1]), file)
        news[name] |= {'Weights': Path(file).name, 'SHA256': sha256(file)}
    for name, log in logs.items():
        news[name]['Results'] = [_result(*leaves[name], log)]

    paths = [str(leaves[name][1]) for name in news]
    metadata = {} if rounds is None else _latencies(paths, rounds)
    for contender in build_all(plan(paths, [], peers=False), []):
        metadata[contender.name] = _counts(contender) | metadata.get(contender.name, {})

    texts = {}
    for kind, metafile in metafiles.items():
        old = {model['Name']: model for model in metafile['Models'] if model['Name'] in leaves}
        for name in news:
            if leaves[name][0] is kind:
                head = {'Name': name, 'In Collection': _collection(name, metafile['Collections']),
                        'Config': leaves[name][1].relative_to(root).as_posix()}
                old[name] = _updated(head | old.get(name, {}) | head, metadata[name], news[name])
        metafile['Models'] = list(old.values())
        texts[root / 'configs' / kind.folder / 'metafile.yml'] = _HEADER + _dump(metafile)
    index = {'Import': [path.relative_to(root).as_posix() for path in texts]}
    models = {kind: metafile['Models'] for kind, metafile in metafiles.items()}
    texts |= {pages[kind]: filled(pages[kind], table(kind, models[kind])) for kind in KINDS}
    return texts | {root / 'model-index.yml': _dump(index),
                    root / 'README.md': filled(root / 'README.md', overview(models))}


def first_differences(texts: Mapping[Path, str]) -> list[str]:
    """Of each file that has another content, the first line that differs."""
    found = []
    for path, text in texts.items():
        lines = path.read_bytes().decode().splitlines() if path.is_file() else []
        for number, (line, wanted) in enumerate(zip_longest(lines, text.splitlines(), fillvalue=''), 1):
            if line != wanted:
                found.append(f'{path}:{number} is {line!r}, should be {wanted!r}')
                break
    return found


def write_card(texts: Mapping[Path, str]) -> list[Path]:
    """Write the files that change, each complete or not at all; returns their paths."""
    changed = [path for path, text in texts.items() if not path.is_file() or path.read_bytes() != text.encode()]
    for path in changed:
        with atomic_file(path) as file:
            file.write(texts[path].encode())
    return changed


def logged_values(log: str | Path, metric: str) -> list[float]:
    """All values of a metric in a work dir, of all its runs in turn, or in one file of mmengine's scalars.

    Raises:
        ModelCardError: There is none, or what is there is not mmengine's.
    """
    files = sorted(Path(log).rglob('scalars.json')) or [Path(log)]
    remedy = 'Name the work dir of a training that validated, or its TIMESTAMP/vis_data/scalars.json.'
    try:
        rows = [json.loads(line) for file in files for line in file.read_text(encoding='utf-8').splitlines()]
    except (OSError, ValueError) as error:  # the latter of JSON, and of bytes that are no text
        raise ModelCardError(f'{str(log)!r} is no log of mmengine: {error}. {remedy}') from error
    if not all(isinstance(row, dict) for row in rows):
        raise ModelCardError(f'{str(log)!r} is no log of mmengine: it has lines that are no dictionaries. {remedy}')
    # Not NaN, nor the -1 of pycocotools for a mean over nothing.
    values = [row[metric] for row in rows if row.get(metric, -1) >= 0]
    if not values:
        raise ModelCardError(f'{str(log)!r} has no {metric}. {remedy}')
    return values


def _known(config: str, leaves: Mapping[str, tuple[Kind, Path]]) -> str:
    """The name of a config that is given by it or by its path."""
    name = Path(config).stem
    if name not in leaves or (config != name and Path(config).resolve() != leaves[name][1].resolve()):
        raise ArgumentError(f'{config!r} is not among the configs of the model card. They are {", ".join(leaves)}.')
    return name


def _read_metafile(path: Path) -> dict:
    try:
        content, reason = yaml.safe_load(read(path)), 'it has none'
    except yaml.YAMLError as error:
        content, reason = None, ' '.join(str(error).split())
    if not isinstance(content, dict) or not isinstance(content.get('Collections'), list):
        raise ModelCardError(f'{str(path)!r} is no metafile with Collections: {reason}. Restore it by git.')
    return {'Collections': content['Collections'], 'Models': content.get('Models') or []}


def _collection(name: str, collections: Sequence[dict]) -> str:
    """The collection of a model's head, which is the first part of both names; or else the first one."""
    names = [collection['Name'] for collection in collections]
    return next((each for each in names if each.partition('-')[0].lower() == name.partition('_')[0]), names[0])


def _dump(content: dict) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _counts(contender: Contender) -> dict[str, int]:
    """Parameters and MACs in training, and with MobileOne reparameterized but all other norms in place."""
    model = contender.forms['eval'].train()
    x = torch.zeros(2, *contender.shape)  # one image alone gives a norm behind global pooling no statistics
    counts = {}
    for suffix, form in zip(FORMS, (model, reparameterize_model(model).eval()), strict=True):
        parameters, macs = count(form, x)
        counts |= {f'Parameters{suffix}': parameters, f'FLOPs{suffix}': macs // len(x)}
    return counts


def _latencies(configs: Sequence[str], rounds: int) -> dict[str, dict]:
    """Metadata of each config's deploy form under torch on this CPU, all in one interleaved run."""

    def deploy_only(build: Callable[[], Contender]) -> Contender:
        contender = build()
        return replace(contender, forms={'deploy': contender.forms['deploy']})

    report = benchmark([partial(deploy_only, build) for build in plan(configs, [], peers=False)], rounds=rounds,
                       layouts=('default', ))
    when = f'{datetime.now():%Y-%m-%d %H:%M}'  # tells runs apart that are otherwise alike
    return {row['model']: {LATENCY: [{
        'value': round(row['median_ms'], 2), 'hardware': f'{headline(report | dict(rows=[row]))}; {when}',
        'backend': 'PyTorch', 'batch size': 1, 'mode': 'FP32', 'resolution': row['input'].partition('x3x')[2]}]}
        for row in report['rows']}


def _result(kind: Kind, config: Path, log: str) -> dict:
    dataset = type_name(next(datasets(read_config(config).test_dataloader.dataset)))
    value = round(kind.percent * max(logged_values(log, kind.logged)), 2)
    return {'Task': kind.task, 'Dataset': _DATASETS.get(dataset, dataset), 'Metrics': {kind.metric: value}}


def _updated(old: dict, metadata: dict, new: dict) -> dict:
    """A model's entry with what was found now; what was not, stays."""
    if old.get('SHA256') is not None and old['SHA256'] == new.get('SHA256'):
        new = new | {'Weights': old['Weights']}  # by now perhaps a URL
    return old | {'Metadata': old.get('Metadata', {}) | metadata} | new
