"""A small dataset that is drawn, not downloaded: coloured shapes for detection, segmentation and classification."""
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from ..utils.errors import ArgumentError, DiskError
from ..utils.files import disk_errors

CLASSES = ('circle', 'square', 'triangle', 'star', 'ring')
PALETTE = ((220, 60, 60), (60, 160, 60), (70, 90, 220), (230, 190, 40), (170, 70, 190))
_MOST_SINGLE = 900  # training images of one shape each, which are learnt soon
_MAX_OVERLAP = 0.35  # of a shape's own area that later shapes may cover


@dataclass
class DrawnImage:
    """One image and its truth.

    Attributes:
        image: RGB, (H, W, 3), uint8.
        labels: Class of each shape, an index into ``CLASSES``.
        masks: Visible pixels of each shape, (H, W), bool.
    """

    image: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]

    def semantic_mask(self) -> np.ndarray:
        """(H, W), uint8: 0 is background, ``1 + label`` a shape."""
        semantic = np.zeros(self.image.shape[:2], np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            semantic[mask] = 1 + label
        return semantic


def draw_image(rng: np.random.Generator, size: int = 160, max_shapes: int = 5) -> DrawnImage:
    """Draw one shape or more, a quarter to two thirds of the image wide, over a cluttered background.

    Args:
        rng: Source of all randomness.
        size: Height and width in pixels.
        max_shapes: Draw at most so many.
    """
    image = _background(rng, size)
    labels, full_masks, masks = [], [], []
    for _ in range(rng.integers(1, max_shapes + 1)):
        label = int(rng.integers(len(CLASSES)))
        mask = _shape_mask(rng, label, size)
        covered = [(visible & ~mask).sum() < (1 - _MAX_OVERLAP) * full.sum()
                   for visible, full in zip(masks, full_masks, strict=True)]
        if any(covered):
            continue
        image[mask] = _texture(rng, label, size)[mask]
        masks = [visible & ~mask for visible in masks] + [mask]
        full_masks.append(mask)
        labels.append(label)
    noise = rng.normal(0, rng.uniform(0, 8), image.shape)
    return DrawnImage(np.clip(image + noise, 0, 255).astype(np.uint8), labels, masks)


def _shape_mask(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    radius = rng.uniform(0.12, 0.32) * size
    center = rng.uniform(radius, size - radius, 2)
    angle = rng.uniform(0, 2 * np.pi)
    mask = np.zeros((size, size), np.uint8)
    name = CLASSES[label]
    if name in ('circle', 'ring'):
        where = tuple(int(c) for c in center.round())
        cv2.circle(mask, where, round(radius), 1, -1)
        if name == 'ring':
            cv2.circle(mask, where, round(radius * 0.55), 0, -1)
    else:
        corners = {'square': 4, 'triangle': 3, 'star': 10}[name]
        radii = np.where(np.arange(corners) % 2, 0.45, 1.0) * radius if name == 'star' else np.full(corners, radius)
        angles = angle + 2 * np.pi * np.arange(corners) / corners
        points = center + radii[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)
        cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
    return mask.astype(bool)


def _texture(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """(size, size, 3): one colour, half of the time with stripes or dots in another brightness.

    Three of four shapes have a colour like their class's, the others any: a hint to learn fast from, no proof.
    """
    if rng.random() < 0.75:
        colour = np.clip(np.array(PALETTE[label]) * rng.uniform(0.6, 1.2) + rng.uniform(-40, 40, 3), 0, 255)
    else:
        colour = rng.uniform(20, 255, 3)
    texture = np.broadcast_to(colour, (size, size, 3)).copy()
    y, x = np.mgrid[:size, :size]
    period = rng.uniform(6, 14)
    kind = rng.integers(4)
    if kind == 0:
        angle = rng.uniform(0, np.pi)
        texture[np.sin(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle))) > 0.3] *= 0.6
    elif kind == 1:
        texture[np.sin(2 * np.pi / period * x) * np.sin(2 * np.pi / period * y) > 0.4] *= 0.6
    return texture


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3): smooth blotches of dull colour, with thin lines and specks on them."""
    blotches = (rng.uniform(0, 150, (4, 4, 1)) + rng.uniform(-30, 30, (4, 4, 3))).astype(np.float32)
    image = cv2.resize(blotches, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    for _ in range(rng.integers(4, 14)):
        ends = rng.integers(0, size, 4).tolist()
        colour = rng.uniform(0, 255, 3).tolist()
        if rng.random() < 0.6:
            cv2.line(image, ends[:2], ends[2:], colour, int(rng.integers(1, 3)))
        else:
            cv2.circle(image, ends[:2], int(rng.integers(1, 5)), colour, -1)
    return image


def make_shapes(out: str | Path, num_train: int = 2400, num_val: int = 100, size: int = 160, seed: int = 0) -> None:
    """Draw the dataset, as COCO detection and as VOC segmentation of the same images, and for classification, in the
    layout of ImageNet, other images of one shape each::

        out/annotations/instances_{train,val}.json
        out/JPEGImages/{train,val}_0000.jpg
        out/SegmentationClass/{train,val}_0000.png
        out/ImageSets/Segmentation/{train,val}.txt
        out/single/{train,val}/0000.jpg
        out/single/meta/{train,val}.txt

    It is drawn beside ``out``, or in a hidden folder of it where it exists, and moved there when it is complete, so
    that an interruption leaves nothing half.

    Args:
        out: Folder to write, or a link to it; must not exist yet, or be empty.
        num_train: Number of training images; of one shape each at most 900.
        num_val: Number of validation images, of each kind, never the training ones of another seed.
        size: Height and width in pixels.
        seed: Seed of all images.

    Raises:
        ArgumentError: A count, the size or the seed is too small.
        DiskError: ``out`` holds something already, or cannot be written.
    """
    if min(num_train, num_val) < 1 or size < 32:
        raise ArgumentError(f'Need at least one image per split and a size of 32, got num_train={num_train}, '
                            f'num_val={num_val}, size={size}.')
    if seed < 0:
        raise ArgumentError(f'The seed must be at least 0, got {seed}.')
    with disk_errors(out):
        out = Path(os.path.realpath(out))  # a link stays, and what it points to is written
        if out.is_symlink():
            raise DiskError(f'{out} is a link to itself. Name another folder.')
        inside = out.exists()  # an empty folder stays too: it may be a mount, or the shell's own
        work = out / '.shapes.part' if inside else out.with_name(f'.{out.name}.part')
        if inside and (not out.is_dir() or any(path != work for path in out.iterdir())):
            raise DiskError(f'{out} exists and is not an empty folder. Remove it, or name another one.')
        shutil.rmtree(work, ignore_errors=True)
        try:
            _draw(work, num_train, num_val, size, seed)
            if inside:
                for path in work.iterdir():
                    path.rename(out / path.name)
            else:
                work.rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _draw(work: Path, num_train: int, num_val: int, size: int, seed: int) -> None:
    for folder in ('annotations', 'JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation', 'single/train',
                   'single/val', 'single/meta'):
        (work / folder).mkdir(parents=True)
    _draw_split(work, 'train', num_train, size, (seed, 0))
    _draw_split(work, 'val', num_val, size, (seed, 1))
    _draw_single(work / 'single', 'train', min(num_train, _MOST_SINGLE), size, (seed, 2))
    _draw_single(work / 'single', 'val', num_val, size, (seed, 3))


def _draw_split(out: Path, split: str, count: int, size: int, seed: tuple[int, int]) -> None:
    images, annotations, names = [], [], []
    palette = [0, 0, 0, *(value for colour in PALETTE for value in colour)]
    for index in track(range(count), f'Drawing {split}'):
        drawn = draw_image(np.random.default_rng((*seed, index)), size)
        name = f'{split}_{index:04d}'
        names.append(name)
        Image.fromarray(drawn.image).save(out / 'JPEGImages' / f'{name}.jpg', quality=95)
        semantic = Image.fromarray(drawn.semantic_mask(), mode='P')
        semantic.putpalette(palette)
        semantic.save(out / 'SegmentationClass' / f'{name}.png')
        images.append(dict(id=index, file_name=f'{name}.jpg', width=size, height=size))
        for label, mask in zip(drawn.labels, drawn.masks, strict=True):
            annotations.append(_annotation(len(annotations) + 1, index, label, mask))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(info=dict(description='mobileone_mm shapes'), images=images, annotations=annotations,
                   categories=categories)
    (out / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content), encoding='utf-8')
    (out / 'ImageSets' / 'Segmentation' / f'{split}.txt').write_text('\n'.join(names) + '\n', encoding='utf-8')


def _draw_single(out: Path, split: str, count: int, size: int, seed: tuple[int, int]) -> None:
    lines = []
    for index in track(range(count), f'Drawing {split}, one shape per image'):
        drawn = draw_image(np.random.default_rng((*seed, index)), size, max_shapes=1)
        Image.fromarray(drawn.image).save(out / split / f'{index:04d}.jpg', quality=95)
        lines.append(f'{index:04d}.jpg {drawn.labels[0]}\n')
    (out / 'meta' / f'{split}.txt').write_text(''.join(lines), encoding='utf-8')


def _annotation(annotation_id: int, image_id: int, label: int, mask: np.ndarray) -> dict:
    """COCO record of one shape; ``bbox`` is xywh in pixels around its visible part."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [contour.ravel().tolist() for contour in contours if len(contour) >= 3]
    return dict(id=annotation_id, image_id=image_id, category_id=label + 1, bbox=[x, y, width, height],
                area=int(mask.sum()), segmentation=polygons, iscrowd=0)
