"""Lines in the log of the run that goes on."""
import logging

from mmengine.logging import print_log


def tell(line: str) -> None:
    """Log a line."""
    print_log(line, 'current')


def warn(line: str) -> None:
    """Log a warning."""
    print_log(line, 'current', logging.WARNING)
