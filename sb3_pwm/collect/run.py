r"""
Collect data sets to pretrain world models on, one Minari data set per task.

::

    python -m sb3_pwm.collect --suite mt30 --steps 20000 --out data --processes 2
    python -m sb3_pwm.collect --tasks mw-reach mw-push --behavior random expert:0.3=2 --steps 5000 --out data
    python -m sb3_pwm.collect --tasks walker-walk walker-run --steps 20000 --out data \
        --behavior replay:logs/pwm/{env}_1 policy:logs/pwm/{env}_1:0.2

An interrupted command goes on where it was when it is given again: every episode depends on its number only, and is
kept as soon as it is complete. ``MINARI_DATASETS_PATH=data minari list local`` shows what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from sb3_pwm.collect.behaviors import Behavior, Episode, make_policy, replayed_episodes, run_episode, source_path
from sb3_pwm.common.files import atomic_write
from sb3_pwm.envs import register_envs
from sb3_pwm.tasks import SUITES, env_id, task_name

# Steps that are written to one file while a task is collected, and lost at most when the command is killed.
SHARD_STEPS = 2_000
PARTIAL = ".collecting"


@dataclasses.dataclass(frozen=True)
class Job:
    """
    What to collect for one task.

    :param task: As the releases spell it, e.g. ``"walker-walk"``.
    :param steps: Agent steps, at least; the last episode is complete.
    :param behaviors: What acts, by weight.
    :param seed: Seed of the task's episodes.
    :param folder: Where the parts lie until all are there.
    """

    task: str
    steps: int
    behaviors: tuple[Behavior, ...]
    seed: int
    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """What must be the same for an interrupted collection to go on."""
        return {
            "task": self.task,
            "behaviors": [[str(behavior), behavior.weight] for behavior in self.behaviors],
            "seed": self.seed,
        }


def behavior_of_each_episode(weights: Sequence[float]) -> Iterator[int]:
    """:param weights: Of the behaviors. :return: Which one acts in episode 0, 1, ..., as near to them as can be."""
    shares = np.array(weights) / np.sum(weights)
    counts = np.zeros(len(shares))
    for n in range(1, sys.maxsize):
        chosen = int(np.argmax(shares * n - counts))
        counts[chosen] += 1
        yield chosen


def read_shards(folder: Path) -> list[Episode]:
    """
    :param folder: Of an unfinished task.
    :return: Its episodes so far.
    :raises ValueError: If a file is damaged; the message names it.
    """
    episodes: list[Episode] = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                n_episodes = int(arrays["n_episodes"])
                for i in range(n_episodes):
                    prefix = f"{i}/"
                    episodes.append({k.removeprefix(prefix): arrays[k] for k in arrays.files if k.startswith(prefix)})
        except Exception as error:  # zipfile, zlib, numpy and KeyError, by where the file ends
            raise ValueError(f"{path} is damaged ({error}): delete it, and the command makes it again.") from error
    return episodes


def collect_task(job: Job, progress: Callable[[int], None] = lambda steps: None) -> None:
    """
    Collect a task's episodes, going on with those that are there.

    :param job: What to collect.
    :param progress: Called with the steps that are there, then with those of each new episode.
    :raises ValueError: If what is there was collected with other settings, or a file of it is damaged.
    """
    register_envs()
    job.folder.mkdir(parents=True, exist_ok=True)
    settings = job.folder / "settings.json"
    if settings.is_file() and json.loads(settings.read_text()) != job.settings:
        raise ValueError(f"{job.folder} was collected with other settings: give them again, or --overwrite.")
    if not settings.is_file():
        with atomic_write(settings) as file:
            file.write(json.dumps(job.settings).encode())
    before = read_shards(job.folder)
    n_steps, n_episodes = sum(len(episode["rewards"]) for episode in before), len(before)
    progress(n_steps)

    env = gymnasium.make(env_id(job.task))
    sources = [_episodes(behavior, job, env) for behavior in job.behaviors]
    draws = _draws(job.behaviors, [None if callable(source) else len(source) for source in sources])
    shard: list[Episode] = []

    def save() -> None:
        arrays = {f"{i}/{name}": value for i, part in enumerate(shard) for name, value in part.items()}
        with atomic_write(job.folder / f"{n_episodes - len(shard):08d}.npz") as file:
            np.savez(file, n_episodes=len(shard), **arrays)  # type: ignore[arg-type]
        shard.clear()

    # By its number alone, so that an interrupted collection and a whole one have the same episodes
    for n, (chosen, count) in enumerate(draws):
        if n_steps >= job.steps:
            break
        if n < n_episodes:
            continue
        source = sources[chosen]
        if callable(source):
            episode = source(np.random.SeedSequence([job.seed, n, *job.task.encode()]))
        else:
            episode = source[count]
        shard.append({**episode, "behavior": np.array(chosen)})
        n_episodes += 1
        n_steps += len(episode["rewards"])
        progress(len(episode["rewards"]))
        if sum(len(episode["rewards"]) for episode in shard) >= SHARD_STEPS:
            save()
    if shard:
        save()
    env.close()


def _episodes(
    behavior: Behavior, job: Job, env: gymnasium.Env[Any, Any]
) -> Callable[[np.random.SeedSequence], Episode] | list[Episode]:
    """:return: What makes an episode from a seed, or the episodes of a replay buffer in the order they are taken in."""
    if behavior.kind != "replay":
        policy = make_policy(behavior, job.task, env)
        return lambda seed: run_episode(env, policy, behavior.noise, seed)
    episodes = replayed_episodes(source_path(behavior, job.task), job.task, env)
    # Not in the learner's order: where fewer are wanted than there are, they are of all stages of learning.
    order = np.random.default_rng([job.seed, *job.task.encode()]).permutation(len(episodes))
    return [episodes[number] for number in order]


def _draws(behaviors: Sequence[Behavior], available: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """
    :param behaviors: What acts.
    :param available: How many episodes each has; None for any number.
    :return: Which one acts in episode 0, 1, ... and how many episodes it had before, until none has any left.
    """
    counts = [0] * len(behaviors)
    for chosen in behavior_of_each_episode([behavior.weight for behavior in behaviors]):
        if all(limit is not None and count >= limit for count, limit in zip(counts, available, strict=True)):
            return
        limit = available[chosen]
        if limit is None or counts[chosen] < limit:
            yield chosen, counts[chosen]
            counts[chosen] += 1


def write_dataset(job: Job, dataset_id: str, out: Path) -> dict[str, Any]:
    """
    Turn a task's parts into a Minari data set, which is whole or not there.

    :param job: What was collected.
    :param dataset_id: The data set's id, such as ``"mt30/walker-walk-v0"``.
    :param out: The folder of data sets.
    :return: See :func:`read_statistics`.
    """
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.namespace import create_namespace, list_local_namespaces

    episodes = read_shards(job.folder)
    # A replay buffer does not say what was a success; beside episodes that do say it, it is not a number there.
    some_say = any("success" in episode for episode in episodes)
    successes = [
        episode.get("success", np.full(len(episode["rewards"]), np.nan, np.float32)) if some_say else None
        for episode in episodes
    ]
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=episode["observations"],
            actions=episode["actions"],
            rewards=episode["rewards"],
            terminations=episode["terminations"],
            truncations=episode["truncations"],
            # Minari keeps the info of the reset too.
            infos={"success": np.concatenate([[0.0], success])} if (success := successes[number]) is not None else {},
        )
        for number, episode in enumerate(episodes)
    ]
    returns = np.array([episode["rewards"].sum() for episode in episodes])
    names = [str(job.behaviors[int(episode["behavior"])]) for episode in episodes]
    statistics: dict[str, Any] = {
        "task": job.task,
        "seed": job.seed,
        "behaviors": ", ".join(f"{name} ({names.count(name)} episodes)" for name in dict.fromkeys(names)),
        "return_mean": float(returns.mean()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
    }
    if some_say:
        said = [episode["success"].max() for episode in episodes if "success" in episode]
        statistics["success_rate"] = float(np.mean(said))

    # Written beside its place and moved there when complete
    writing = job.folder / "minari"
    shutil.rmtree(writing, ignore_errors=True)
    previous = os.environ.get("MINARI_DATASETS_PATH")
    try:
        os.environ["MINARI_DATASETS_PATH"] = str(writing)
        with warnings.catch_warnings():
            # It would like an author, his address and a link to his code.
            warnings.filterwarnings("ignore", module="minari")
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                env=gymnasium.spec(env_id(job.task)),
                algorithm_name=statistics["behaviors"],
                description=f"{job.task}, collected by python -m sb3_pwm.collect",
            )
        dataset.storage.update_metadata(statistics)
        os.environ["MINARI_DATASETS_PATH"] = str(out)
        namespace = dataset_id.rpartition("/")[0]
        if namespace not in list_local_namespaces():
            create_namespace(namespace)
    finally:
        if previous is None:
            os.environ.pop("MINARI_DATASETS_PATH", None)
        else:
            os.environ["MINARI_DATASETS_PATH"] = previous
    target = out / dataset_id
    shutil.rmtree(target, ignore_errors=True)
    os.replace(writing / dataset_id, target)
    shutil.rmtree(job.folder)
    return read_statistics(target)


def read_statistics(path: Path) -> dict[str, Any]:
    """:param path: A data set's folder. :return: Its statistics, and how many ``episodes`` and ``steps`` it has."""
    metadata = json.loads((path / "data" / "metadata.json").read_text())
    names = ("task", "seed", "behaviors", "return_mean", "return_min", "return_max", "success_rate")
    statistics = {name: metadata[name] for name in names if name in metadata}
    return {**statistics, "episodes": metadata["total_episodes"], "steps": metadata["total_steps"]}


_queue: Any = None


def _start_worker(queue: Any) -> None:
    global _queue
    _queue = queue
    import torch

    torch.set_num_threads(1)  # there are as many processes as cores


def _work(job: Job) -> None:
    collect_task(job, lambda steps: _queue.put(steps))


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
    from tqdm import tqdm

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
    # Not forked: graphics libraries and threads do not survive it.
    context = get_context("spawn")
    queue = context.Queue()
    bar = tqdm(total=steps * len(ids), initial=steps * len(finished), unit="step", disable=None, smoothing=0.05)
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
                    results[job.task] = write_dataset(job, ids[job.task], out)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    bar.close()
    marker.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another command may be at work for other tasks
        partial.rmdir()
        (out / PARTIAL).rmdir()
    return [results[name] for name in ids]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line, see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_pwm.collect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tasks", nargs="+", help="tasks or environment ids, such as walker-walk mw-reach Dog-run")
    which.add_argument("--suite", choices=tuple(SUITES), help="all tasks of a suite")
    parser.add_argument("--steps", type=int, required=True, help="agent steps per task")
    parser.add_argument(
        "--behavior", nargs="+", default=["random"], help="random, expert[:NOISE], policy:PATH[:NOISE], replay:PATH"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    options = parser.parse_args(arguments)
    tasks = SUITES[options.suite].tasks if options.suite else options.tasks
    started = time.perf_counter()
    try:
        results = collect(
            tasks,
            options.steps,
            options.out,
            [Behavior.parse(text) for text in options.behavior],
            options.processes,
            options.seed,
            options.suite or "sb3-pwm",
            options.overwrite,
        )
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{'task':30} {'episodes':>8} {'steps':>9} {'return: mean':>12} {'min':>9} {'max':>9} {'success':>8}")
    for row in results:
        success = f"{row['success_rate']:.0%}" if "success_rate" in row else "-"
        numbers = f"{row['return_mean']:12.1f} {row['return_min']:9.1f} {row['return_max']:9.1f} {success:>8}"
        print(f"{row['task']:30} {row['episodes']:8} {row['steps']:9,} {numbers}")
    for row in results:
        if row["steps"] < options.steps:
            print(f"{row['task']}: {row['steps']:,} steps, since its replay buffers hold no more.")
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {size / 2**20:.1f} MiB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
