"""The episodes of one task: made one after the other, kept in shards, and resumable by their numbers alone."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from sb3_pwm.collect.behaviors import (
    Behavior,
    CollectedEpisode,
    make_policy,
    replayed_episodes,
    run_episode,
    source_path,
)
from sb3_pwm.common.files import atomic_write
from sb3_pwm.envs import register_envs
from sb3_pwm.tasks import env_id

# Number of steps in a shard. A kill loses fewer steps than that.
SHARD_STEPS = 2_000


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


def read_shards(folder: Path) -> list[CollectedEpisode]:
    """
    :param folder: Of an unfinished task.
    :return: Its episodes so far.
    :raises ValueError: If a file is damaged; the message names it.
    """
    episodes: list[CollectedEpisode] = []
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
    shard: list[CollectedEpisode] = []

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
) -> Callable[[np.random.SeedSequence], CollectedEpisode] | list[CollectedEpisode]:
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
