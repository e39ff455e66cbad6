"""Description of the machine of a measurement. Benchmarks import this module."""

import platform
import re
from pathlib import Path


def processor() -> str:
    """:return: Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
