"""Reader of TD-MPC2's data sets (.pt), which executes no code in the files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_pwm.common.plain_tensors import load_plain_tensors
from sb3_pwm.data.types import Episode, SourceEpisode
from sb3_pwm.tasks import MT80, dimensions


class _PlainTensorDict:
    """Replacement for tensordict's TensorDict while a file is read. It only keeps the content."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.content = state.get("_tensordict")


def _plain_tensor_dict(cls: type, state: dict[str, Any]) -> _PlainTensorDict:
    """Replacement for the function with which tensordict restores a TensorDict."""
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
    Read the episodes of TD-MPC2's data sets.

    Row t of an episode in these files holds the action and the reward that led to observation t, and whether that step
    terminated the episode if the file says so. In the first row, they are NaN. Rows without a reward after a
    termination are padding, and are left out.

    :param paths: Files or folders, see :meth:`~sb3_pwm.data.dataset.OfflineDataset.from_tdmpc2`.
    :param tasks: Names of the tasks by task number; None: the names of MT80.
    :return: Iterator of the episodes.
    :raises FileNotFoundError: If a file does not exist.
    :raises ValueError: If a file is damaged or has another format. The message names the file.
    """
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
            rewards = content["reward"][number].numpy().reshape(-1)
            n_rows, terminated = _until_termination(rewards, content["terminated"][number], where)
            observations, actions = (content[name][number][:n_rows].numpy() for name in ("obs", "action"))
            task_numbers = content["task"][number].reshape(-1).unique()
            if len(task_numbers) != 1 or not 0 <= int(task_numbers[0]) < len(names):
                raise ValueError(
                    f"{where} has the task numbers {task_numbers.tolist()}: it must have one, below the number of task "
                    f"names ({len(names)})."
                )
            task = names[int(task_numbers[0])]
            if task in MT80.tasks:
                observation_dim, action_dim = dimensions(task)
                observations = _without_padding(observations, observation_dim)
                actions = np.concatenate([actions[:1, :action_dim], _without_padding(actions[1:], action_dim)])
            episode = Episode(observations, actions[1:], rewards[1:n_rows], terminated)
            yield SourceEpisode(task, episode, where)


def _until_termination(rewards: NDArray[np.float32], terminated: th.Tensor, where: str) -> tuple[int, bool]:
    """
    Find the end of an episode.

    :param rewards: Rewards ``(T,)``.
    :param terminated: Whether the step before each row terminated the episode, T values.
    :param where: File and number of the episode, for messages.
    :return: Number of rows until the first termination, or of all rows if there is none; and whether there is one.
    :raises ValueError: If there are rewards after the termination.
    """
    ends = terminated.reshape(-1).numpy() > 0.5  # NaN in the first row
    if not ends.any():
        return len(rewards), False
    n_rows = int(np.argmax(ends)) + 1
    if np.nan_to_num(rewards[n_rows:]).any():
        raise ValueError(
            f"{where} terminates in row {n_rows - 1} of {len(rewards)}, and rewards follow: split it there."
        )
    return n_rows, True


def _without_padding(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """:return: First columns of the rows, or the same array if its other columns are not zero."""
    # Such an array has too many columns for its task: adding the episode to the data set gives the error.
    return values[:, :size] if not np.any(values[:, size:]) else values


def _read_tdmpc2(path: Path) -> dict[str, th.Tensor]:
    """
    :return: Tensors ``obs (E, T, O)``, ``action (E, T, A)``, ``reward (E, T)``, ``terminated (E, T)``, which is zero if
        the file lacks it, and ``task`` by row or episode.
    """
    content = load_plain_tensors(path, _TENSORDICT)
    if isinstance(content, _PlainTensorDict):
        content = content.content
    wanted = ("obs", "action", "reward", "task")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), th.Tensor) for name in wanted):
        raise ValueError(f"{path} is no data set of TD-MPC2: it must hold the tensors {', '.join(wanted)}.")
    shapes = {name: tuple(content[name].shape) for name in wanted}
    first_two = {shapes[name][:2] for name in ("obs", "action", "reward")}
    if len(first_two) != 1 or len(shapes["obs"]) != 3 or len(shapes["action"]) != 3:
        raise ValueError(f"{path} is no data set of TD-MPC2: its tensors have the shapes {shapes}.")
    terminated = content.get("terminated", th.zeros(shapes["reward"]))
    if not isinstance(terminated, th.Tensor) or terminated.shape[:2] != shapes["obs"][:2]:
        raise ValueError(f"{path} is no data set of TD-MPC2: terminated must have a value for each row.")
    return {**{name: content[name] for name in wanted}, "terminated": terminated}
