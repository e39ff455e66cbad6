"""Each example runs, in its smallest form."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside the tests")
def test_quickstart(tmp_path):
    command = [sys.executable, EXAMPLES / "quickstart.py", "--steps", "400", "--out", tmp_path / "new" / "curve"]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "step    250   mean return of 10 episodes" in result.stdout
    assert (tmp_path / "new" / "curve.png").stat().st_size > 5_000
    assert (tmp_path / "new" / "curve.zip").exists()
