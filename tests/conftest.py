"""Fixtures of all tests."""
import pytest

from mobileone_mm.datasets.shapes import make_shapes


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    """A small drawn data set."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, num_train=16, num_val=6, size=96)
    return root
