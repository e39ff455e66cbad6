"""What acts while data is collected: random actions, scripted experts, trained models, or what one has seen before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pwm.data.readers.replay_buffer import read_replay_buffer, replay_buffer_episodes
from sb3_pwm.data.types import check_episode
from sb3_pwm.tasks import env_id

Policy = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Function of an observation ``(O,)`` that returns an action ``(A,)``"""

KINDS = ("random", "expert", "policy", "replay")


@dataclasses.dataclass(frozen=True)
class Behavior:
    """
    What acts in an episode.

    :param kind: ``"random"`` (uniform actions), ``"expert"`` (Meta-World's scripted policy), ``"policy"`` (a trained
        SB3 or PWM model) or ``"replay"`` (what such a model has seen while it learned).
    :param source: The model of ``"policy"``: a run's folder as rl-zoo3 writes it, or a zip file in one. The replay
        buffer of ``"replay"``: such a folder, written with ``--save-replay-buffer``, or the buffer's pkl file. In both,
        ``{env}`` stands for the task's environment id.
    :param noise: Standard deviation of Gaussian noise on the actions; none for ``"replay"``.
    :param weight: Share of the episodes, relative to the other behaviors'.
    """

    kind: str
    source: str = ""
    noise: float = 0.0
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Behavior:
        """
        :param text: ``random``, ``expert``, ``expert:NOISE``, ``policy:PATH``, ``policy:PATH:NOISE`` or
            ``replay:PATH``; each may end in ``=WEIGHT``.
        :raises ValueError: If it is of another form.
        """
        body, _, weight = text.partition("=")
        kind, *parts = body.split(":")
        try:
            noise = float(parts.pop()) if parts and kind != "random" and _is_number(parts[-1]) else 0.0
            behavior = cls(kind, ":".join(parts), noise, float(weight or 1.0))
        except ValueError:
            behavior = cls("?")
        valid = behavior.kind in KINDS and (behavior.kind in ("policy", "replay")) == bool(behavior.source)
        replays_noise = behavior.kind == "replay" and behavior.noise > 0.0
        if not valid or replays_noise or behavior.noise < 0.0 or not behavior.weight > 0.0:
            raise ValueError(
                f"{text!r} is no behavior: give random, expert[:NOISE], policy:PATH[:NOISE] or replay:PATH, "
                "each with =WEIGHT or without."
            )
        return behavior

    def __str__(self) -> str:
        parts = [self.kind, self.source, f"{self.noise:g}" if self.noise else ""]
        return ":".join(part for part in parts if part)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def make_policy(behavior: Behavior, task: str, env: gymnasium.Env[Any, Any]) -> Policy:
    """
    :param behavior: What acts; not ``"replay"``, see :func:`replayed_episodes`.
    :param task: The task, as the releases spell it.
    :param env: Its environment.
    :return: Actions of observations; noise is added elsewhere.
    :raises ValueError: If the behavior does not exist for the task, or its model does not fit it.
    :raises FileNotFoundError: If its model is not there.
    """
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    if behavior.kind == "random":
        return lambda _: space.sample()
    if behavior.kind == "expert":
        if not task.startswith("mw-"):
            raise ValueError(f"{task} has no scripted expert, only Meta-World's tasks have: use policy:PATH.")
        from metaworld import policies  # an extra

        expert: Any = policies.ENV_POLICY_MAP[f"{task.removeprefix('mw-')}-v3"]()  # type: ignore[abstract]
        return lambda observation: np.asarray(expert.get_action(observation.astype(np.float64)), np.float32)
    return _load_policy(source_path(behavior, task), task, env)


def source_path(behavior: Behavior, task: str) -> Path:
    """:param behavior: With a source. :param task: The task. :return: The source's path for that task."""
    return Path(behavior.source.replace("{env}", env_id(task)))


def _load_policy(path: Path, task: str, env: gymnasium.Env[Any, Any]) -> Policy:
    """The deterministic actions of a model that rl-zoo3 has written, with its normalization of observations."""
    # rl-zoo3 takes seconds to import, and only this needs it. sb3_pwm.zoo adds PWM to its algorithms.
    import rl_zoo3.utils

    import sb3_pwm.zoo  # noqa: F401

    # <algo>/<env>_<number>/<env>.zip, and <env>/vecnormalize.pkl beside it
    folder = path.parent if path.suffix == ".zip" else path
    env_name = folder.name.rpartition("_")[0]
    file = path if path.suffix == ".zip" else folder / f"{env_name}.zip"
    algorithm = folder.resolve().parent.name
    if not file.is_file():
        raise FileNotFoundError(f"There is no model {file}: give a run's folder, such as logs/pwm/Walker-walk_1.")
    if algorithm not in rl_zoo3.utils.ALGOS:
        raise ValueError(
            f"{folder} does not lie in a folder named after an algorithm of rl-zoo3, but in {algorithm!r}."
        )
    model = rl_zoo3.utils.ALGOS[algorithm].load(file, device="cpu")
    if (
        model.observation_space.shape != env.observation_space.shape
        or model.action_space.shape != env.action_space.shape
    ):
        raise ValueError(
            f"{file} was trained on observations {model.observation_space.shape} and actions "
            f"{model.action_space.shape}; {task} has {env.observation_space.shape} and {env.action_space.shape}."
        )
    statistics = folder / env_name / "vecnormalize.pkl"
    normalize: Callable[[Any], Any] = lambda observation: observation  # noqa: E731
    if statistics.is_file():
        normalize = VecNormalize.load(str(statistics), DummyVecEnv([lambda: env])).normalize_obs
    return lambda observation: model.predict(normalize(observation), deterministic=True)[0]


CollectedEpisode = dict[str, NDArray[Any]]
"""``observations (T + 1, O)``, ``actions (T, A)``, ``rewards (T,)``, ``terminations (T,)``, ``truncations (T,)``,
``behavior ()`` and, where the task defines it, ``success (T,)``."""


def run_episode(
    env: gymnasium.Env[Any, Any], policy: Policy, noise: float, seed: np.random.SeedSequence
) -> CollectedEpisode:
    """
    :param env: The environment, with a limit of its steps.
    :param policy: See :func:`make_policy`.
    :param noise: Standard deviation of the noise on its actions.
    :param seed: Decides the episode's start, its random actions and the noise.
    :return: The episode, without its ``behavior``.
    """
    start, actions_seed, noise_seed = (int(word) for word in seed.generate_state(3))
    env.action_space.seed(actions_seed)
    rng = np.random.default_rng(noise_seed)
    observation, _ = env.reset(seed=start)
    observations, actions, rewards, terminations, truncations, successes = [observation], [], [], [], [], []
    ended = False
    while not ended:
        action = policy(observation)
        if noise > 0.0:
            action = action + np.float32(noise) * rng.standard_normal(action.shape, np.float32)
        action = np.clip(action, -1.0, 1.0)
        observation, reward, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        terminations.append(terminated)
        truncations.append(truncated)
        if "success" in info:
            successes.append(float(info["success"]))
    episode: CollectedEpisode = {
        "observations": np.stack(observations).astype(np.float32),
        "actions": np.stack(actions),
        "rewards": np.array(rewards, np.float32),
        "terminations": np.array(terminations),
        "truncations": np.array(truncations),
    }
    return {**episode, "success": np.array(successes, np.float32)} if successes else episode


def replayed_episodes(path: Path, task: str, env: gymnasium.Env[Any, Any]) -> list[CollectedEpisode]:
    """
    The whole episodes of a replay buffer that SB3 or rl-zoo3 has saved. Reading it executes what the file says: open
    only files that you trust, as with SB3's ``load_replay_buffer``.

    :param path: A run's folder, as rl-zoo3 writes it with ``--save-replay-buffer``, or the buffer's pkl file.
    :param task: The task, as the releases spell it.
    :param env: Its environment.
    :return: Its episodes in the order they were seen in; those whose beginning or end it does not hold are left out.
    :raises FileNotFoundError: If it is not there.
    :raises ValueError: If it is another environment's or not such a buffer, or holds no whole episode or a value that
        is not finite.
    """
    file = path if path.suffix == ".pkl" else path / "replay_buffer.pkl"
    # Two tasks of the same body fit each other but for the rewards: rl-zoo3's folder says whose these are.
    trained, _, run = file.parent.name.rpartition("_")
    if run.isdigit() and trained in gymnasium.registry and trained != env_id(task):
        raise ValueError(f"{file} was filled by {trained}, not by {env_id(task)}.")
    buffer = read_replay_buffer(file)
    shapes = (buffer.observation_space.shape, buffer.action_space.shape)
    if shapes != (env.observation_space.shape, env.action_space.shape):
        raise ValueError(
            f"{file} holds observations {shapes[0]} and actions {shapes[1]}; "
            f"{task} has {env.observation_space.shape} and {env.action_space.shape}."
        )
    episodes: list[CollectedEpisode] = []
    for _, episode, where in replay_buffer_episodes(buffer, task, str(file)):
        check_episode(episode, where)
        observations, actions, rewards, terminated = episode
        end = np.arange(len(rewards)) == len(rewards) - 1
        episodes.append(
            {
                "observations": observations,
                "actions": actions,
                "rewards": rewards,
                "terminations": end & terminated,
                "truncations": end & (not terminated),
            }
        )
    return episodes
