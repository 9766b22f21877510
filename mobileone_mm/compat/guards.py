"""Whether a ``try`` around an import statement goes on without what it imports."""
import ast
import functools
import linecache
import sys
from collections.abc import Iterator

# Modules with frames between the import statement and here.
_BETWEEN = {__name__, f'{__package__}.stand_in', 'importlib._bootstrap', '_frozen_importlib'}
_IMPORT_ERRORS = {'ImportError', 'ModuleNotFoundError', 'Exception', 'BaseException'}


def import_is_guarded() -> bool:
    """Whether the import statement that runs now stands in a ``try`` which goes on when the import fails.

    Only the statement itself is looked at: not ``import_module()``, nor a ``try`` around the import of the module that
    holds the statement. A handler that ends in ``raise`` does not go on. ``contextlib.suppress`` is understood too.
    Without source at hand (code from a string, bytecode alone, a zip file), the answer is False.
    """
    frame = _importing_frame()
    return frame is not None and any(first <= frame.f_lineno <= last
                                     for first, last in _guarded_imports(frame.f_code.co_filename))


def _importing_frame():
    # sys._getframe is CPython's own, and the only way to know who imports: finders and modules are not told.
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get('__name__') in _BETWEEN:
        frame = frame.f_back
    return frame


@functools.cache
def _guarded_imports(filename: str) -> list[tuple[int, int]]:
    """First and last lines of the guarded import statements of a file."""
    try:
        module = ast.parse(''.join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return []
    return list(_find(module.body, False))


def _find(statements: list[ast.stmt], guarded: bool) -> Iterator[tuple[int, int]]:
    for statement in statements:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            if guarded:
                yield statement.lineno, statement.end_lineno
        elif isinstance(statement, ast.Try):
            yield from _find(statement.body, guarded or any(map(_goes_on, statement.handlers)))
            for handler in statement.handlers:
                yield from _find(handler.body, guarded)
            yield from _find(statement.orelse + statement.finalbody, guarded)
        elif isinstance(statement, ast.With):
            yield from _find(statement.body, guarded or any(_suppresses(item.context_expr) for item in statement.items))
        else:
            # What a function imports, it imports later.
            inside = guarded and not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef))
            yield from _find([*getattr(statement, 'body', ()), *getattr(statement, 'orelse', ())], inside)
            for case in getattr(statement, 'cases', ()):
                yield from _find(case.body, inside)


def _goes_on(handler: ast.ExceptHandler) -> bool:
    return (handler.type is None or _names_import_error(handler.type)) and not isinstance(handler.body[-1], ast.Raise)


def _suppresses(call: ast.expr) -> bool:
    return isinstance(call, ast.Call) and getattr(call.func, 'attr', getattr(call.func, 'id', '')) == 'suppress' \
        and any(map(_names_import_error, call.args))


def _names_import_error(expression: ast.expr) -> bool:
    if isinstance(expression, ast.Tuple):
        return any(map(_names_import_error, expression.elts))
    return getattr(expression, 'attr', getattr(expression, 'id', '')) in _IMPORT_ERRORS
