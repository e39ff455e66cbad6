"""Collection of one task: its episodes are kept in shards, so that an interrupted collection can be resumed."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from sb3_pwm.collect.behaviors import Behavior
from sb3_pwm.collect.episodes import CollectedEpisode, replayed_episodes, run_episode
from sb3_pwm.collect.policies import make_policy
from sb3_pwm.common.files import atomic_write
from sb3_pwm.data.environments import make_env
from sb3_pwm.tasks import env_id

# Number of steps in a shard. A kill loses fewer steps than that.
SHARD_STEPS = 2_000


@dataclasses.dataclass(frozen=True)
class Job:
    """
    What to collect for one task.

    :param task: Name of the task, such as ``"walker-walk"``.
    :param steps: Number of agent steps. The last episode is completed, so there can be more.
    :param behaviors: Behaviors that share the episodes by their weights.
    :param seed: Seed of the episodes.
    :param folder: Folder of the shards. It is removed when the data set is complete.
    :param registered_id: What ``gymnasium.make`` takes. Empty: the environment id of a task of this package.
    """

    task: str
    steps: int
    behaviors: tuple[Behavior, ...]
    seed: int
    folder: Path
    registered_id: str = ""

    @property
    def env_id(self) -> str:
        """What ``gymnasium.make`` takes."""
        return self.registered_id or env_id(self.task)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that must be the same for an interrupted collection to be resumed."""
        return {
            "task": self.task,
            "behaviors": [[str(behavior), behavior.weight] for behavior in self.behaviors],
            "seed": self.seed,
        }


def collect_task(job: Job, progress: Callable[[int], None] = lambda steps: None) -> None:
    """
    Collect the episodes of a task. Episodes that were collected before an interruption are kept.

    An episode depends only on the seed, the task and the number of the episode. An interrupted collection and an
    uninterrupted one therefore have the same episodes.

    :param job: What to collect.
    :param progress: Function that is called with the number of steps that are there already, then with the number of
        steps of each new episode.
    :raises ValueError: If the folder holds episodes of other settings, or a damaged file.
    """
    _claim(job)
    before = read_shards(job.folder)
    n_steps, n_episodes = sum(len(episode.rewards) for episode in before), len(before)
    progress(n_steps)

    env = make_env(job.env_id)
    sources = [_episodes(behavior, job, env) for behavior in job.behaviors]
    draws = _draws(job.behaviors, [None if callable(source) else len(source) for source in sources])
    shard: list[CollectedEpisode] = []
    for number, (chosen, count) in enumerate(draws):
        if n_steps >= job.steps:
            break
        if number < n_episodes:
            continue
        source = sources[chosen]
        if callable(source):
            noises = job.behaviors[chosen].noises
            seed = np.random.SeedSequence([job.seed, number, *job.task.encode()])
            episode = source(seed, noises[count % len(noises)])
        else:
            episode = source[count]
        shard.append(episode._replace(behavior=chosen))
        n_episodes += 1
        n_steps += len(episode.rewards)
        progress(len(episode.rewards))
        if sum(len(part.rewards) for part in shard) >= SHARD_STEPS:
            _write_shard(shard, job.folder, n_episodes - len(shard))
            shard = []
    if shard:
        _write_shard(shard, job.folder, n_episodes - len(shard))
    env.close()


def _claim(job: Job) -> None:
    """Write the settings into the folder. If it holds episodes already, they must have the same settings."""
    job.folder.mkdir(parents=True, exist_ok=True)
    file = job.folder / "settings.json"
    if any(job.folder.glob("*.npz")) and file.is_file():
        if json.loads(file.read_text()) != job.settings:
            raise ValueError(f"{job.folder} was collected with other settings: give them again, or --overwrite.")
        return
    with atomic_write(file) as stream:
        stream.write(json.dumps(job.settings).encode())


def read_shards(folder: Path) -> list[CollectedEpisode]:
    """
    Read the episodes of an unfinished task.

    :param folder: Folder of the shards.
    :return: The episodes in the order of their numbers.
    :raises ValueError: If a file is damaged. The message names it.
    """
    episodes: list[CollectedEpisode] = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                episodes += [_read_episode(arrays, f"{number}/") for number in range(int(arrays["n_episodes"]))]
        except Exception as error:  # zipfile, zlib, numpy and KeyError, by where the file ends
            raise ValueError(f"{path} is damaged ({error}): delete it, and the command makes it again.") from error
    return episodes


def _read_episode(arrays: Any, prefix: str) -> CollectedEpisode:
    """:return: The episode whose arrays have names that start with the prefix."""
    parts = {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}
    return CollectedEpisode(**{**parts, "behavior": int(parts["behavior"])})


def _write_shard(episodes: Sequence[CollectedEpisode], folder: Path, first: int) -> None:
    """Write episodes to a file that is named by the number of the first one."""
    arrays = {
        f"{number}/{name}": np.asarray(value)
        for number, episode in enumerate(episodes)
        for name, value in episode._asdict().items()
        if value is not None
    }
    with atomic_write(folder / f"{first:08d}.npz") as file:
        np.savez(file, n_episodes=len(episodes), **arrays)  # type: ignore[arg-type]


def behavior_of_each_episode(weights: Sequence[float]) -> Iterator[int]:
    """
    Share episodes among behaviors by weights.

    :param weights: Weight of each behavior.
    :return: Iterator of the index of the behavior of episode 0, 1, ... The share of each behavior among the first
        episodes is always as near to its weight as possible.
    """
    shares = np.array(weights) / np.sum(weights)
    counts = np.zeros(len(shares))
    for n in range(1, sys.maxsize):
        chosen = int(np.argmax(shares * n - counts))
        counts[chosen] += 1
        yield chosen


def _episodes(
    behavior: Behavior, job: Job, env: gymnasium.Env[Any, Any]
) -> Callable[[np.random.SeedSequence, float], CollectedEpisode] | list[CollectedEpisode]:
    """
    :return: Function that makes an episode of a seed and a noise, or the episodes of a replay buffer in random order.
    """
    if behavior.kind != "replay":
        policy = make_policy(behavior, job.task, env)
        return lambda seed, noise: run_episode(env, policy, noise, seed, behavior.noisy_share)
    assert env.spec is not None
    episodes = replayed_episodes(Path(behavior.source_of(env.spec.id)), job.task, env)
    # In random order, so that a part of the episodes is of all stages of learning.
    order = np.random.default_rng([job.seed, *job.task.encode()]).permutation(len(episodes))
    return [episodes[number] for number in order]


def _draws(behaviors: Sequence[Behavior], available: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """
    Choose the behavior of each episode until none has any episode left.

    :param behaviors: The behaviors.
    :param available: Number of episodes that each behavior has. None: as many as are asked for.
    :return: Iterator over the episodes: index of the behavior, and number of earlier episodes of this behavior.
    """
    counts = [0] * len(behaviors)
    for chosen in behavior_of_each_episode([behavior.weight for behavior in behaviors]):
        if all(limit is not None and count >= limit for count, limit in zip(counts, available, strict=True)):
            return
        limit = available[chosen]
        if limit is None or counts[chosen] < limit:
            yield chosen, counts[chosen]
            counts[chosen] += 1
