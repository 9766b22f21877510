# Names and colours (RGB) of the shapes that tools/make_shapes.py draws.
# Not by an import: mmengine takes that for the sign of a pure Python config.
drawn = __import__('mobileone_mm.datasets.shapes', fromlist=['shapes'])
shapes = dict(classes=drawn.CLASSES, palette=list(drawn.PALETTE))
