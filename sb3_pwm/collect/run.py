"""Collection of many tasks in several processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch as th
from tqdm import tqdm

from sb3_pwm.collect.behaviors import Behavior
from sb3_pwm.collect.job import Job, collect_task
from sb3_pwm.collect.minari_writer import read_statistics, write_dataset
from sb3_pwm.common.checks import check_distinct, check_number
from sb3_pwm.common.files import atomic_write
from sb3_pwm.data.environments import check_tasks, find_task
from sb3_pwm.tasks import folder_name

UNFINISHED = ".collecting"
"""Name of the folder of unfinished data sets"""


def collect(
    tasks: Sequence[str],
    steps: int,
    out: str | Path,
    behaviors: Sequence[Behavior] = (Behavior("random"),),
    processes: int = 1,
    seed: int = 0,
    namespace: str = "sb3-pwm",
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """
    Collect a Minari data set for each of several tasks.

    If the call is interrupted, the same call resumes it and ends with the same data sets. Other calls may collect other
    tasks into the same folder at the same time.

    :param tasks: Names of tasks, or ids that are registered in Gymnasium, see
        :func:`~sb3_pwm.data.environments.find_task`.
    :param steps: Number of agent steps per task. The last episode is completed, so there can be more.
    :param out: Folder of the data sets. Minari calls it ``MINARI_DATASETS_PATH``.
    :param behaviors: Behaviors that share the episodes of each task by their weights.
    :param processes: Number of processes. Each collects one task at a time.
    :param seed: Seed of the episodes.
    :param namespace: First part of the ids of the data sets.
    :param overwrite: Whether to replace data sets that exist already, finished or not.
    :return: Statistics of each data set, see :func:`~sb3_pwm.collect.minari_writer.read_statistics`.
    :raises ImportError: If the package of a task cannot be imported.
    :raises ValueError: If a task is unknown, its environment has images or actions that are not continuous and bounded,
        a number is out of range, or the folder holds an unfinished data set of other settings.
    :raises FileExistsError: If a data set exists already and ``overwrite`` is False. Nothing is collected then.
    """
    check_number("steps", steps, 1, integer=True)
    check_number("processes", processes, 1, integer=True)
    check_number("seed", seed, 0, integer=True)
    if not tasks or not behaviors:
        raise ValueError("Give at least one task and one behavior.")
    out = Path(out).resolve()
    found = list({task.name: task for task in map(find_task, tasks)}.values())
    check_tasks(found)
    ids = {task.name: f"{namespace}/{folder_name(task.name)}-v0" for task in found}
    check_distinct("The data sets", list(ids.values()))
    unfinished = out / UNFINISHED / namespace
    jobs = [
        Job(task.name, steps, tuple(behaviors), seed, unfinished / folder_name(task.name), task.env_id)
        for task in found
    ]
    # The marker tells an interrupted call from another one: only the interrupted call may keep its finished data sets.
    settings = json.dumps({"steps": steps, "tasks": [job.settings for job in jobs]}).encode()
    marker = unfinished / f"{hashlib.sha256(settings).hexdigest()[:16]}.command"
    finished = [job for job in jobs if (out / ids[job.task]).exists()]
    if overwrite:
        for job in jobs:
            shutil.rmtree(job.folder, ignore_errors=True)
        finished = []
    elif finished and not marker.is_file():
        names = ", ".join(ids[job.task] for job in finished)
        raise FileExistsError(f"{out} already holds {names}: choose another folder, or --overwrite.")
    with atomic_write(marker) as file:
        file.write(settings)

    results = {job.task: read_statistics(out / ids[job.task]) for job in finished}
    missing = [job for job in jobs if job not in finished]
    with tqdm(total=steps * len(jobs), initial=steps * len(finished), unit="step", disable=None, smoothing=0.05) as bar:
        for job in _collected(missing, processes, bar):
            results[job.task] = write_dataset(job, ids[job.task], out)
    for job in finished:  # remains if the call was interrupted just after its data set was finished
        shutil.rmtree(job.folder, ignore_errors=True)
    marker.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another call may be collecting other tasks
        unfinished.rmdir()
        unfinished.parent.rmdir()
    return [results[job.task] for job in jobs]


def _collected(jobs: Sequence[Job], processes: int, bar: tqdm[Any]) -> Iterator[Job]:
    """
    Collect the episodes of several tasks.

    :param jobs: What to collect for each task.
    :param processes: Number of processes. 1: this process collects.
    :param bar: Progress bar of the steps of all tasks.
    :return: Iterator of the jobs, each as soon as its episodes are collected.
    """
    if processes == 1 or len(jobs) <= 1:
        for job in jobs:
            collect_task(job, bar.update)
            yield job
        return
    # Graphics libraries and threads do not survive a fork.
    context = get_context("spawn")
    queue = context.Queue()
    with ProcessPoolExecutor(processes, context, _start_worker, (queue,)) as pool:
        pending = {pool.submit(_work, job): job for job in jobs}
        try:
            while pending:
                done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    bar.update(queue.get())
                for future in done:
                    job = pending.pop(future)
                    future.result()
                    yield job
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_queue: Any = None
"""Queue of the numbers of collected steps, in a worker process"""


def _start_worker(queue: Any) -> None:
    global _queue
    _queue = queue
    th.set_num_threads(1)  # there are as many processes as cores


def _work(job: Job) -> None:
    collect_task(job, lambda steps: _queue.put(steps))
