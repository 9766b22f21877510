"""A trained model exported and tested, as the tools do."""
from pathlib import Path
from typing import NamedTuple

from ..apis.launch import build_test
from ..apis.test_options import prepare_test
from ..datasets.check import datasets
from ..deploy.export import export


class Score(NamedTuple):
    """Of a test: all ``metrics`` by their names, the number of ``images``, and the file of the ``first`` one."""

    metrics: dict[str, float]
    images: int
    first: str


class TrainedModel:
    """A config with its checkpoint.

    Args:
        config: Config that it was trained with.
        checkpoint: Its checkpoint.
        cfg_options: As ``--cfg-options``.
    """

    def __init__(self, config: str | Path, checkpoint: str | Path, cfg_options: dict | None = None):
        self._config = config
        self._checkpoint = checkpoint
        self._cfg_options = cfg_options or {}

    def export(self, out: Path, fmt: str, shape: tuple[int, int], calibration: str | Path | None) -> int:
        """Write a file, and return its bytes; arguments, and what it raises, as :func:`..deploy.export.export`."""
        return export(self._config, self._checkpoint, out, fmt, shape=shape, calibration=calibration,
                      cfg_options=self._cfg_options)['bytes']

    def test(self, file: Path | None, work_dir: Path, images: int | None = None) -> Score:
        """Test as ``tools/test.py`` does, and raise what it raises.

        Args:
            file: An exported file of this model; None: the checkpoint.
            work_dir: Folder for logs.
            images: Of each dataset the first so many, instead of all.
        """
        options = self._cfg_options
        if file is not None:  # the file was exported with them, and refuses others
            options = {key: value for key, value in options.items()
                       if not key.startswith('model.') or key.startswith('model.test_cfg')}
        cfg = prepare_test(self._config, file or self._checkpoint, work_dir=work_dir, cfg_options=options)
        if images is not None:
            for dataset in datasets(cfg.test_dataloader.dataset):
                dataset.indices = images
        runner = build_test(cfg)
        dataset = runner.test_loop.dataloader.dataset
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        if images is not None:
            for metric in runner.test_evaluator.metrics:
                if hasattr(metric, 'img_ids'):  # COCO's: else all images of its file count, as missed
                    metric.img_ids = [info['img_id'] for info in infos]
        return Score(runner.test(), len(infos), infos[0]['img_path'])
