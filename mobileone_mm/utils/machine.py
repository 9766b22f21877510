"""The machine on which something was measured or went wrong, and what is installed there."""
import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def cpu_name() -> str:
    """What the processor calls itself, and how many of it there are."""
    cpuinfo = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*:\s*(.+)', cpuinfo.read_text(encoding='utf-8')) if cpuinfo.is_file() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f'{name}, {os.cpu_count()} logical CPUs'


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions by name, of those packages that are installed by just these names for pip."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
