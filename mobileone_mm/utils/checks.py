"""Checks of arguments."""
from .errors import ArgumentError


def check_bool(name: str, value: bool) -> bool:
    """``value``, if it is a bool: a text such as ``'False'`` would count as true.

    Raises:
        ArgumentError: Naming the argument and what was got.
    """
    if type(value) is not bool:
        raise ArgumentError(f'{name} must be True or False, got {value!r}.')
    return value


def check_number(name: str, value: float) -> float:
    """``value``, if it is an int or a float.

    Raises:
        ArgumentError: Naming the argument and what was got.
    """
    if type(value) not in (int, float):
        raise ArgumentError(f'{name} must be a number, got {value!r}.')
    return value


def check_int(name: str, value: int, least: int, most: int | None = None) -> int:
    """``value``, if it is an int within the range; a bool is none, though Python takes True for 1.

    Raises:
        ArgumentError: Naming the argument, what was got and what is allowed.
    """
    if type(value) is not int or value < least or (most is not None and value > most):
        allowed = f'of at least {least}' if most is None else f'in {least}..{most}'
        raise ArgumentError(f'{name} must be an int {allowed}, got {value!r}.')
    return value
