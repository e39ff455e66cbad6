"""Settings that every test shares."""

import os
from typing import Any

# Before torch is imported: tests run on small shared machines, and so do the subprocesses they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch as th
from stable_baselines3.common.utils import set_random_seed

import sb3_pwm  # noqa: F401  (registers the environments)

th.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test draws the same random numbers alone, among all, and on whichever worker it runs."""
    set_random_seed(0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a class share costly fixtures, and so a worker; every other test goes to whichever is free."""
    from xdist.scheduler import LoadScopeScheduling  # there is no such hook without pytest-xdist

    class LoadClassScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.rpartition("::")[0] if nodeid.count("::") > 1 else nodeid

    return LoadClassScheduling(config, log)
