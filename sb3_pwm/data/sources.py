"""Readers of what offline data comes in: Minari data sets, TD-MPC2's files, SB3's replay buffers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl

from sb3_pwm.common.plain_tensors import load_plain_tensors
from sb3_pwm.data.buffers import SequenceReplayBuffer
from sb3_pwm.data.dataset import Episode, SourceEpisode
from sb3_pwm.data.minari_files import default_folder, find_datasets, iterate_episodes, open_dataset

# --- Minari ---------------------------------------------------------------------------------------------------------


def minari_episodes(ids_or_paths: Sequence[str | Path]) -> Iterator[SourceEpisode]:
    """
    :param ids_or_paths: See :meth:`~sb3_pwm.data.dataset.OfflineDataset.from_minari`.
    :return: The episodes, with actions scaled to [-1, 1].
    :raises FileNotFoundError: If there is no such data set.
    :raises ImportError: If Minari is not installed.
    :raises ValueError: If a file is damaged or foreign, or its spaces are not flat boxes; the message names it.
    """
    for each in ids_or_paths:
        local = default_folder() / each
        for path in find_datasets(each if Path(each).is_dir() or not local.is_dir() else local):
            yield from _minari_episodes(path)


def _minari_episodes(path: Path) -> Iterator[SourceEpisode]:
    dataset = open_dataset(path)
    for name, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"{path} has {name} of {space}: only flat boxes can be used.")
    low, high = dataset.action_space.low, dataset.action_space.high  # type: ignore[attr-defined]
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"{path} has actions without bounds, which cannot be scaled to [-1, 1].")
    centre, half_range = (high + low) / 2, (high - low) / 2
    task = dataset.storage.metadata.get("task")
    if not isinstance(task, str):
        env_spec = dataset.spec.env_spec
        task = dataset.spec.dataset_name if env_spec is None else env_spec.id.lower()
    for number, episode in enumerate(iterate_episodes(dataset, path)):
        actions = (np.asarray(episode.actions, np.float32) - centre) / half_range
        yield SourceEpisode(
            task,
            Episode(
                np.asarray(episode.observations, np.float32),
                actions.astype(np.float32),
                np.asarray(episode.rewards, np.float32),
                bool(episode.terminations[-1]) if len(episode.terminations) else False,
            ),
            f"episode {number} of {path}",
        )


# --- TD-MPC2 --------------------------------------------------------------------------------------------------------


class _PlainTensorDict:
    """Stands for tensordict's TensorDict in a file: takes its content and does nothing."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.content = state.get("_tensordict")


def _plain_tensor_dict(cls: type, state: dict[str, Any]) -> _PlainTensorDict:
    """Stands for the function with which tensordict rebuilds one."""
    plain = _PlainTensorDict()
    plain.__setstate__(state)
    return plain


_TENSORDICT: list[Any] = [
    (_plain_tensor_dict, "tensordict._reductions._make_td"),
    (_PlainTensorDict, "tensordict._td.TensorDict"),
    (_PlainTensorDict, "tensordict.tensordict.TensorDict"),
]


def tdmpc2_episodes(paths: Sequence[str | Path], tasks: Sequence[str] | None = None) -> Iterator[SourceEpisode]:
    """
    Row t of their episodes holds the action and the reward that led to observation t, so that those of the first row
    are NaN.

    :param paths: See :meth:`~sb3_pwm.data.dataset.OfflineDataset.from_tdmpc2`.
    :param tasks: Likewise.
    :return: The episodes.
    :raises FileNotFoundError: If there is no such file.
    :raises ValueError: If a file is damaged or of another format; the message names it.
    """
    from sb3_pwm.envs.suites import MT80, dimensions

    names = MT80.tasks if tasks is None else tuple(tasks)
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.glob("*.pt")) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise FileNotFoundError(f"There is no TD-MPC2 data file {path}.")
        files += found
    for file in files:
        content = _read_tdmpc2(file)
        for number in range(len(content["obs"])):
            where = f"episode {number} of {file}"
            observations, actions, rewards = (content[name][number].numpy() for name in ("obs", "action", "reward"))
            task_numbers = content["task"][number].reshape(-1).unique()
            if len(task_numbers) != 1 or not 0 <= int(task_numbers[0]) < len(names):
                raise ValueError(f"{where} is of task {task_numbers.tolist()}, but there are {len(names)} task names.")
            task = names[int(task_numbers[0])]
            if task in MT80.tasks:
                observation_dim, action_dim = dimensions(task)
                observations = _without_padding(observations, observation_dim)
                actions = np.concatenate([actions[:1, :action_dim], _without_padding(actions[1:], action_dim)])
            yield SourceEpisode(task, Episode(observations, actions[1:], rewards.reshape(-1)[1:], False), where)


def _without_padding(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """:return: The first columns of each row; all, and an error later, where the others are not padding."""
    return values[:, :size] if not np.any(values[:, size:]) else values


def _read_tdmpc2(path: Path) -> dict[str, th.Tensor]:
    """:return: ``obs (E, T, O)``, ``action (E, T, A)``, ``reward (E, T)``, ``task (E, T)`` or ``(E,)``."""
    content = load_plain_tensors(path, _TENSORDICT)
    if isinstance(content, _PlainTensorDict):
        content = content.content
    wanted = ("obs", "action", "reward", "task")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), th.Tensor) for name in wanted):
        raise ValueError(f"{path} is no data of TD-MPC2: it must hold the tensors {', '.join(wanted)}.")
    shapes = {name: tuple(content[name].shape) for name in wanted}
    first_two = {shapes[name][:2] for name in ("obs", "action", "reward")}
    if len(first_two) != 1 or len(shapes["obs"]) != 3 or len(shapes["action"]) != 3:
        raise ValueError(f"{path} is no data of TD-MPC2: its tensors are of shapes {shapes}.")
    return {name: content[name] for name in wanted}


# --- Replay buffers -------------------------------------------------------------------------------------------------


def read_replay_buffer(path: str | Path) -> ReplayBuffer:
    """
    Read a replay buffer that SB3 has saved. That executes what the file says, as SB3's ``load_replay_buffer`` does.

    :param path: The file.
    :return: The buffer.
    :raises FileNotFoundError: If there is no such file.
    :raises ValueError: If it is damaged, or no replay buffer that has all observations of its episodes.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no replay buffer {path}: rl-zoo3 writes one with --save-replay-buffer.")
    try:
        buffer = load_from_pkl(path)
    except Exception as error:  # whatever unpickling stumbles over
        raise ValueError(f"{path} cannot be read as a replay buffer: {error}.") from error
    check_replay_buffer(buffer, str(path))
    return buffer  # type: ignore[no-any-return]


def check_replay_buffer(buffer: Any, where: str) -> None:
    """
    :param buffer: What may be a replay buffer.
    :param where: Where it comes from.
    :raises ValueError: If it is none of flat observations that has every episode's last one.
    """
    if not isinstance(buffer, ReplayBuffer):
        raise ValueError(f"{where} holds a {type(buffer).__name__}, not a replay buffer of flat observations.")
    if isinstance(buffer.observation_space, spaces.Dict):
        raise ValueError(f"{where} holds a replay buffer of Dict observations: data sets take flat ones.")
    if buffer.optimize_memory_usage and not isinstance(buffer, SequenceReplayBuffer):
        raise ValueError(f"{where} lacks every episode's last observation: train with optimize_memory_usage=False.")


def whole_episodes(buffer: ReplayBuffer) -> Iterator[Episode]:
    """
    :param buffer: See :func:`check_replay_buffer`.
    :return: Its episodes in the order they were seen in, environment by environment; those whose beginning or end it
        does not hold are left out. One that a reset cut off is a truncated one to a SequenceReplayBuffer, and left out
        of SB3's own, which do not say so.
    """
    oldest, size = buffer.pos if buffer.full else 0, buffer.size()
    if isinstance(buffer, SequenceReplayBuffer):
        oldest, size = buffer.sampled_rows()
    order = (np.arange(size) + oldest) % buffer.buffer_size
    for column in range(buffer.n_envs if size else 0):
        observations = buffer.observations[order, column].reshape(size, -1)
        if isinstance(buffer, SequenceReplayBuffer):
            following = buffer.next_observations_of(order, np.full(size, column)).reshape(size, -1)
        else:
            following = buffer.next_observations[order, column].reshape(size, -1)
        dones, timeouts = buffer.dones[order, column] > 0.5, buffer.timeouts[order, column] > 0.5
        # Where training was stopped and gone on with, an episode breaks off without an end, and a new one begins.
        same = np.array(
            [np.array_equal(*pair, equal_nan=True) for pair in zip(following[:-1], observations[1:], strict=True)], bool
        )
        broken = np.append(~same & ~dones[:-1], False)
        first = -1 if buffer.full else 0  # the oldest one's beginning has been overwritten
        for last in np.flatnonzero(dones | broken).tolist():
            if first >= 0 and dones[last]:
                steps = slice(first, last + 1)
                yield Episode(
                    np.concatenate([observations[steps], following[last : last + 1]]).astype(np.float32),
                    buffer.actions[order[steps], column].reshape(last + 1 - first, -1).astype(np.float32),
                    buffer.rewards[order[steps], column].astype(np.float32),
                    not timeouts[last],
                )
            first = last + 1


def replay_buffer_episodes(
    buffer: ReplayBuffer | str | Path, task: str, where: str = "the replay buffer"
) -> Iterator[SourceEpisode]:
    """
    :param buffer: A replay buffer, or the file of one, see :func:`read_replay_buffer`.
    :param task: The task's name.
    :param where: Where a buffer comes from, for messages.
    :return: Its whole episodes.
    :raises ValueError: If it has none.
    """
    if isinstance(buffer, str | Path):
        where = str(buffer)
        buffer = read_replay_buffer(buffer)
    check_replay_buffer(buffer, where)
    number = -1
    for number, episode in enumerate(whole_episodes(buffer)):
        yield SourceEpisode(task, episode, f"episode {number} of {where}")
    if number < 0:
        raise ValueError(f"{where} holds {buffer.size()} steps and no whole episode.")
