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
from sb3_pwm.collect.episodes import Job, collect_task
from sb3_pwm.collect.minari_writer import read_statistics, write_dataset
from sb3_pwm.common.files import atomic_write
from sb3_pwm.tasks import task_name

PARTIAL = ".collecting"

_queue: Any = None


def _start_worker(queue: Any) -> None:
    global _queue
    _queue = queue
    th.set_num_threads(1)  # there are as many processes as cores


def _work(job: Job) -> None:
    collect_task(job, lambda steps: _queue.put(steps))


def _collected(jobs: Sequence[Job], processes: int, bar: tqdm[Any]) -> Iterator[Job]:
    """
    Collect the episodes of several tasks.

    :param jobs: What to collect for each task.
    :param processes: Number of processes; one is this process itself.
    :param bar: Progress bar of all steps.
    :return: Each job as soon as its episodes are there.
    """
    if processes == 1 or len(jobs) <= 1:
        for job in jobs:
            collect_task(job, bar.update)
            yield job
        return
    # Not forked: graphics libraries and threads do not survive it.
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

    :param tasks: Tasks as the releases spell them, or their environment ids.
    :param steps: Agent steps per task.
    :param out: Folder of the data sets, as ``MINARI_DATASETS_PATH`` names it to Minari.
    :param behaviors: What acts, by weight.
    :param processes: Number of processes; a task is one process's.
    :param seed: Seed of everything.
    :param namespace: First part of the data sets' ids.
    :param overwrite: Whether to replace data sets that are there, finished or not.
    :return: Statistics of each task's data set, see :func:`read_statistics`.
    :raises ValueError: If a task is unknown, or something is there that was collected with other settings.
    :raises FileExistsError: If a data set is there and ``overwrite`` is not set; nothing is collected then.
    """
    out = Path(out).resolve()
    names = [task_name(task) for task in tasks]
    ids = {name: f"{namespace}/{name}-v0" for name in names}
    partial = out / PARTIAL / namespace
    jobs = [Job(name, steps, tuple(behaviors), seed, partial / name) for name in ids]
    # What an interrupted command has finished already is its own, and kept; anything else is somebody's data.
    command = json.dumps({"steps": steps, "tasks": [job.settings for job in jobs]}).encode()
    # Of its own name: other commands may be at work beside this one, for other tasks.
    marker = partial / f"{hashlib.sha256(command).hexdigest()[:16]}.command"
    resumed = marker.is_file()
    finished = {name: dataset_id for name, dataset_id in ids.items() if (out / dataset_id).exists()}
    if overwrite:
        for job in jobs:
            shutil.rmtree(job.folder, ignore_errors=True)
        finished = {}
    elif finished and not resumed:
        raise FileExistsError(
            f"{out} already holds {', '.join(finished.values())}: choose another folder, or --overwrite."
        )
    with atomic_write(marker) as file:
        file.write(command)

    results = {name: read_statistics(out / dataset_id) for name, dataset_id in finished.items()}
    jobs = [job for job in jobs if job.task not in finished]
    bar = tqdm(total=steps * len(ids), initial=steps * len(finished), unit="step", disable=None, smoothing=0.05)
    for job in _collected(jobs, processes, bar):
        results[job.task] = write_dataset(job, ids[job.task], out)
    bar.close()
    marker.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another command may be at work for other tasks
        partial.rmdir()
        (out / PARTIAL).rmdir()
    return [results[name] for name in ids]
