"""Models that answer with the truth, flips included: what they say is drawn in the images, each class in its colour.

Configs import this module by ``custom_imports``, so that tools as subprocesses find the models.
"""
import json

import cv2
import numpy as np
import torch
from mmdet.models.detectors.base import BaseDetector
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from mmseg.models.segmentors.base import BaseSegmentor
from torch import nn
from torch.nn import functional as F

COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]  # of the classes, in the images' own order of channels


def of_colours(inputs):
    """Images, (N, 3, H, W), 0 to 255 -> how much each pixel is of each class, (N, 4, H, W)."""
    colours = torch.tensor(COLOURS, dtype=torch.float32, device=inputs.device)
    distance = (inputs[:, None] - colours[None, :, :, None, None]).square().sum(2)
    return F.one_hot(distance.argmin(1), len(COLOURS)).permute(0, 3, 1, 2).float()


@MODELS.register_module()
class PerfectSegmentor(BaseSegmentor):
    """Logits by mmseg's rules: of ``num_classes``, or one for "not background"; ``first`` is the class of black."""

    align_corners = False

    def __init__(self, num_classes, first=0, out_channels=None):
        super().__init__(data_preprocessor=dict(type='mmseg.SegDataPreProcessor'))
        self.num_classes, self.first, self.out_channels = num_classes, first, out_channels or num_classes
        self.decode_head = nn.Linear(1, 1)
        self.decode_head.threshold = 0.3

    def predict(self, inputs, data_samples=None):
        classes = of_colours(inputs.float())[:, self.first:]
        if self.out_channels == 1:
            logits = 20 * (0.5 - classes[:, :1])
        else:
            logits = F.pad(20 * classes, (0, 0, 0, 0, 0, self.num_classes - classes.shape[1]), value=-20.)
        return self.postprocess_result(logits, data_samples)

    def forward(self, inputs, data_samples=None, mode='predict'):
        return self.predict(inputs, data_samples)

    extract_feat = encode_decode = loss = _forward = None


@MODELS.register_module()
class PerfectDetector(BaseDetector):
    """One box for each class that an image shows."""

    def __init__(self):
        super().__init__(data_preprocessor=dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=32))
        self.weight = nn.Parameter(torch.zeros(1))

    def predict(self, inputs, data_samples, rescale=True):
        results = []
        for shown, sample in zip(of_colours(inputs.float()), data_samples, strict=True):
            labels = [label for label in range(3) if shown[label + 1].any()]
            boxes = [cv2.boundingRect(shown[label + 1].numpy().astype(np.uint8)) for label in labels]
            boxes = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes], dtype=torch.float32).view(-1, 4)
            results.append(InstanceData(bboxes=boxes / boxes.new_tensor(sample.scale_factor).repeat(2),
                                        scores=torch.ones(len(boxes)), labels=torch.tensor(labels, dtype=torch.int64)))
        return self.add_pred_to_datasample(data_samples, results)

    extract_feat = loss = _forward = None


@MODELS.register_module()
class PerfectClassifier(BaseModel):
    """The class of the colour on the left, and after a flip on the right."""

    def __init__(self):
        super().__init__(data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'))
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs, data_samples=None, mode='predict'):
        for shown, sample in zip(of_colours(inputs.float()), data_samples, strict=True):
            shown = shown.flip(-1) if sample.get('flip') else shown
            sample.set_pred_score(shown[..., :2].mean((1, 2)))
        return data_samples


def draw(folder, number=4, sizes=((60, 80), (72, 64))):
    """Images, masks, a COCO file, VOC's XML, and lists; nothing in them is symmetric.

    Below ``folder``: ``images/*.png``, ``masks/*.png``, ``binary/*.png`` (all objects are 1), ``boxes.json``;
    as VOC has it ``JPEGImages``, ``Annotations``, ``list.txt``; for classifiers ``halves`` and ``labels.txt``.
    """
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for name in ('images', 'masks', 'binary', 'JPEGImages', 'Annotations'):
        (folder / name).mkdir()
    for i in range(number):
        height, width = sizes[i % len(sizes)]
        mask = np.zeros((height, width), np.uint8)
        objects = []
        for label in generator.permutation([1, 2, 3])[:2 + i % 2]:
            y = 4 + 20 * len(objects)  # in rows, so that none covers another
            x, w, h = int(generator.integers(0, 12)), int(generator.integers(20, 36)), 16
            mask[y:y + h, x:x + w] = label
            objects.append((int(label) - 1, (x, y, w, h)))
        image = np.array(COLOURS, np.uint8)[mask]
        cv2.imwrite(str(folder / 'images' / f'{i}.png'), image)
        # Without the coarser colours of JPEG, by which edges would move.
        cv2.imwrite(str(folder / 'JPEGImages' / f'{i}.jpg'), image,
                    [cv2.IMWRITE_JPEG_QUALITY, 100,
                     cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])
        cv2.imwrite(str(folder / 'masks' / f'{i}.png'), mask)
        cv2.imwrite(str(folder / 'binary' / f'{i}.png'), (mask > 0).astype(np.uint8))
        images.append(dict(id=i, file_name=f'{i}.png', height=height, width=width))
        text = ''
        for label, (x, y, w, h) in objects:
            annotations.append(dict(id=len(annotations) + 1, image_id=i, category_id=label, bbox=(x, y, w, h),
                                    area=w * h, iscrowd=0))
            text += (f'<object><name>{"abc"[label]}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin><ymin>'
                     f'{y + 1}</ymin><xmax>{x + w + 1}</xmax><ymax>{y + h + 1}</ymax></bndbox></object>')
        (folder / 'Annotations' / f'{i}.xml').write_text(
            f'<annotation><size><width>{width}</width><height>{height}</height></size>{text}</annotation>',
            encoding='utf-8')
    (folder / 'boxes.json').write_text(json.dumps(dict(
        images=images, annotations=annotations, categories=[dict(id=i, name=name) for i, name in enumerate('abc')])),
        encoding='utf-8')
    (folder / 'list.txt').write_text('\n'.join(str(i) for i in range(number)), encoding='utf-8')
    _draw_halves(folder)


def _draw_halves(folder):
    """Images for classifiers: black, but for a strip on the left in the colour of the class."""
    (folder / 'halves').mkdir()
    for label in range(len(COLOURS)):
        image = np.zeros((32, 32, 3), np.uint8)
        image[:, :16] = COLOURS[label]
        cv2.imwrite(str(folder / 'halves' / f'{label}.png'), image)
    labels = '\n'.join(f'{label}.png {label}' for label in range(len(COLOURS)))
    (folder / 'labels.txt').write_text(labels, encoding='utf-8')
