"""A task's collected episodes as a Minari data set, which is complete or not there."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from sb3_pwm.collect.episodes import Job, read_shards
from sb3_pwm.tasks import env_id


def write_dataset(job: Job, dataset_id: str, out: Path) -> dict[str, Any]:
    """
    Turn a task's parts into a Minari data set, which is whole or not there.

    :param job: What was collected.
    :param dataset_id: The data set's id, such as ``"mt30/walker-walk-v0"``.
    :param out: The folder of data sets.
    :return: See :func:`read_statistics`.
    """
    # Minari is an extra.
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
