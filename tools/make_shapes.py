"""Draw the dataset of coloured shapes, in the formats of COCO, VOC and ImageNet."""
import argparse

from mobileone_mm.datasets.shapes import make_shapes
from mobileone_mm.utils.errors import errors_in_one_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', help='folder to write, e.g. data/shapes')
    parser.add_argument('--num-train', type=int, default=2400, help='training images (default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=100, help='validation images (default: %(default)s)')
    parser.add_argument('--size', type=int, default=160, help='height and width in pixels (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of all images (default: %(default)s)')
    args = parser.parse_args()
    with errors_in_one_line():
        make_shapes(args.out, args.num_train, args.num_val, args.size, args.seed)


if __name__ == '__main__':
    main()
