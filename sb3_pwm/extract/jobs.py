"""Extractions one after the other, or several at a time in processes of their own."""

import contextlib
import dataclasses
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th

from sb3_pwm.common.commands import message_of
from sb3_pwm.common.files import atomic_write
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.extract.policy import ExtractionConfig, extract_policy, write_result
from sb3_pwm.world_model.model import WorldModel

ATTEMPTS = 2
"""Number of times that an extraction is begun if its process is killed"""

KILLED = f"Its process was killed {ATTEMPTS} times; is there enough memory?"
"""Why such an extraction failed"""


@dataclasses.dataclass(frozen=True)
class Job:
    """
    An extraction.

    :param index: Position among all extractions.
    :param task: Name of the task.
    :param env_id: Environment id of the task, with the package that registers it.
    :param seed: Seed of the extraction.
    :param file: File of the result. The model is written beside it.
    """

    index: int
    task: str
    env_id: str
    seed: int
    file: Path

    def __str__(self) -> str:
        return f"{self.task}, seed {self.seed}"

    @property
    def traceback_file(self) -> Path:
        """File of the traceback of an error that nobody foresaw"""
        return self.file.with_suffix(".error.txt")


@dataclasses.dataclass(frozen=True)
class CommonSettings:
    """
    What all extractions have in common.

    :param world_model: File of the world model.
    :param dataset: Sources of the data.
    :param config: Configuration of an extraction.
    :param parameters: Arguments of :class:`~sb3_pwm.PWM`.
    :param device: Device of the networks.
    :param threads: Number of threads of torch in an extraction.
    :param description: Further keys of the results.
    """

    world_model: Path
    dataset: tuple[str, ...]
    config: ExtractionConfig
    parameters: dict[str, Any]
    device: str
    threads: int
    description: dict[str, Any]


class Outcome(NamedTuple):
    """What became of an extraction."""

    job: Job
    error: str = ""
    """Why it failed. Empty if it succeeded"""
    score: float = np.nan
    """Return of the last evaluation"""


class Progress(Protocol):
    """Number of updates, and return of the last evaluation, of each extraction in turn. NaN: none yet"""

    def __setitem__(self, index: int, value: float, /) -> None: ...


def extract(job: Job, common: CommonSettings, dataset: OfflineDataset, progress: Progress) -> Outcome:
    """
    Extract a policy, and write it and its result. No error is raised.

    :param job: The extraction.
    :param common: What all extractions have in common.
    :param dataset: The data.
    :param progress: Gets the progress of the extraction.
    :return: What became of it. The traceback of an error that nobody foresaw is written beside the result.
    """

    def on_progress(updates: int, last_return: float) -> None:
        progress[2 * job.index] = updates
        progress[2 * job.index + 1] = last_return

    on_progress(0, np.nan)
    try:
        # Each extraction gets a model of its own, because a task may be added to it.
        world_model = WorldModel.load(common.world_model)
        model, result = extract_policy(
            world_model, dataset, job.env_id, job.seed, common.config, common.parameters, common.device, on_progress
        )
        write_result(model, {**result, **common.description, "threads": common.threads}, job.file)
    except Exception as error:  # an extraction that fails must not stop the others
        reason = message_of(error)
        if not isinstance(error, ValueError | OSError | ImportError | MemoryError):
            with atomic_write(job.traceback_file) as stream:
                stream.write(traceback.format_exc().encode())
            reason = f"{type(error).__name__}: {reason.rstrip('.')}. The traceback is in {job.traceback_file}."
        return Outcome(job, reason)
    return Outcome(job, score=result["evaluations"][-1]["return"])


def extract_in_processes(
    jobs: Sequence[Job],
    common: CommonSettings,
    processes: int,
    progress: Progress,
    report: Callable[[Outcome], None],
) -> None:
    """
    Extract several policies at a time. An extraction whose process is killed is begun again once.

    :param jobs: The extractions.
    :param common: What all extractions have in common.
    :param processes: Number of processes. Each loads the data, and extracts one policy at a time.
    :param progress: Shared memory that gets the progress of the extractions.
    :param report: Function that is called with each outcome.
    """
    others = set(active_children())
    # Graphics libraries and threads do not survive a fork.
    context = get_context("spawn")

    def start() -> ProcessPoolExecutor:
        # A pool breaks as a whole if one of its processes is killed. So each process has a pool of its own.
        return ProcessPoolExecutor(1, context, _start_worker, (common, progress))

    waiting = deque((job, 1) for job in jobs)
    idle = [start() for _ in range(min(processes, len(jobs)))]
    running: dict[Future[Outcome], tuple[Job, int, ProcessPoolExecutor]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                pool, (job, attempt) = idle.pop(), waiting[0]
                try:
                    with _interruptions_wait():  # submitting starts the process
                        running[pool.submit(_work, job)] = job, attempt, pool
                        waiting.popleft()
                except BrokenProcessPool:  # killed before it had work
                    idle.append(start())
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, attempt, pool = running.pop(future)
                try:
                    report(future.result())
                except BrokenProcessPool:
                    pool = start()
                    if attempt < ATTEMPTS:
                        waiting.appendleft((job, attempt + 1))
                    else:
                        report(Outcome(job, KILLED))
                idle.append(pool)
    finally:  # also after Ctrl-C: what is extracted at this moment is given up
        workers = set(active_children()) - others
        for process in workers:
            process.terminate()
        for pool in (*idle, *(pool for _, _, pool in running.values())):
            pool.shutdown(cancel_futures=True)
        for process in workers:  # an interruption between two lines may have left a pool in neither list
            process.join()


@contextlib.contextmanager
def _interruptions_wait() -> Iterator[None]:
    """Let Ctrl-C wait for the end of a block. A process that is interrupted while it starts is nobody's child."""
    if threading.current_thread() is not threading.main_thread():  # where signals do not arrive
        yield
        return
    arrived: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)
    if arrived:
        signal.raise_signal(signal.SIGINT)


_worker: tuple[CommonSettings, OfflineDataset, Progress]
"""What the extractions of a worker process need"""


def _start_worker(common: CommonSettings, progress: Progress) -> None:
    global _worker
    # Ctrl-C reaches all processes of a terminal. The parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    th.set_num_threads(common.threads)
    _worker = common, OfflineDataset.load(common.dataset), progress


def _end_with_parent() -> None:
    """End this process if its parent is killed. Otherwise it would wait for work forever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: Job) -> Outcome:
    common, dataset, progress = _worker
    return extract(job, common, dataset, progress)
