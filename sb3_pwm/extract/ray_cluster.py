"""Extractions on a Ray cluster."""

import dataclasses
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch as th

from sb3_pwm.common.files import atomic_write
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.environments import stored_name
from sb3_pwm.extract.jobs import ATTEMPTS, KILLED, CommonSettings, Job, Outcome, Progress, extract

CONNECTION_TIMEOUT = 5.0
"""Seconds within which an address has to answer. Ray itself waits for minutes."""
PROGRESS_INTERVAL = 1.0
"""Seconds between two messages about the progress of an extraction"""


class Written(NamedTuple):
    """An extraction that ended on a machine of the cluster."""

    outcome: Outcome
    files: dict[str, bytes]
    """What it wrote, by the name of the file"""


class ProgressBoard:
    """Actor that the extractions tell their progress, and that the driver reads it from."""

    def __init__(self) -> None:
        self._values: dict[int, float] = {}

    def write(self, values: dict[int, float]) -> None:
        """:param values: Elements of :class:`~sb3_pwm.extract.jobs.Progress`, by index."""
        self._values.update(values)

    def read(self) -> dict[int, float]:
        """:return: All elements so far, by index."""
        return self._values


class RemoteProgress:
    """
    What an extraction writes its progress into: it reaches the board now and then.

    :param board: Handle of a :class:`ProgressBoard`.
    """

    def __init__(self, board: Any):
        self._board = board
        self._values: dict[int, float] = {}
        self._last = -float("inf")

    def __setitem__(self, index: int, value: float) -> None:
        self._values[index] = value
        now = time.monotonic()
        if now - self._last >= PROGRESS_INTERVAL:
            self._last = now
            self._board.write.remote(self._values)


def extract_on_ray(
    jobs: Sequence[Job],
    common: CommonSettings,
    dataset: OfflineDataset,
    address: str,
    progress: Progress,
    report: Callable[[Outcome], None],
) -> None:
    """
    Extract policies on a Ray cluster, as many at a time as it has cores (GPUs, if the device is one).

    The machines need this package, and nothing of the files: the world model and the data of each task are sent to
    them, and the policies come back. An extraction whose process is killed is begun again once.

    :param jobs: The extractions.
    :param common: What all extractions have in common.
    :param dataset: The data.
    :param address: Address of the cluster, see :func:`connect`.
    :param progress: Gets the progress of the extractions.
    :param report: Function that is called with each outcome.
    :raises ConnectionError: If the address does not answer.
    :raises ImportError: If Ray is not installed.
    """
    ray = connect(address)
    try:
        has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
        uses_gpu = common.device.startswith("cuda") or (common.device == "auto" and has_gpu)
        board = ray.remote(num_cpus=0)(ProgressBoard).remote()
        work = ray.remote(
            num_cpus=common.threads,
            num_gpus=1 if uses_gpu else 0,
            max_retries=ATTEMPTS - 1,
            max_calls=1,  # a process for each extraction: its seeds are set and its memory is freed
        )(_work)
        world_model = ray.put(common.world_model.read_bytes())
        data, running = {}, {}
        for job in jobs:
            name = stored_name(job.task, dataset.tasks)
            if name not in dataset.tasks:
                report(extract(job, common, dataset, progress))  # it fails at once, and says why
                continue
            if name not in data:
                data[name] = ray.put(dataset.select([name]).in_memory())
            running[work.remote(job, common, world_model, data[name], board)] = job
        while running:
            done, _ = ray.wait(list(running), timeout=PROGRESS_INTERVAL)
            for reference in done:
                job = running.pop(reference)
                report(_collect(ray, reference, job))
            for index, value in ray.get(board.read.remote()).items():
                progress[index] = value
    finally:  # also after Ctrl-C: what is extracted at this moment is given up
        ray.shutdown()


def connect(address: str) -> Any:
    """
    Connect to a Ray cluster. Ray waits for minutes where nothing answers: call :func:`check_address` first.

    :param address: ``host:port``, ``ray://host:port``, ``auto`` (the cluster that runs on this machine), or ``local``
        (a cluster of this machine, as long as the command runs).
    :return: The module ``ray``, connected.
    :raises ConnectionError: If the address does not answer.
    :raises ImportError: If Ray is not installed.
    """
    try:
        # Ray is an optional package.
        import ray
    except ImportError as error:
        raise ImportError('--ray-address needs Ray: pip install "sb3-pwm[ray]"') from error
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(
            f"--ray-address {address}: {error} (A cluster that asks for a token needs RAY_AUTH_MODE=token here, too.)"
        ) from error
    return ray


def check_address(address: str) -> None:
    """
    Check that an address answers.

    :param address: Argument of :func:`connect`.
    :raises ConnectionError: If nothing listens there.
    :raises ValueError: If the address has another form.
    """
    if address in ("auto", "local"):
        return
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--ray-address must be host:port, ray://host:port, auto or local, got {address!r}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTION_TIMEOUT).close()
    except OSError as error:
        raise ConnectionError(f"No Ray cluster answers at {address}: {error}") from error


def _work(job: Job, common: CommonSettings, world_model: bytes, dataset: OfflineDataset, board: Any) -> Written:
    """Extract a policy on a machine of the cluster."""
    th.set_num_threads(common.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model_file = folder / common.world_model.name
        model_file.write_bytes(world_model)
        results = folder / "results"
        results.mkdir()
        here = dataclasses.replace(job, file=results / job.file.name)
        outcome = extract(here, dataclasses.replace(common, world_model=model_file), dataset, RemoteProgress(board))
        error = outcome.error.replace(str(results), str(job.file.parent))
        files = {file.name: file.read_bytes() for file in results.iterdir()}
    return Written(outcome._replace(job=job, error=error), files)


def _collect(ray: Any, reference: Any, job: Job) -> Outcome:
    """:return: What became of an extraction, after its files were written."""
    try:
        outcome, files = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError):
        return Outcome(job, KILLED)
    except ray.exceptions.RayError as error:
        return Outcome(job, f"{type(error).__name__}: {str(error).splitlines()[0]}")
    # The result is written last: if it is there, the model is complete.
    for name in sorted(files, key=lambda name: name == job.file.name):
        with atomic_write(job.file.parent / name) as stream:
            stream.write(files[name])
    return outcome
