"""The switch of everything in this folder: an environment variable."""
import os

VARIABLE = 'MOBILEONE_MM_COMPAT'


def is_on() -> bool:
    """Whether other libraries may be changed: always, unless ``MOBILEONE_MM_COMPAT=0`` is in the environment."""
    return os.environ.get(VARIABLE) != '0'
