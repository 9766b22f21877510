"""Annotation files in the format of COCO: their categories, and entries that other tools leave out."""
import json
import mmap
import os.path as osp
from collections.abc import Iterator
from numbers import Real

from ..utils.errors import DataError
from ..utils.logs import warn

# What mm reads of each entry, without which it ends in a KeyError; iscrowd it takes for 0 while training.
_KEYS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}
_REMEDIES = {
    'id': 'Number the entries',
    'file_name': "Write the image's path below data_prefix",
    'width': "Write the image's width and height in pixels",
    'height': "Write the image's width and height in pixels",
    'image_id': 'Write the id of its image',
    'category_id': 'Write the id of its category',
    'bbox': 'Write [x, y, width, height] in pixels',
    'area': 'Write the number of pixels of its mask, or width * height of its bbox',
    'name': 'Write its name',
}
_SLACK, _MANY_BEYOND = 2, 0.2  # pixels, and the share of boxes, that may be rounding or cut objects
_WINDOW = 1 << 12  # bytes that are parsed at first, more where that is not enough


def read_coco(path: str) -> dict:
    """The content of a COCO file.

    Raises:
        DataError: It is no JSON, not in UTF-8, or not a dict.
    """
    with open(path, encoding='utf-8') as file:
        try:
            content = json.load(file)
        except json.JSONDecodeError as error:
            raise DataError(f'{path} is no JSON, or is cut short: {error}. It ends {error.doc[-40:]!r}.') from error
        except UnicodeDecodeError as error:
            raise DataError(f'{path} is not in UTF-8: {error}. Save it as UTF-8.') from error
    if not isinstance(content, dict):
        raise DataError(f'{path} is not in the format of COCO: it is a {type(content).__name__}, not a dict with '
                        'images, annotations and categories.')
    return content


def read_categories(path: str) -> list[dict]:
    """The categories of a COCO file, in its order.

    Of a file of 450 MB, as COCO's train2017, only these few lines are parsed; finding them takes half a second.

    Raises:
        DataError: It has none.
    """
    found = []
    with open(path, 'rb') as file:
        if osp.getsize(path):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found = [value for value in _values(data, b'"categories"') if _are_categories(value)]
    if len(found) != 1:  # none, or some of that name deeper inside
        content = read_coco(path)
        check_entries(content, path, ('categories', ))
        found = [content['categories']]
    return found[0]


def _values(data: mmap.mmap, key: bytes) -> Iterator[object]:
    """What follows a key in JSON, wherever it stands and can be parsed."""
    start = data.find(key)
    while start >= 0:
        begin, window = start + len(key), _WINDOW
        while True:
            text = data[begin:begin + window].decode('utf-8', errors='replace').lstrip()
            if not text.startswith(':'):
                break
            try:
                yield json.JSONDecoder().raw_decode(text[1:].lstrip())[0]
                break
            except json.JSONDecodeError:
                if begin + window >= len(data):
                    break
                window *= 8
        start = data.find(key, begin)


def _are_categories(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and {'id', 'name'} <= item.keys() for item in value)


def check_entries(content: dict, file: str, parts: tuple[str, ...] = tuple(_KEYS)) -> None:
    """Check that all entries of a COCO file have what mm reads, before it ends in a KeyError.

    A missing ``iscrowd`` is none: it means 0. Images without annotations are allowed. Annotations of images or
    categories that are not there, which mm leaves out, are a warning.

    Args:
        content: As read from JSON.
        file: Its name, for messages.
        parts: Which of ``images``, ``annotations``, ``categories``.

    Raises:
        DataError: Naming the file and the first entry that lacks something, or has an id that is taken.
    """
    ids = {}
    for part in parts:
        entries = content.get(part)
        if entries is None and part == 'annotations' and 'images' in content:
            entries = []  # of a test set, whose truth is secret
        if not isinstance(entries, list):
            raise DataError(f'{file} is not in the format of COCO: it has no {part!r} that is a list. Its keys are '
                            f'{", ".join(map(str, list(content)[:8])) or "none"}.')
        ids[part] = set()
        for index, entry in enumerate(entries):
            problem = _problem(part, entry) if isinstance(entry, dict) else f'is a {type(entry).__name__}, not a dict'
            if problem:
                known = f' (id {entry["id"]})' if isinstance(entry, dict) and 'id' in entry else ''
                raise DataError(f'{file}: {part}[{index}]{known} {problem}.')
            if entry['id'] in ids[part]:
                raise DataError(f'{file}: {part}[{index}] has the id {entry["id"]!r}, which an earlier one has. Number '
                                'them again, and with images and categories also what refers to them.')
            ids[part].add(entry['id'])
    annotations = content.get('annotations') or [] if 'annotations' in parts else []
    orphans = [(index, key, part) for index, entry in enumerate(annotations)
               for key, part in (('image_id', 'images'), ('category_id', 'categories'))
               if part in ids and entry[key] not in ids[part]]
    if not orphans:
        return
    index, key, part = orphans[0]
    entry = content['annotations'][index]
    warn(f'{file}: annotations[{index}] (id {entry["id"]}) has {key} {entry[key]!r}, which none of the '
         f'{len(ids[part])} {part} has{_other_type(entry[key], ids[part])}. mm leaves such annotations out, here '
         f'{len({index for index, _, _ in orphans})} of {len(content["annotations"])}.')


def warn_of_corners(content: dict, file: str) -> None:
    """Warn where many boxes reach beyond their image, as those do that are written by two corners.

    Args:
        content: As read from JSON, and looked through by :func:`.check_entries`.
        file: Its name, for the message.
    """
    images = {image['id']: image for image in content.get('images') or []}
    boxes = [(entry['bbox'], images[entry['image_id']]) for entry in content.get('annotations') or []
             if entry['image_id'] in images]
    beyond = [(box, image) for box, image in boxes
              if box[0] + box[2] > image['width'] + _SLACK or box[1] + box[3] > image['height'] + _SLACK]
    if len(beyond) > _MANY_BEYOND * len(boxes):
        box, image = beyond[0]
        warn(f'{file}: {len(beyond)} of {len(boxes)} boxes reach beyond their image, such as bbox={box} in '
             f'{image["file_name"]} of {image["width"]}x{image["height"]}. bbox is [x, y, width, height], '
             'not [x1, y1, x2, y2]: check what wrote the file.')


def _other_type(value: object, ids: set) -> str:
    """The most frequent reason why an id is not found."""
    same = next((other for other in ids if str(other) == str(value)), None)
    return '' if same is None else f': there it is {same!r}, of another type'


def _problem(part: str, entry: dict) -> str | None:
    missing = [key for key in _KEYS[part] if key not in entry]
    if missing:
        return f'has no {" and no ".join(missing)}. {". ".join(dict.fromkeys(_REMEDIES[key] for key in missing))}, ' \
               'in this and all other entries'
    for key in ('width', 'height') if part == 'images' else ('area', ) if part == 'annotations' else ():
        if not _is_number(entry[key]) or (part == 'images' and entry[key] <= 0):
            return f'has {key}={entry[key]!r}. {_REMEDIES[key]}'
    if part == 'annotations':
        box = entry['bbox']
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            return f'has bbox={box!r}. {_REMEDIES["bbox"]}, or remove the annotation'
    for key in ('id', 'image_id', 'category_id'):
        if isinstance(entry.get(key), (list, dict)):
            return f'has {key}={entry[key]!r}, which is no id'
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and value == value
