# Classes and colours (RGB) of the drawn shapes. A test compares them with the values in
# mobileone_mm/datasets/shapes.py.
shapes = dict(
    classes=('circle', 'square', 'triangle', 'star', 'ring'),
    palette=[(220, 60, 60), (60, 160, 60), (70, 90, 220), (230, 190, 40), (170, 70, 190)])
