"""The project's folder, and where real images and weights lie."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get('MOBILEONE_TEST_DATA', ROOT / 'data' / 'test'))


def real_data(name):
    """Folder of real images or weights, or a skip."""
    if not (DATA / name).is_dir():
        pytest.skip(f'no {name} below {DATA}; set MOBILEONE_TEST_DATA')
    return DATA / name
