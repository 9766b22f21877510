# Names and colours (RGB) of the shapes that tools/make_shapes.py draws.
import importlib

drawn = importlib.import_module('mobileone_mm.datasets.shapes')  # mmengine refuses a plain import in such a config
shapes = dict(classes=drawn.CLASSES, palette=list(drawn.PALETTE))
