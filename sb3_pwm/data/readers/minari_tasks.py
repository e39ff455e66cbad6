"""Names of the tasks of Minari data sets."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from sb3_pwm.common.checks import check_distinct

# Arguments of environments that change pictures only
_RENDERING = {
    "render_mode",
    "width",
    "height",
    "camera_id",
    "camera_name",
    "default_camera_config",
    "max_geom",
    "visual_options",
}
# A longer list of arguments makes no name.
_MAX_ARGUMENTS = 60


class _Source(NamedTuple):
    """What Minari says of one data set."""

    dataset_id: str
    """Id of the data set without its version, such as ``"D4RL/pen/human"``"""
    task: str | None
    """Name that ``sb3-pwm collect`` has stored, if any"""
    env_id: str | None
    """Id of the environment, if any"""
    env_kwargs: dict[str, Any]
    """Arguments of the environment, without those of its pictures"""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Data sets of the same identity are of the same task."""
        if self.task is not None:
            return "task", self.task, ""
        if self.env_id is not None:
            return "environment", self.env_id, json.dumps(self.env_kwargs, sort_keys=True)
        return "data set", self.dataset_id, ""


def task_names(metadata: Sequence[dict[str, Any]]) -> list[str]:
    """
    Name the tasks of data sets, see :meth:`~sb3_pwm.data.dataset.OfflineDataset.from_minari`.

    :param metadata: Content of the metadata.json of each data set.
    :return: Name of the task of each data set. Different tasks have different names.
    :raises ValueError: If the metadata is damaged, or two tasks cannot be told apart.
    """
    sources = [_source(each) for each in metadata]
    tasks: dict[tuple[str, str, str], _Source] = {}
    for source in sources:
        tasks.setdefault(source.identity, source)
    candidates = {identity: _candidates(source, list(tasks.values())) for identity, source in tasks.items()}
    names = {identity: each.pop(0) for identity, each in candidates.items()}
    while True:
        counts = Counter(names.values())
        unclear = [identity for identity, name in names.items() if counts[name] > 1 and candidates[identity]]
        if not unclear:
            break
        for identity in unclear:
            names[identity] = candidates[identity].pop(0)
    check_distinct("The names of the tasks of Minari data sets", list(names.values()))
    return [names[source.identity] for source in sources]


def _source(metadata: dict[str, Any]) -> _Source:
    dataset_id, task, spec = metadata["dataset_id"], metadata.get("task"), metadata.get("env_spec")
    try:
        spec = {} if spec is None else json.loads(spec)
        env_id, kwargs = spec.get("id"), spec.get("kwargs") or {}
        kwargs = {name: value for name, value in kwargs.items() if name not in _RENDERING}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"The metadata of {dataset_id} has no valid env_spec: {error}.") from error
    # A stored name that the environment has anyway says nothing. Without it, data of others is of the same task.
    is_name = isinstance(task, str) and task != str(env_id).lower()
    return _Source(re.sub(r"-v\d+$", "", dataset_id), task if is_name else None, env_id, kwargs)


def _candidates(source: _Source, tasks: Sequence[_Source]) -> list[str]:
    """:return: Names for the task of a data set, the shortest first."""
    if source.task is not None:
        return [source.task]
    words = source.dataset_id.split("/")
    # "human", "pen/human", "D4RL/pen/human"
    ids = ["/".join(words[first:]) for first in reversed(range(len(words)))]
    if source.env_id is None:
        return ids
    name = source.env_id.lower()
    others = [other.env_kwargs for other in tasks if other.env_id == source.env_id]
    arguments = ", ".join(
        f"{key}={value}"
        for key, value in sorted(source.env_kwargs.items())
        if any(key not in other or other[key] != value for other in others)
    )
    with_id = f"{name}({source.dataset_id})"
    if len(arguments) > _MAX_ARGUMENTS:
        return [name, with_id]
    # An environment without arguments of its own keeps its name.
    return [name, f"{name}({arguments})" if arguments else name, with_id]
