"""`sb3-pwm extract --ray-address`: extractions on a Ray cluster of this machine."""

import contextlib
import socket
import time

import psutil
import pytest
from ray.cluster_utils import Cluster
from suites import hide_package
from test_extract import (
    TWO_TASKS,
    check_same_policies,
    each_worker,
    extract,
    folder,  # noqa: F401  (a fixture)
    kill_the_first,
)

from sb3_pwm.extract.ray_cluster import RemoteProgress, check_address


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Ray of these tests: no tokens, and workers of the usual priority, which else hardly run beside other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def cluster():
    """Address of a Ray cluster with two cores."""
    # Ray's own cluster for tests, which takes ports that are free: the workers of pytest-xdist have one each.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


def ray_workers():
    """:return: Processes of Ray that extract a policy."""
    workers = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith("ray::_work"):
                workers.append(process)
    return workers


def test_a_cluster_gives_the_same_also_after_a_kill(folder, cluster, tmp_path, capsys):  # noqa: F811
    extract(folder, *TWO_TASKS, "--out", tmp_path / "one")
    capsys.readouterr()
    with each_worker(kill_the_first, ray_workers) as seen:
        extract(folder, *TWO_TASKS, "--out", tmp_path / "ray", "--ray-address", cluster)
    assert seen  # the first of them was killed
    assert "cup-spin, seed 0: return" in capsys.readouterr().out
    assert not ray_workers()
    check_same_policies(tmp_path / "one", tmp_path / "ray")
    extract(folder, *TWO_TASKS, "--out", tmp_path / "ray", "--ray-address", cluster)
    assert "2 policies, 2 of them extracted before" in capsys.readouterr().out


def test_failures_on_a_cluster_stop_no_other(folder, tmp_path, capsys):  # noqa: F811
    arguments = ["--tasks", "cup-spin", "cup-catch", "walker-walk", "--seeds", 0, "--out", tmp_path]
    with pytest.raises(SystemExit) as error:
        extract(folder, *arguments, "--ray-address", "local")
    assert error.value.code == 1
    output = capsys.readouterr().out
    assert "cup-spin, seed 0: failed: The world model has no task 'cup-spin'" in output
    assert "cup-catch, seed 0: return" in output
    assert "walker-walk, seed 0: failed: The world model has no task" in output or "no task 'walker-walk'" in output


def test_an_extraction_whose_worker_is_killed_twice_fails(folder, cluster, tmp_path, capsys):  # noqa: F811
    with each_worker(lambda worker, _: worker.kill(), ray_workers), pytest.raises(SystemExit) as error:
        extract(folder, *TWO_TASKS, "--out", tmp_path, "--ray-address", cluster)
    assert error.value.code == 1
    output = capsys.readouterr().out
    for task in ("cup-spin", "cup-catch"):
        assert f"{task}, seed 0: failed: Its process was killed 2 times" in output


def test_an_address_that_does_not_answer_is_named_in_seconds(folder, tmp_path, capsys):  # noqa: F811
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nothing listens
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(SystemExit) as error:
            extract(folder, *TWO_TASKS, "--out", tmp_path, "--ray-address", address)
    assert error.value.code == 2
    assert time.monotonic() - start < 30.0
    assert f"No Ray cluster answers at {address}" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["cluster", "cluster:", ":6379", "cluster:port", "cluster:0", "cluster:99999"])
def test_bad_addresses(address):
    with pytest.raises(ValueError, match="--ray-address must be host:port"):
        check_address(address)


def test_without_ray_or_with_jobs(folder, tmp_path, capsys, monkeypatch):  # noqa: F811
    with pytest.raises(SystemExit):
        extract(folder, *TWO_TASKS, "--out", tmp_path, "--ray-address", "local", "--jobs", 2)
    assert "leave it out with --ray-address" in capsys.readouterr().err
    hide_package(monkeypatch, "ray")
    with pytest.raises(SystemExit):
        extract(folder, *TWO_TASKS, "--out", tmp_path, "--ray-address", "local")
    assert 'pip install "sb3-pwm[ray]"' in capsys.readouterr().err


def test_progress_is_sent_now_and_then(monkeypatch):
    class Board:
        def __init__(self):
            self.write, self.received = self, []

        def remote(self, values):
            self.received.append(dict(values))

    times = iter([0.0, 0.5, 2.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    board = Board()
    progress = RemoteProgress(board)
    for updates in range(3):
        progress[4] = updates
    assert board.received == [{4: 0}, {4: 2}]
