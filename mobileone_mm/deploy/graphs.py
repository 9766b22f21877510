"""A module as a file that a runtime reads: ONNX, TorchScript, OpenVINO, Core ML."""
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..utils.errors import ConfigError, require
from ..utils.files import atomic_file


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's lines about torchvision's operators, which no model here has."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def trace_onnx(model: nn.Module, example: Tensor, input_name: str, output_names: Sequence[str], dynamic: bool = False):
    """A module in eval mode as an ``onnx.ModelProto``.

    Args:
        model: Module of one input.
        example: Input, (N, C, H, W).
        input_name: Name of the input in the graph.
        output_names: Names of the outputs, in order.
        dynamic: Whether batch, height and width may vary; otherwise they are those of ``example``.

    Raises:
        MissingPackageError: onnx or onnxscript is not installed.
        ConfigError: This torch does not export the network; torch 2.6 not some segmentors with free sizes.
    """
    require('onnx')
    require('onnxscript')
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    try:
        with torch.no_grad(), _quiet_exporter():
            program = torch.onnx.export(
                model, (example, ), dynamo=True, verbose=False, input_names=[input_name],
                output_names=list(output_names), dynamic_shapes=(free, ) if dynamic else None)
    except torch.onnx.OnnxExporterError as error:
        reason = ' '.join(str(error.__cause__ or error).split())[:300]
        sizes, remedy = (' with free sizes', 'Leave --dynamic out, or take') if dynamic else ('', 'Take')
        raise ConfigError(f'torch {torch.__version__} does not export this network to ONNX{sizes}: {reason}. {remedy} '
                          'another torch; 2.13.0 was tried.') from error
    proto = program.model_proto
    if dynamic:
        _rename_sizes(proto)
    return proto


def _rename_sizes(proto) -> None:
    """Free sizes by the names a reader expects, instead of the exporter's s77, in inputs and outputs."""
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    names = {size.dim_param: name for size, name in zip(sizes, ('batch', '', 'height', 'width'), strict=True)
             if size.dim_param}
    pattern = re.compile(r'\b(' + '|'.join(names) + r')\b')
    for value in (*proto.graph.input, *proto.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = pattern.sub(lambda match: names[match[0]], size.dim_param)


# Per class, the boxes that NMS leaves keep their score and the others get 0; the best of all classes are the
# answer.
_NMS = """
<ir_version: 10, opset_import: ["" : 20]>
nms (float[N,A,4] candidates, float[N,A,C] class_scores) => (float[N,K,4] boxes, float[N,K] scores, int64[N,K] labels)
<int64[1] limit = {{{limit}}}, float[1] iou_threshold = {{{iou}}}, float[1] zero = {{0}}, int64[2] rows = {{0, -1}},
 int64[1] last = {{-1}}, int64 none = {{-1}}>
{{
    by_class = Transpose<perm = [0, 2, 1]>(class_scores)
    selected = NonMaxSuppression(candidates, by_class, limit, iou_threshold, zero)
    kept = GatherND(by_class, selected)
    nothing = Sub(by_class, by_class)
    kept_by_class = ScatterND(nothing, selected, kept)
    flat = Reshape(kept_by_class, rows)
    flat_size = Shape<start = 1, end = 2>(flat)
    count = Min(limit, flat_size)
    scores, index = TopK(flat, count)
    num_boxes = Shape<start = 1, end = 2>(candidates)
    box = Mod(index, num_boxes)
    box_index = Unsqueeze(box, last)
    best = GatherND<batch_dims = 1>(candidates, box_index)
    is_box = Greater(scores, zero)
    is_box_float = Cast<to = 1>(is_box)
    is_box_column = Unsqueeze(is_box_float, last)
    boxes = Mul(best, is_box_column)
    label = Div(index, num_boxes)
    labels = Where(is_box, label, none)
}}
"""


def append_nms(proto, iou_threshold: float, max_per_img: int):
    """Put NMS behind a detector's graph: what :func:`.wrappers.select_boxes` does, in ONNX's operators.

    Args:
        proto: Graph with outputs ``boxes``, (N, A, 4), and ``scores``, (N, A, num_classes), 0 where there is no
            candidate.
        iou_threshold: IoU above which the worse of two boxes of a class is dropped.
        max_per_img: Number K of boxes to return at most.

    Returns:
        Graph with outputs ``boxes`` (N, K, 4), ``scores`` (N, K), ``labels`` (N, K).
    """
    onnx = require('onnx')
    nms = onnx.parser.parse_model(_NMS.format(limit=max_per_img, iou=iou_threshold))
    nms.ir_version, nms.opset_import[0].version = proto.ir_version, proto.opset_import[0].version
    proto = onnx.compose.add_prefix(proto, 'candidates_', rename_inputs=False)
    return onnx.compose.merge_models(
        proto, nms, io_map=[('candidates_boxes', 'candidates'), ('candidates_scores', 'class_scores')])


def write_onnx(proto, path: str | Path) -> None:
    """Write an ``onnx.ModelProto`` to one file, after checking it, or leave no file."""
    onnx = require('onnx')
    onnx.checker.check_model(proto, full_check=True)
    with atomic_file(path) as file:
        file.write(proto.SerializeToString())
