"""A hook that checks COCO files against what mm reads, and against the images."""
import os.path as osp

from mmengine.registry import HOOKS

from ...datasets.boxes import nothing_to_learn
from ...datasets.built import is_coco, is_kind, spread
from ...datasets.coco import check_entries, read_coco, warn_of_corners
from ...datasets.explain import check_unbuilt
from ...datasets.sizes import check_sizes
from ...utils.errors import DataError
from ...utils.logs import tell, warn
from .data_check import DataCheckHook, coco_of, datasets_of, metric_files, metrics_of

_ONE_FILE = ('Merge the annotation files into one, with an id for each image, and write one dataset and the evaluator '
             'with it, instead of several datasets')
_SWITCH = 'To go on anyway: --cfg-options default_hooks.coco_fit=None'


@HOOKS.register_module()
class CocoFitHook(DataCheckHook):
    """Checks the COCO files of a detector's datasets and metrics, and the sizes of their images.

    - Entries that lack what mm reads, or have an id twice: in files of at most ``max_megabytes``, which are read once
      more for that (as long as mmdet takes to read them), and in those of metrics, which hold them in memory. Of a
      larger file, a missing entry is said where mm ends because of it. ``iscrowd``, where the metric's file lacks it,
      is set to 0 in memory, as mmdet takes it in training; COCO's evaluation would end in a KeyError at the
      first validation.
    - Width and height: in the headers of at most 200 images of each dataset, at equal distances; images with a reason
      are loaded as the dataset does. Images with an EXIF tag may be turned while loaded, and their boxes not.
    - Training data without one box to learn from, which trains on background alone. Of validation
      and test data, this is a warning.
    - Before training also the files of the test data, entries and names of classes: a warning, as
      they are not used yet.
    - A metric whose file has other images than the dataset, of which at most 200 are compared; of several datasets,
      an id that images of two of them have.
    - Boxes that look like x1, y1, x2, y2: a warning.

    To switch it off under our own tools: ``default_hooks.coco_fit=None``.

    Args:
        max_megabytes: Of COCO files that are read as a whole.

    Raises:
        DataError: Naming the file and the entry, or the image.
    """

    def __init__(self, max_megabytes: float = 64) -> None:
        super().__init__()
        self.max_megabytes = max_megabytes
        self._files = set()  # that have been checked, as absolute paths

    def before_train(self, runner) -> None:
        """Check training and validation data; of the test data, which mm does not read yet, what can be warned of."""
        super().before_train(runner)
        cfg = getattr(runner, 'cfg', None) or {}
        try:
            check_unbuilt(cfg, 'test', self.max_megabytes, self._files)
        except DataError as error:
            warn(f'Testing with this config will end in an error: {error}')

    def check(self, runner, split: str) -> None:
        """Check one split."""
        pairs = [(dataset, data) for dataset, data in datasets_of(runner, split) if is_coco(dataset)]
        metrics = [(coco_of(metric), file or f"{split}_evaluator's ann_file")
                   for metric, file in zip(metrics_of(runner, split), metric_files(runner, split), strict=True)]
        metrics = [(coco, file) for coco, file in metrics if coco is not None]
        for coco, file in metrics:
            check_entries(coco.dataset, file)
            self._fill_iscrowd(coco, file)
            warn_of_corners(coco.dataset, file)
            for dataset, data in pairs:
                _check_images(coco, file, dataset, data, len(pairs))
            self._files.add(osp.abspath(file))
        if metrics and len(pairs) > 1:
            _check_parts(pairs, metrics[0][1])
        for dataset, _ in pairs:
            if osp.isfile(dataset.ann_file) and osp.abspath(dataset.ann_file) not in self._files:
                self._check_file(dataset.ann_file)
                self._files.add(osp.abspath(dataset.ann_file))
        # VOC's XML files too, which mm holds in the same form.
        pairs = [(dataset, data) for dataset, data in datasets_of(runner, split)
                 if is_coco(dataset) or is_kind(dataset, 'XMLDataset')]
        reason = nothing_to_learn(dataset for dataset, _ in pairs) if pairs else None
        if reason and split == 'train':
            raise DataError(f'{pairs[0][1]}: {reason}. {_SWITCH}.')
        if reason:
            warn(f'{pairs[0][1]}: {reason}.')
        for dataset, data in pairs:
            check_sizes(dataset, data)

    def _check_file(self, file: str) -> None:
        size = osp.getsize(file) / 1e6
        if size > self.max_megabytes:
            tell(f'{file} has {size:.0f} MB, more than max_megabytes={self.max_megabytes} of CocoFitHook: its entries '
                 'were not looked through before.')
        else:
            content = read_coco(file)
            check_entries(content, file)
            warn_of_corners(content, file)

    @staticmethod
    def _fill_iscrowd(coco, file: str) -> None:
        lacking = [annotation for annotation in coco.anns.values() if 'iscrowd' not in annotation]
        for annotation in lacking:
            annotation['iscrowd'] = 0
        if lacking:
            tell(f'{file}: {len(lacking)} of {len(coco.anns)} annotations have no iscrowd. It is taken as 0.')


def _check_images(coco, file: str, dataset, data: str, parts: int = 1) -> None:
    """A metric finds the truth of an image by its id, whatever image has that id in its file."""
    for index in spread(len(dataset), 200):
        info = dataset.get_data_info(index)
        image = coco.imgs.get(info.get('img_id'))
        name = osp.basename(info['img_path'])
        if image is None or osp.basename(image['file_name']) != name:
            got = 'no image' if image is None else repr(image['file_name'])
            remedy = 'Give the evaluator the ann_file of its dataset' if parts == 1 else _ONE_FILE
            raise DataError(f'{file}, the ann_file of the evaluator, has {got} with the id {info["img_id"]!r}, but '
                            f'{data} has {name!r}. {remedy}.')


def _check_parts(pairs: list[tuple], file: str) -> None:
    """Of images with one id, a metric keeps one. Images of parts may have one name, each in its folder."""
    owners = {}
    for part, (dataset, data) in enumerate(pairs):
        for index in range(len(dataset)):
            id_ = dataset.get_data_info(index).get('img_id')
            first = owners.setdefault(id_, part)
            if first != part:
                raise DataError(f'{pairs[first][1]} and {data} both have an image with the id {id_!r}, which the '
                                f'evaluator, with {file}, takes for one image. {_ONE_FILE}.')
