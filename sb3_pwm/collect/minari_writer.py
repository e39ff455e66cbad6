"""Writer of Minari data sets. A data set is complete, or it is not there."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from sb3_pwm.collect.episodes import CollectedEpisode
from sb3_pwm.collect.job import Job, read_shards
from sb3_pwm.data.environments import flat_env, flat_space, make_env


def write_dataset(job: Job, dataset_id: str, out: Path) -> dict[str, Any]:
    """
    Write the collected episodes of a task as a Minari data set, and remove their shards.

    :param job: The job. All its episodes are collected.
    :param dataset_id: Id of the data set, such as ``"mt30/walker-walk-v0"``.
    :param out: Folder of the data sets. A data set of the same id is replaced.
    :return: Statistics of the data set, see :func:`read_statistics`.
    """
    # Minari is an optional package.
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.namespace import create_namespace, list_local_namespaces

    episodes = read_shards(job.folder)
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
            # Minari stores the info of the reset too.
            infos={} if success is None else {"success": np.concatenate([[0.0], success])},
        )
        for number, (episode, success) in enumerate(zip(episodes, _successes(episodes), strict=True))
    ]
    statistics = _statistics(job, episodes)
    unfinished = job.folder / "minari"
    shutil.rmtree(unfinished, ignore_errors=True)
    env = make_env(job.env_id)
    with _minari_folder(unfinished), warnings.catch_warnings():
        # Minari warns that author, email address and code link are missing.
        warnings.filterwarnings("ignore", module="minari")
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            env=_spec(flat_env(env)),
            observation_space=flat_space(env.observation_space),
            action_space=env.action_space,
            algorithm_name=statistics["behaviors"],
            description=f"{job.task}, collected by sb3-pwm collect",
        )
    env.close()
    dataset.storage.update_metadata(statistics)
    namespace = dataset_id.rpartition("/")[0]
    with _minari_folder(out):
        if namespace not in list_local_namespaces():
            create_namespace(namespace)
    target = out / dataset_id
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unfinished / dataset_id, target)
    shutil.rmtree(job.folder)
    return read_statistics(target)


def _spec(env: gymnasium.Env[Any, Any]) -> EnvSpec | None:
    """:return: What the environment is made of, for Minari's metadata. None: it cannot be written as text."""
    if env.spec is None:
        return None
    spec, made_by = env.spec, env.spec.entry_point
    if callable(made_by):  # a class, instead of its name
        name = str(getattr(made_by, "__qualname__", ""))
        if not name.isidentifier():  # a function in a function cannot be imported
            return None
        spec = dataclasses.replace(spec, entry_point=f"{made_by.__module__}:{name}")
    try:
        spec.to_json()
    except (TypeError, ValueError):  # an argument is no text
        return None
    return spec


def read_statistics(path: Path) -> dict[str, Any]:
    """
    Read the statistics of a collected data set.

    :param path: Folder of the data set.
    :return: Dictionary with the keys ``task``, ``seed``, ``behaviors``, ``return_mean``, ``return_min``,
        ``return_max``, ``episodes``, ``steps`` and, if the task says what a success is, ``success_rate``.
    """
    metadata = json.loads((path / "data" / "metadata.json").read_text())
    names = ("task", "seed", "behaviors", "return_mean", "return_min", "return_max", "success_rate")
    statistics = {name: metadata[name] for name in names if name in metadata}
    return {**statistics, "episodes": metadata["total_episodes"], "steps": metadata["total_steps"]}


def _successes(episodes: Sequence[CollectedEpisode]) -> list[NDArray[np.float32] | None]:
    """:return: Success of each step of each episode: NaN in those that do not say it, if others do."""
    if all(episode.success is None for episode in episodes):
        return [None] * len(episodes)
    return [
        np.full(len(episode.rewards), np.nan, np.float32) if episode.success is None else episode.success
        for episode in episodes
    ]


def _statistics(job: Job, episodes: Sequence[CollectedEpisode]) -> dict[str, Any]:
    returns = np.array([episode.rewards.sum() for episode in episodes])
    names = [str(job.behaviors[episode.behavior]) for episode in episodes]
    statistics: dict[str, Any] = {
        "task": job.task,
        "seed": job.seed,
        "behaviors": ", ".join(f"{name} ({names.count(name)} episodes)" for name in dict.fromkeys(names)),
        "return_mean": float(returns.mean()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
    }
    successes = [episode.success.max() for episode in episodes if episode.success is not None]
    if successes:
        statistics["success_rate"] = float(np.mean(successes))
    return statistics


@contextmanager
def _minari_folder(folder: Path) -> Iterator[None]:
    """Have Minari read and write data sets in a folder. Minari takes the folder from the environment only."""
    previous = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if previous is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = previous
