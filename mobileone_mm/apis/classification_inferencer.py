"""An inferencer for classifiers that prepares images by the config's whole pipeline.

mmpretrain's own loads images itself, in colour, whatever ``LoadImageFromFile`` says, and is not of mmengine's kind.
"""
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.infer import BaseInferencer
from mmengine.structures import BaseDataElement

from ..datasets.images import load_image


class ClassificationInferencer(BaseInferencer):
    """From image files to mmpretrain's data samples with predictions, which its visualizer draws.

    Called with ``out_dir``, it draws an image into ``vis/NAME.png`` below it.
    """

    visualize_kwargs = {'out_dir'}

    def _init_pipeline(self, cfg: Config) -> Callable:
        return Compose([lambda path: dict(img_path=path), *cfg.test_dataloader.dataset.pipeline])

    def visualize(self, inputs: list[str], preds: list[BaseDataElement], out_dir: str) -> None:
        """Draw the best class of each image."""
        for path, sample in zip(inputs, preds, strict=True):
            self.visualizer.visualize_cls(
                load_image(path)[..., ::-1], sample, classes=self.model.dataset_meta['classes'], draw_gt=False,
                out_file=f'{out_dir}/vis/{Path(path).stem}.png')

    def postprocess(self, preds: list[BaseDataElement], visualization: None,
                    return_datasamples: bool) -> BaseDataElement | list[BaseDataElement]:
        """The data samples; of one image its own, as mmseg's inferencer answers."""
        return preds[0] if len(preds) == 1 else preds
