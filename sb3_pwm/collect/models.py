"""Saved models of SB3, sb3-contrib and this package: where their files are, and how they are loaded to act."""

from __future__ import annotations

import base64
import importlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm.data.environments import flat_space
from sb3_pwm.pwm.pwm import PWM

ALGORITHMS = {
    **{name.lower(): ("stable_baselines3", name) for name in ("A2C", "DDPG", "DQN", "PPO", "SAC", "TD3")},
    **{name.lower(): ("sb3_contrib", name) for name in ("ARS", "CrossQ", "QRDQN", "TQC", "TRPO")},
    "maskable_ppo": ("sb3_contrib", "MaskablePPO"),
    "ppo_lstm": ("sb3_contrib", "RecurrentPPO"),
    "pwm": ("sb3_pwm", "PWM"),
}
"""Package and class of each algorithm, by the name that rl-zoo3 has for it"""

_SHARED_POLICIES = {
    "sb3_contrib.common.recurrent.policies": "ppo_lstm",
    "sb3_contrib.common.maskable.policies": "maskable_ppo",
}
"""Modules of policies that do not have the name of their algorithm"""

MAX_REASON = 300
"""Number of characters of another library's message that an error repeats"""


class ModelFiles(NamedTuple):
    """The files of a saved model."""

    model: Path
    """The zip file"""
    algorithm: str | None
    """Name of the algorithm, if the user gave it"""
    statistics: Path | None
    """The vecnormalize.pkl, if there is one"""


def find_files(source: str, env_id: str) -> ModelFiles:
    """
    Find the files of a model.

    rl-zoo3 writes ``<algorithm>/<env>_<number>/<env>.zip``, and ``<env>/vecnormalize.pkl`` beside it.

    :param source: Zip file or folder of a run of rl-zoo3. The name of an algorithm and a colon may be before it.
    :param env_id: Environment id of the task.
    :return: The files.
    :raises FileNotFoundError: If there is no model.
    """
    algorithm, _, rest = source.partition(":")
    is_named = algorithm in ALGORITHMS and bool(rest)
    path = Path(rest if is_named else source)
    if path.is_dir():
        path = path / f"{path.name.rpartition('_')[0]}.zip"
    elif path.suffix != ".zip":  # SB3's save() adds the ending
        path = path.with_name(f"{path.name}.zip")
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no model {path}: give a zip file of SB3 or sb3-contrib, or the folder of a run, such as "
            "logs/pwm/Walker-walk_1."
        )
    folder = path.parent
    env_names = (folder.name.rpartition("_")[0], env_id.replace("/", "-"), path.stem, ".")
    candidates = [folder / name / "vecnormalize.pkl" for name in env_names if name]
    statistics = next((file for file in candidates if file.is_file()), None)
    return ModelFiles(path, algorithm if is_named else None, statistics)


def load_model(files: ModelFiles, env: gymnasium.Env[Any, Any]) -> BaseAlgorithm:
    """
    Load a model to act in an environment. Its replay buffer gets no memory. Loading a model can execute code in the
    file, as with SB3's ``load``: open only files that you trust.

    Objects that only learning needs are not read, because those of older versions of Python, Gym or NumPy often cannot
    be.

    :param files: The files of the model.
    :param env: The environment.
    :return: The model, on the CPU.
    :raises ImportError: If sb3-contrib is needed and not installed.
    :raises ValueError: If the file cannot be loaded, its algorithm is not known, or the model has other spaces than the
        environment.
    """
    content = _read_content(files.model)
    package, name = ALGORITHMS[files.algorithm or _algorithm_of(files.model, content)]
    trained_on = [_saved_space(content.get(key)) for key in ("observation_space", "action_space")]
    _check_spaces(files.model, trained_on, content, env)
    if package == "sb3_pwm":
        return _load(PWM, files.model)
    observation_space, action_space = trained_on
    custom: dict[str, Any] = {
        "observation_space": observation_space or env.observation_space,
        "action_space": action_space or env.action_space,
        "learning_rate": 0.0,
        **dict.fromkeys(("lr_schedule", "clip_range"), _zero),
        **{key: {} for key in ("replay_buffer_kwargs", "rollout_buffer_kwargs")},
        **dict.fromkeys(("replay_buffer_class", "rollout_buffer_class", "action_noise", "clip_range_vf")),
        **dict.fromkeys(("ep_info_buffer", "ep_success_buffer", "tensorboard_log")),
        **dict.fromkeys(("_last_obs", "_last_original_obs", "_last_episode_starts")),
    }
    small = {"buffer_size": 1, "n_steps": 1, "n_envs": 1, "optimize_memory_usage": False}
    values = {key: value for key, value in small.items() if key in content}
    return _load(_class(package, name, files.model), files.model, custom_objects=custom, **values)


def load_statistics(file: Path, env: gymnasium.Env[Any, Any]) -> VecNormalize:
    """
    Load the statistics that a model's observations are normalized with.

    :param file: The vecnormalize.pkl.
    :param env: The environment.
    :return: An object whose ``normalize_obs`` works. It has no environment.
    :raises ValueError: If the file cannot be read, or is for observations of another shape.
    """
    try:
        with file.open("rb") as stream:
            statistics = _StatisticsUnpickler(stream).load()
    except Exception as error:  # unpickling raises almost any kind of error
        raise ValueError(f"{file} cannot be read as a VecNormalize: {error}.") from error
    if not isinstance(statistics, VecNormalize):
        raise ValueError(f"{file} holds a {type(statistics).__name__}, not a VecNormalize.")
    rms: Any = getattr(statistics, "obs_rms", None)
    if statistics.norm_obs and rms is not None and not isinstance(rms, dict):
        allowed = [env.observation_space.shape, flat_space(env.observation_space).shape]
        if np.shape(rms.mean) not in allowed:
            raise ValueError(f"{file} is for observations of {np.shape(rms.mean)}; the environment has {allowed[0]}.")
    return statistics


class _Ignored:
    """Replacement for an object that normalization does not need."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _StatisticsUnpickler(pickle.Unpickler):
    """Unpickler of a VecNormalize that reads no spaces and no random generators: those of older versions fail."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in ("gym", "gymnasium") or module.startswith("numpy.random"):
            return _Ignored
        return super().find_class(module, name)


def _zero(_: float) -> float:
    """Schedule of a model that does not learn."""
    return 0.0


def _read_content(file: Path) -> dict[str, Any]:
    """:return: Attributes of the saved model, as SB3 has written them in JSON."""
    try:
        with zipfile.ZipFile(file) as archive:
            content = json.loads(archive.read("data"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{file} is not a saved model of SB3 or sb3-contrib: {error}.") from error
    return dict(content)


def _algorithm_of(file: Path, content: dict[str, Any]) -> str:
    """
    Tell the algorithm from the policy, else from the folder that rl-zoo3 has written the run to.

    :raises ValueError: If neither says it.
    """
    policy = content.get("policy_class")
    module = policy.get("__module__", "") if isinstance(policy, dict) else ""
    if module == "stable_baselines3.common.policies":
        return "trpo" if "cg_max_steps" in content else "ppo" if "clip_range" in content else "a2c"
    found = re.fullmatch(r"(?:stable_baselines3|sb3_contrib|sb3_pwm)\.(\w+)\.policies", module)
    named = [_SHARED_POLICIES.get(module), found and found[1], file.resolve().parent.parent.name]
    for algorithm in named:
        if algorithm in ALGORITHMS:
            return str(algorithm)
    raise ValueError(
        f"{file} does not say which algorithm it is of: name it, as policy:ALGORITHM:{file}. The algorithms are "
        f"{', '.join(ALGORITHMS)}."
    )


def _class(package: str, name: str, file: Path) -> type[BaseAlgorithm]:
    try:
        return getattr(importlib.import_module(package), name)  # type: ignore[no-any-return]
    except ImportError as error:
        raise ImportError(
            f"{file} is a model of {name}, which needs {package}: pip install {package.replace('_', '-')}."
        ) from error


def _load(cls: type[BaseAlgorithm], file: Path, **kwargs: Any) -> BaseAlgorithm:
    try:
        return cls.load(file, device="cpu", **kwargs)
    except Exception as error:  # unpickling raises almost any kind of error
        reason = " ".join(str(error).split())  # a line for each wrong parameter
        shortened = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}..."
        raise ValueError(f"{file} cannot be loaded as a model of {cls.__name__}: {shortened}") from error


def _saved_space(saved: Any) -> spaces.Space[Any] | None:
    """:return: A space that SB3 has written; None if it is of Gym, or of another version that cannot be read."""
    try:
        space = cloudpickle.loads(base64.b64decode(saved[":serialized:"]))
    except Exception:  # unpickling raises almost any kind of error
        return None
    return space if isinstance(space, spaces.Space) else None


def _check_spaces(
    file: Path, trained_on: Iterable[spaces.Space[Any] | None], content: dict[str, Any], env: gymnasium.Env[Any, Any]
) -> None:
    """:raises ValueError: If a model was trained on other spaces than the environment's."""
    observations, actions = trained_on
    shapes = [
        _shape(space) if space is not None else _written_shape(content.get(key))
        for key, space in (("observation_space", observations), ("action_space", actions))
    ]
    # A model may have learned from flat observations, as models of data sets do.
    allowed = {_shape(env.observation_space), _shape(flat_space(env.observation_space))}
    if shapes[0] not in {*allowed, ""} or shapes[1] not in {_shape(env.action_space), ""}:
        raise ValueError(
            f"{file} was trained on observations {shapes[0]} and actions {shapes[1]}; "
            f"{env.spec.id if env.spec else 'the environment'} has {_shape(env.observation_space)} and "
            f"{_shape(env.action_space)}."
        )
    if isinstance(actions, spaces.Box) and isinstance(env.action_space, spaces.Box):
        theirs, ours = (np.stack([space.low, space.high]).astype(np.float64) for space in (actions, env.action_space))
        if not np.allclose(theirs, ours, rtol=1e-5):
            raise ValueError(
                f"{file} was trained on actions between {_bounds(actions)}; the environment has actions between "
                f"{_bounds(env.action_space)}."
            )


def _shape(space: spaces.Space[Any]) -> str:
    """:return: The shape of a Box, the shapes of the entries of a Dict, or another space in words."""
    if isinstance(space, spaces.Dict):
        return "{" + ", ".join(f"{key}: {_shape(entry)}" for key, entry in sorted(space.spaces.items())) + "}"
    return str(space.shape) if isinstance(space, spaces.Box) else str(space)


def _bounds(space: spaces.Box) -> str:
    """:return: The bounds of a space, in words."""
    return f"{space.low.tolist()} and {space.high.tolist()}"


def _written_shape(saved: Any) -> str:
    """:return: Shape of a space that cannot be unpickled, which SB3 writes beside it. Empty: it is not known."""
    shape = (saved.get("_shape") or saved.get("shape")) if isinstance(saved, dict) else None
    return str(tuple(shape)) if isinstance(shape, list) else ""
