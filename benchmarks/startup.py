"""
Time that an installed sb3-pwm adds to every start of Python. Interpreters with and without its start-up line run in
turns, both without the rest of site-packages (``-S``).

::

    python benchmarks/startup.py
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median


def seconds(code: str) -> float:
    """:param code: Code that the interpreter runs. :return: Seconds from its start to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-S", "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="starts of each (default: %(default)s)")
    rounds = parser.parse_args().rounds
    line = next((file for folder in sys.path if (file := Path(folder, "sb3_pwm_zoo.pth")).is_file()), None)
    if line is None:
        parser.error("this interpreter has no sb3_pwm_zoo.pth: install sb3-pwm first.")
    # Python's site module runs the file in the same way: line by line, after importing os.
    bare = "import os, sys"
    code = f"{bare}\nfor line in open({str(line)!r}, encoding='utf-8'): exec(line)"
    pairs = [(seconds(code), seconds(bare)) for _ in range(rounds)]
    with_line, without = (1e3 * median(column) for column in zip(*pairs, strict=True))
    ratio = median(one / other for one, other in pairs)
    print(f"with it {with_line:.1f} ms, without {without:.1f} ms, ratio {ratio:.3f} (medians of {rounds})")


if __name__ == "__main__":
    main()
