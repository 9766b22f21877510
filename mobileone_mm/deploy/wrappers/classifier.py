"""Classifiers as one function from pixels to probabilities."""
from torch import Tensor, nn

from ...utils.errors import ConfigError
from .base import Deployable


class DeployableClassifier(Deployable):
    """A classifier of mmpretrain: the probability of each class, by softmax.

    Shapes: (N, C, H, W) -> ``scores`` (N, num_classes).

    Args:
        model: mmpretrain classifier.

    Raises:
        ConfigError: The classifier predicts in another way than by softmax of its head's output.
    """

    task = 'classification'
    output_names = ('scores', )

    def __init__(self, model: nn.Module):
        from mmpretrain.models import ClsHead, ImageClassifier

        head = getattr(model, 'head', None)
        if type(model) is not ImageClassifier or not isinstance(head, ClsHead) \
                or any(getattr(type(head), name) is not getattr(ClsHead, name)
                       for name in ('predict', '_get_predictions')):
            raise ConfigError(f'Cannot export {type(model).__name__} with {type(head).__name__}. Allowed are '
                              "ImageClassifiers whose head predicts one class, by softmax, as mmpretrain's ClsHead: "
                              'LinearClsHead, ...')
        super().__init__(model)

    def forward(self, image: Tensor) -> Tensor:
        """Images -> probabilities."""
        return self.model.head(self.model.extract_feat(self.prepare(image))).float().softmax(1)
