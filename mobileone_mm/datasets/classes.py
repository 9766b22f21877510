"""Names of classes: read as mmengine reads them, and compared with those in the data."""
import os.path as osp
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mmengine.fileio import list_from_file

from ..utils.errors import DataError
from ..utils.logs import warn
from ..utils.types import type_name


def read_classes(classes: Any, of: str = '') -> list[str]:
    """Names from ``metainfo.classes`` of a config, read as mmengine's BaseDataset does.

    A text is a file with one name per line.

    Args:
        classes: A tuple or list of names, or a file.
        of: What it belongs to, for the message.

    Raises:
        DataError: It is a text and not a file, or the file is not in UTF-8.
    """
    if not isinstance(classes, str):
        return list(classes)
    try:
        names = list_from_file(classes)
    except (TypeError, FileNotFoundError, IsADirectoryError):
        where = f' of {of}' if of else ''
        raise DataError(f"classes{where} is the text {classes!r}, which is neither a tuple of names nor a file that is "
                        f"there. For a class of that name, write ({classes!r}, ) with the comma.") from None
    except UnicodeDecodeError as error:
        raise DataError(f'{classes}, a list of classes, is not in UTF-8: {error}. Save it as UTF-8.') from error
    if names and names[0].startswith('\ufeff'):  # which mmengine would take for a part of the first name
        raise DataError(f'{classes}, a list of classes, begins with a byte order mark (BOM). Save it as UTF-8 without '
                        'one.')
    return names


def _nearest(name: str, names: Sequence[str]) -> str:
    """What a message says of a name that is not among others: the ones that look most like it."""
    lower = {other.lower().strip(): other for other in map(str, names)}
    close = [lower[match] for match in get_close_matches(str(name).lower().strip(), lower, 3, 0.7)]
    return f'{name!r} (nearest: {", ".join(map(repr, close))})' if close else repr(name)


def check_names(classes: Sequence[str], found: Sequence[str], available: Sequence[str], data: str, file: str) -> None:
    """Compare a config's classes with the names in the data.

    Args:
        classes: Those of ``metainfo``; label ``i`` is called ``classes[i]``.
        found: What the data calls label 0, 1, ...
        available: All names in the data.
        data: The dataset, for the message.
        file: Where the names in the data stand, for the message.

    Raises:
        DataError: A class is not in the data, or the order is another.
    """
    check_available(classes, available, data, file)
    double = sorted({name for name in found if list(found).count(name) > 1})
    if double:
        raise DataError(f'{file} has more than one category called {double[0]!r}. Give each its own name.')
    if list(found) != list(classes):
        raise DataError(
            f'The classes of {data} stand in another order than in {file}, and mm numbers labels in the order of the '
            f'file. Config: {_listed(classes)}. File: {_listed(found)}. Write metainfo=dict(classes=...) in the order '
            'of the file, in all datasets; or, where files differ from each other, put the entries of their categories '
            'into one order (their ids may stay).')


def check_encoding(names: Mapping, theirs: Mapping, file: str) -> None:
    """Compare the names of categories in a COCO file with those that pycocotools reads, in the locale's encoding.

    Args:
        names: By their ids, as the file has them in UTF-8.
        theirs: Those that pycocotools has, likewise, or some of them.
        file: The file, for the message.

    Raises:
        DataError: Some differ.
    """
    differ = [id_ for id_, name in theirs.items() if id_ in names and names[id_] != name]
    if differ:
        raise DataError(f'{file} has a category {names[differ[0]]!r}, and pycocotools, which reads by the encoding of '
                        f'this locale, took it for {theirs[differ[0]]!r}. Let Python use UTF-8 everywhere: set '
                        'PYTHONUTF8=1 in the environment.')


def check_available(classes: Sequence[str], available: Sequence[str], data: str, file: str) -> None:
    """Check that all classes are among the names in the data. Arguments are those of :func:`.check_names`.

    Raises:
        DataError: Naming the nearest ones for those that are not.
    """
    missing = [name for name in classes if name not in available]
    if missing:
        listed = ', '.join(_nearest(name, available) for name in missing[:3])
        more = f' and {len(missing) - 3} more' if len(missing) > 3 else ''
        raise DataError(f'{len(missing)} of the {len(classes)} classes of {data} are not in {file}: {listed}{more}. '
                        f'It has {_listed(available)}. Write the names as they are there: '
                        f'metainfo=dict(classes=({", ".join(repr(name) for name in available[:3])}, ...)) in all '
                        'datasets, or correct the file.')


def check_same_names(classes: Sequence[str], others: Sequence[str], data: str, other_data: str) -> None:
    """Compare the classes of two datasets, or of a checkpoint and a dataset, that are to have the same labels.

    Names that differ are a warning: they may be other words for the same.

    Raises:
        DataError: The same names in another order.
    """
    if list(classes) == list(others):
        return
    if sorted(map(str, classes)) == sorted(map(str, others)):
        raise DataError(f'{data} and {other_data} have the same classes in another order, so labels mean different '
                        f'things. {data}: {_listed(classes)}. {other_data}: {_listed(others)}. Write one order into '
                        'the metainfo of all datasets.')
    if len(classes) != len(others):
        return  # what NumClassesFitHook refuses, where it matters
    pairs = [f'{a!r} and {b!r}' for a, b in zip(classes, others, strict=True) if a != b]
    warn(f'{data} and {other_data} call labels by different names: {", ".join(pairs[:3])}'
         f'{f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""}. Check that they mean the same.')


def check_folders(classes: Sequence[str], folders: Sequence[str], data: str) -> None:
    """Compare the classes of a classification dataset with its folders, which mmpretrain numbers in sorted order.

    Names of which none is a folder's are other words, as in ImageNet, and are not compared.

    Raises:
        DataError: The order is another, or some names are folders and others are not.
    """
    if set(classes) & set(folders) and list(classes) != list(folders):
        check_names(classes, folders, folders, data, 'its folders, sorted')


def config_classes(dataset: dict) -> list[str] | None:
    """The classes that a dataset config writes itself, or None.

    Raises:
        DataError: They are a text and not a file.
    """
    classes = (dataset.get('metainfo') or {}).get('classes')
    return None if classes is None else read_classes(classes, _name(dataset))


def _name(dataset: dict) -> str:
    kind = type_name(dataset) or 'dataset'
    file = dataset.get('ann_file') or ''
    return f'the {kind} of {osp.basename(file)}' if isinstance(file, str) and file else f'the {kind}'


def _listed(names: Sequence[str], limit: int = 8) -> str:
    names = list(map(str, names))
    return ', '.join(names[:limit]) + (f', ... ({len(names)} in all)' if len(names) > limit else '')
