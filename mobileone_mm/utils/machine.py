"""The machine on which something was measured or went wrong."""
import os
import platform
import re
from pathlib import Path


def cpu_name() -> str:
    """What the processor calls itself, and how many of it there are."""
    cpuinfo = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*:\s*(.+)', cpuinfo.read_text(encoding='utf-8')) if cpuinfo.is_file() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f'{name}, {os.cpu_count()} logical CPUs'
