"""Reader of SB3's replay buffers, in memory or in files of ``save_replay_buffer``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl

from sb3_pwm.common.observations import map_observations
from sb3_pwm.common.version import FileFormatError, is_of_older_version
from sb3_pwm.data.cleaning import check_continuous
from sb3_pwm.data.flattening import check_can_be_flattened, flatten_observations
from sb3_pwm.data.replay_buffer import SequenceReplayBuffer, check_stored_actions
from sb3_pwm.data.types import Episode, SourceEpisode


class ReplayBufferFile(NamedTuple):
    """File of a replay buffer, and the task it was filled in."""

    task: str
    path: Path


def replay_buffer_file(source: str | Path) -> ReplayBufferFile | None:
    """
    Tell whether a source of data is the file of a replay buffer (.pkl).

    :param source: ``TASK=FILE``, or the file alone. The task is the name of the file then; where that is no name of a
        task (rl-zoo3's ``Hopper-v5_1/replay_buffer.pkl``, checkpoints), it is the folder's, without its number.
    :return: The task and the file; None if it is another source.
    """
    path, task = Path(source), ""
    if path.suffix != ".pkl":
        return None
    name, _, file = str(source).partition("=")
    if file and len(Path(name).parts) == 1 and not path.exists():  # else the path itself has the sign
        path, task = Path(file), name
    if not task:
        folder = path.resolve().parent.name
        task = re.sub(r"_\d+$", "", folder) if "replay_buffer" in path.stem else path.stem
    return ReplayBufferFile(task, path)


def read_replay_buffer(path: str | Path) -> ReplayBuffer:
    """
    Read the file of a replay buffer. This unpickles the file, which can execute code in it, as ``load_replay_buffer``
    of SB3 does.

    :param path: The file.
    :return: The replay buffer.
    :raises FileNotFoundError: If the file does not exist.
    :raises ValueError: If the file is damaged, is of an older version, or holds no replay buffer that can be read.
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
    Check that a replay buffer can be made a data set.

    :param buffer: Object that may be a replay buffer.
    :param where: File or name of the buffer, for messages.
    :raises ValueError: If it is not a replay buffer, its observations are a ``Dict`` with images, its actions are not a
        ``Box`` with bounds, or it does not store the last observations of episodes.
    """
    if not isinstance(buffer, ReplayBuffer):
        raise ValueError(f"{where} holds a {type(buffer).__name__}, not a replay buffer.")
    if isinstance(buffer.observation_space, spaces.Dict):
        check_can_be_flattened(buffer.observation_space, where)
    check_continuous(buffer.action_space, where)
    if buffer.optimize_memory_usage and not isinstance(buffer, SequenceReplayBuffer):
        raise ValueError(f"{where} lacks the last observation of each episode: train with optimize_memory_usage=False.")
    check_stored_actions(getattr(buffer, "actions", None), buffer.action_space, where)


def whole_episodes(buffer: ReplayBuffer) -> Iterator[Episode]:
    """
    Read the complete episodes of a replay buffer: their first and their last step are in the buffer.

    A reset can interrupt an episode. A :class:`SequenceReplayBuffer` stores such an episode as truncated, and it is
    read. SB3's own buffers do not store that it was interrupted, and it is left out.

    :param buffer: Replay buffer that has passed :func:`check_replay_buffer`.
    :return: Iterator of the episodes, one environment after the other, oldest episode first.
    """
    oldest, size = buffer.pos if buffer.full else 0, buffer.size()
    if isinstance(buffer, SequenceReplayBuffer):
        oldest, size = buffer.sampled_rows()
    order = (np.arange(size) + oldest) % buffer.buffer_size
    for column in range(buffer.n_envs if size else 0):
        at = order, np.full(size, column)
        observations = _rows(buffer, map_observations(lambda array, at=at: array[at], buffer.observations))
        if isinstance(buffer, SequenceReplayBuffer):
            following = _rows(buffer, buffer.next_observations_of(*at))
        else:
            following = _rows(buffer, map_observations(lambda array, at=at: array[at], buffer.next_observations))
        dones, timeouts = buffer.dones[order, column] > 0.5, buffer.timeouts[order, column] > 0.5
        # If training was stopped and resumed, an episode was interrupted: the next step is the first of a new one.
        same = np.array(
            [np.array_equal(*pair, equal_nan=True) for pair in zip(following[:-1], observations[1:], strict=True)], bool
        )
        broken = np.append(~same & ~dones[:-1], False)
        first = -1 if buffer.full else 0  # -1: the first step of the oldest episode has been overwritten
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


def _rows(buffer: ReplayBuffer, observations: Any) -> NDArray[Any]:
    """:return: Observations ``(size, O)``. Those of a ``Dict`` are flattened as ``FlattenObservation`` does."""
    if isinstance(buffer.observation_space, spaces.Dict):
        return flatten_observations(buffer.observation_space, observations, "the replay buffer")
    return observations.reshape(len(observations), -1)  # type: ignore[no-any-return]


def replay_buffer_episodes(
    buffer: ReplayBuffer | str | Path, task: str, where: str = "the replay buffer"
) -> Iterator[SourceEpisode]:
    """
    Read the complete episodes of a replay buffer.

    :param buffer: A replay buffer, or its file.
    :param task: Name of the task.
    :param where: Name of a buffer that is not a file, for messages.
    :return: Iterator of the episodes.
    :raises FileNotFoundError: If the file does not exist.
    :raises ValueError: If it is no replay buffer that can be read, or holds no complete episode.
    """
    if isinstance(buffer, str | Path):
        where = str(buffer)
        buffer = read_replay_buffer(buffer)
    check_replay_buffer(buffer, where)
    number = -1
    for number, episode in enumerate(whole_episodes(buffer)):
        yield SourceEpisode(task, episode, f"episode {number} of {where}")
    if number < 0:
        raise ValueError(f"{where} holds {buffer.size()} steps and no complete episode.")


def replay_buffer_file_episodes(files: Sequence[ReplayBufferFile]) -> Iterator[SourceEpisode]:
    """
    Read the complete episodes of several replay buffers. Those of one task are joined.

    :param files: The files.
    :return: Iterator of the episodes.
    :raises FileNotFoundError: If a file does not exist.
    :raises ValueError: If one is no replay buffer that can be read, or holds no complete episode.
    """
    for task, path in files:
        yield from replay_buffer_episodes(path, task)
