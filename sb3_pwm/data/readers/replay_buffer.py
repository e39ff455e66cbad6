"""Replay buffers of SB3's off-policy algorithms, in memory or as files of ``save_replay_buffer``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl

from sb3_pwm.common.version import FileFormatError, is_of_older_version
from sb3_pwm.data.replay_buffer import SequenceReplayBuffer
from sb3_pwm.data.types import Episode, SourceEpisode


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
    except FileFormatError as error:  # the buffer does not know its path
        raise FileFormatError(path, "replay buffer", error.file_format) from None
    except Exception as error:  # unpickling raises almost any kind of error
        if is_of_older_version(error):
            raise FileFormatError(path, "replay buffer", 1) from error
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
