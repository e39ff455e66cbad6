"""Settings that every test shares."""

import os
from pathlib import Path
from typing import Any

# Before torch is imported. Tests, and the processes that they start, run on small shared machines.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch as th
from stable_baselines3.common.utils import set_random_seed

import sb3_pwm  # noqa: F401  (registers the environments)

th.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed each test: it draws the same random numbers alone, in the whole suite and on every worker."""
    set_random_seed(0)


@pytest.fixture
def minari_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that Minari reads and writes."""
    pytest.importorskip("minari", reason="needs Minari: pip install 'sb3-pwm[minari]'")
    folder = tmp_path / "minari"
    folder.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of a class on one worker, since they share costly fixtures. Other tests go to any free worker."""
    from xdist.scheduler import LoadScopeScheduling  # this hook exists only with pytest-xdist

    class LoadClassScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.rpartition("::")[0] if nodeid.count("::") > 1 else nodeid

    return LoadClassScheduling(config, log)
