"""``python -m mobileone_mm SCRIPT [ARGUMENT ...]``: run a script of mm with this package imported.

``python -m mobileone_mm env`` prints what is installed, for a report of a fault.

mmdet's and mmseg's tools import their library before they read a config. With this package imported
before that, they find the stand-in for mmcv's compiled operators, load checkpoints safely, and know
MobileOne whatever the config imports.
"""
import os.path as osp
import runpy
import sys

from .engine.imports import explain_import
from .utils.errors import MissingFileError, errors_in_one_line
from .utils.files import installed_file


def find_script(name: str) -> str:
    """The path of a script: ``name`` itself, or an mm tool such as mmdet/analysis_tools/get_flops.py.

    Raises:
        MissingFileError: It is neither.
    """
    if osp.isfile(name):
        return name
    package, _, path = name.partition('/')
    script = installed_file(package, f'tools/{path}') if package.isidentifier() else None
    if script is None:
        raise MissingFileError(f'There is no script {name!r}, nor a tool of an installed mm package. Give a path, '
                               'or PACKAGE/PATH_BELOW_TOOLS such as mmdet/analysis_tools/get_flops.py.')
    return script


def main() -> None:
    """Run the script that the command line names, with the arguments after it."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] in ('-h', '--help'):
        print(__doc__)
        return
    if sys.argv[1:] == ['env']:
        from .apis.environment import environment  # with all formats, which other scripts need not wait for
        for what, found in environment().items():
            print(f'{what}: {found}')
        return
    with errors_in_one_line():
        script = find_script(sys.argv[1])
        sys.argv[:2] = [script]
        sys.path[0] = osp.dirname(osp.abspath(script))  # as Python does for a script
        try:
            runpy.run_path(script, run_name='__main__')
        except ImportError as error:
            explain_import(f'{osp.basename(script)} or its config', error)
            raise


if __name__ == '__main__':
    main()
