"""Core ML: a package, which is a folder. There is no runtime for it outside of Apple's systems."""
import json
import shutil

from ...utils.errors import require
from .base import INPUT, META, Format, Job, complete_files, trace


def _write(job: Job) -> None:
    tools = require('coremltools')
    shape = tuple(job.example.shape)
    layout = {1: tools.colorlayout.GRAYSCALE, 3: tools.colorlayout.RGB}.get(shape[1])
    package = tools.convert(
        trace(job.model, job.example), convert_to='mlprogram', minimum_deployment_target=tools.target.iOS16,
        inputs=[tools.TensorType(INPUT, shape) if layout is None else
                tools.ImageType(INPUT, shape, color_layout=layout)],
        outputs=[tools.TensorType(name) for name in job.model.output_names],
        compute_precision=tools.precision.FLOAT16 if job.half else tools.precision.FLOAT32, skip_model_load=True)
    package.input_description[INPUT] = job.meta['input']
    for name, text in job.meta['outputs'].items():
        package.output_description[name] = text
    package.user_defined_metadata[META] = json.dumps(job.meta)
    with complete_files(job.out) as path:
        package.save(str(path))
        if job.out.exists():
            shutil.rmtree(job.out)


FORMAT = Format('coreml', 'Core ML', '.mlpackage', _write, None, note='no: converted and read back only',
                writers=dict(coremltools='coremltools'),
                refuses=dict(batch='Leave --batch out.', dynamic='Name one size by --shape.',
                             nms='Leave --nms out, and let the app select boxes.',
                             int8='Leave --int8 out; coremltools quantizes packages too.'))
