"""SB3's off-policy base class with what a user relies on in long runs: safe files, checked data, overlapped updates."""

import json
import time
import warnings
import zipfile
import zlib
from collections import deque
from collections.abc import Iterable
from copy import deepcopy
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, open_path
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    RolloutReturn,
    TensorDict,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_pwm.common.checks import check_finite, reject_unknown_keywords
from sb3_pwm.common.files import atomic_write, with_suffix
from sb3_pwm.common.metrics import Metrics
from sb3_pwm.common.normalization import check_normalization, is_unused, statistics_of
from sb3_pwm.common.observations import map_observations
from sb3_pwm.common.vec_env import OverlappedVecEnv
from sb3_pwm.common.version import (
    FILE_FORMAT,
    FileFormatError,
    __version__,
    check_file_format,
    is_of_older_version,
)

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="RobustOffPolicyAlgorithm")


class RobustOffPolicyAlgorithm(OffPolicyAlgorithm):
    """
    Base class of PWM. It learns nothing by itself: subclasses implement :meth:`train`, as with SB3's base class.

    Beside what SB3's class does:

    - Models and replay buffers are saved atomically. A file that cannot be loaded gives an error that says why.
    - A model and a replay buffer can be loaded for another number of environments.
    - A model keeps the statistics of the ``VecNormalize`` that it was trained with.
    - Every transition is checked for NaN and infinity before it is stored.
    - Updates can be computed while environments in other processes take their step (``overlap_updates``).

    :param args: Positional arguments of SB3's :class:`OffPolicyAlgorithm`.
    :param overlap_updates: Whether updates are computed while environments in processes of their own step.
    :param kwargs: Keyword arguments of SB3's :class:`OffPolicyAlgorithm`.
    """

    unsupported_arguments: ClassVar[dict[str, str]] = {}
    """Arguments that the constructor refuses: by name, a sentence that says what to use."""

    def __init__(self, *args: Any, overlap_updates: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.overlap_updates = overlap_updates
        self.file_format = FILE_FORMAT
        self.sb3_pwm_version = __version__
        self._deferred = DeferredUpdates()
        self._overlapped: OverlappedVecEnv | None = None
        self._n_updates_at_start = 0
        self._normalization: dict[str, Any] = {}  # statistics of VecNormalize when the model was saved

    def __new__(cls, *args: Any, **kwargs: Any) -> "RobustOffPolicyAlgorithm":
        reject_unknown_keywords(cls, kwargs, cls.unsupported_arguments)
        return super().__new__(cls)

    @property
    def n_updates(self) -> int:
        """Number of updates that the model has made."""
        return self._n_updates

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Wrap an environment as SB3 does. Every environment that a model is given passes through here."""
        env = OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        check_normalization(env)
        return env

    # --- Learning ---------------------------------------------------------------------------------------------------

    def learn(
        self: SelfAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAlgorithm:
        """
        Learn in the environment, as SB3's algorithms do.

        :param total_timesteps: Number of environment steps over all environments.
        :param callback: Callbacks.
        :param log_interval: Number of episodes between logs.
        :param tb_log_name: Name of the TensorBoard run; None: the name of the class.
        :param reset_num_timesteps: Whether the step count starts anew.
        :param progress_bar: Whether to show a progress bar.
        :return: The model.
        """
        self._n_updates_at_start = self._n_updates
        tb_log_name = type(self).__name__ if tb_log_name is None else tb_log_name
        self._deferred = DeferredUpdates(active=self._overlaps_updates())
        try:
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        finally:
            self._deferred.active = False
        self._make_deferred_updates()
        return self

    def _overlaps_updates(self) -> bool:
        """:return: Whether updates are put off until the environments step."""
        # Without an environment SB3 says in learn() what to do.
        return self.overlap_updates and self.env is not None and isinstance(self.env.unwrapped, SubprocVecEnv)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[int, BaseCallback]:
        noise = self.action_noise
        if isinstance(noise, VectorizedActionNoise) and noise.n_envs != self.n_envs:  # loaded with another number
            self.action_noise = VectorizedActionNoise(noise.base_noise, self.n_envs)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:  # type: ignore[override]
        """Collect transitions as SB3 does. Deferred updates are made while the environments take the first step."""
        if self._deferred.request is not None:
            if self._overlapped is None or self._overlapped.venv is not env:
                # Once per environment: a wrapper asks all worker processes for their render mode.
                self._overlapped = OverlappedVecEnv(env, self._make_deferred_updates)
            env = self._overlapped
        return super().collect_rollouts(env, *args, **kwargs)

    def _sample_action(self, *args: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
        """Sample actions as SB3 does. What is stored is the action that was taken, which may have been rounded."""
        action, _ = super()._sample_action(*args, **kwargs)
        return action, self.policy.scale_action(action)

    def _defer_updates(self, gradient_steps: int, batch_size: int) -> bool:
        """
        Put updates off until the environments take their next step.

        :param gradient_steps: Number of updates.
        :param batch_size: Size of their batches.
        :return: Whether they were put off. If not, they are to be made now.
        """
        if self._deferred.active:
            self._deferred.request = gradient_steps, batch_size
        return self._deferred.active

    def _make_deferred_updates(self) -> None:
        """Make the updates that were put off, if any."""
        deferred = self._deferred
        if deferred.request is None:
            return
        (gradient_steps, batch_size), deferred.request = deferred.request, None
        was_active, deferred.active = deferred.active, False
        try:
            self.train(gradient_steps, batch_size)
        finally:
            deferred.active = was_active
            self.policy.set_training_mode(False)

    def _planned_updates(self) -> float:
        """:return: Number of updates that :meth:`learn` has yet to make; 0 if it is not known."""
        assert isinstance(self.train_freq, TrainFreq)
        timesteps = self._total_timesteps - self.num_timesteps
        if self.gradient_steps < 0:
            return float(timesteps)
        if self.train_freq.unit != TrainFrequencyUnit.STEP:
            return 0.0  # it depends on the length of the episodes
        return timesteps / (self.n_envs * self.train_freq.frequency) * self.gradient_steps

    def _log_metrics(self, metrics: Metrics) -> None:
        """
        Log the means of an update's metrics under ``train/``.

        :param metrics: The metrics.
        :raises ValueError: If a mean is not finite; the message names it and the step.
        """
        for name, mean in metrics.means().items():
            if not np.isfinite(mean):
                self._raise_not_finite(f"train/{name}")
            self.logger.record(f"train/{name}", mean)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _raise_not_finite(self, quantity: str) -> NoReturn:
        raise ValueError(
            f"{quantity} is not finite at step {self.num_timesteps}, update {self._n_updates}: "
            "lower the learning rates, or check the scale of observations and rewards."
        )

    def dump_logs(self) -> None:
        """Log what SB3 logs, and the update rate."""
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self.logger.record("time/updates_per_second", (self._n_updates - self._n_updates_at_start) / seconds)
        super().dump_logs()

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        # Checked here and not in the losses: one bad row in the buffer would surface many updates later.
        for quantity, values in (
            ("observation", self._last_obs),
            ("observation", new_obs),
            ("reward", reward),
            ("action", buffer_action),
        ):
            check_finite(quantity, values, self.num_timesteps)
        for env in np.flatnonzero(dones).tolist():
            last = infos[env].get("terminal_observation")
            if last is not None:
                row = map_observations(lambda values: np.asarray(values)[None], last)
                check_finite("last observation", row, self.num_timesteps, env)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    # --- Files ------------------------------------------------------------------------------------------------------

    def save(
        self,
        path: str | Path | BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model as SB3 does, but atomically: an older file stays whole until the new one is complete.

        :param path: The file, or an open binary file. ``.zip`` is appended to a name without a suffix.
        :param exclude: Names of further attributes to leave out.
        :param include: Names of attributes to keep that are otherwise left out.
        """
        self.sb3_pwm_version = __version__  # a loaded model may have been saved by another
        self._keep_normalization()
        if not isinstance(path, str | Path):
            super().save(path, exclude, include)
            return
        with atomic_write(with_suffix(path, ".zip")) as file:
            super().save(file, exclude, include)  # type: ignore[arg-type]

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfAlgorithm],
        path: str | Path | BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfAlgorithm:
        """
        Load a model as SB3 does.

        :param path: The file, or an open binary file. ``.zip`` is appended to a name without a suffix.
        :param env: The environment to learn in; any number of environments will do. Without one the model only acts. A
            ``VecNormalize`` that has seen no observation yet gets the statistics that the model was saved with.
        :param device: Device of the networks.
        :param custom_objects: Objects to use in place of what the file holds, by name.
        :param print_system_info: Whether to print the versions that the model was saved with, and the installed ones.
        :param force_reset: Whether the environment is reset before learning goes on.
        :param kwargs: Arguments of the constructor that replace the saved ones.
        :return: The model.
        :raises FileNotFoundError: If there is no such file.
        :raises ValueError: If the file is damaged, was written by another algorithm or an older version, or if its
            spaces are not the environment's.
        """
        reject_unknown_keywords(cls, kwargs, cls.unsupported_arguments)
        stats_window_size = kwargs.pop("stats_window_size", None)
        try:
            check_file_format(path, "model", _read_file_format(path))
            model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        except KeyError as error:
            # SB3 looks for the optimizer of an older version when the file lacks a part, or has one too many.
            if error.args != ("policy.optimizer",):
                raise
            raise ValueError(f"{path} does not hold the parts of this model: {error.__context__}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is damaged and cannot be loaded: {error}") from error
        except AssertionError as error:
            # A file that was cut short can pass for a whole one: its last part is a zip file of its own.
            if "found in the saved file" not in str(error):
                raise
            raise ValueError(f"{path} is cut short, or not a saved model at all: {error}.") from error
        model._restore_normalization("the saved model")
        if stats_window_size is not None:
            model._set_stats_window(stats_window_size)
        return model

    def _set_stats_window(self, size: int) -> None:
        """:param size: Number of episodes that rollout statistics are averaged over, from the latest ones on."""
        self._stats_window_size = size
        for name in ("ep_info_buffer", "ep_success_buffer"):
            episodes = getattr(self, name)
            setattr(self, name, None if episodes is None else deque(episodes, maxlen=size))

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Set the environment as SB3 does.

        :param env: The environment. A ``VecNormalize`` that has seen no observation yet gets the statistics of the one
            before.
        :param force_reset: Whether the environment is reset before learning goes on.
        """
        self._keep_normalization()
        super().set_env(env, force_reset)
        self._restore_normalization("the one before")

    def _keep_normalization(self) -> None:
        """Keep the statistics of ``VecNormalize`` in the model."""
        if self._vec_normalize_env is not None:
            self._normalization = statistics_of(self._vec_normalize_env)

    def _restore_normalization(self, owner: str) -> None:
        """
        Give a new VecNormalize the statistics that the model keeps: rl-zoo3's checkpoints hold no others.

        :param owner: Noun phrase for what has these statistics, for the message.
        """
        normalize, kept = self._vec_normalize_env, deepcopy(self._normalization)
        if normalize is None or not kept or not is_unused(statistics_of(normalize), self.n_envs):
            return
        if is_unused(kept, self.n_envs) or not _are_of_the_same(kept, statistics_of(normalize)):
            return
        vars(normalize).update(kept)
        warnings.warn(f"VecNormalize has seen no observation yet: it was given the statistics of {owner}.")

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Set parameters as SB3 does.

        :param load_path_or_dict: What :meth:`get_parameters` returns, or a saved model.
        :param exact_match: Whether all parts have to be given.
        :param device: Device to load a file on.
        :raises ValueError: If parts are missing or unknown, or the file was written by an older version.
        """
        parameters = load_path_or_dict
        if not isinstance(parameters, dict):
            check_file_format(parameters, "model", _read_file_format(parameters))
            parameters = load_from_zip_file(parameters, device=device, load_data=False)[1]
        self._check_parameters(parameters)
        super().set_parameters(parameters, exact_match, device)

    def _check_parameters(self, parameters: TensorDict) -> None:
        """
        Check parameters before any of them is set.

        :param parameters: Parameters by the name of their part.
        :raises ValueError: If they cannot be this model's.
        """

    def save_replay_buffer(self, path: str | Path | BufferedIOBase) -> None:
        """
        Save the replay buffer as SB3 does, but atomically: an older file stays whole until the new one is complete.

        :param path: The file, or an open binary file. ``.pkl`` is appended to a name without a suffix.
        """
        if not isinstance(path, str | Path):
            super().save_replay_buffer(path)
            return
        with atomic_write(with_suffix(path, ".pkl")) as file:
            super().save_replay_buffer(file)  # type: ignore[arg-type]

    def load_replay_buffer(self, path: str | Path | BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer as SB3 does. A buffer of another number of environments is resized to this model's.

        :param path: The file, or an open binary file. ``.pkl`` is appended to a name without a suffix.
        :param truncate_last_traj: Without effect: new steps never continue the last stored episode.
        :raises FileNotFoundError: If there is no such file.
        :raises ValueError: If the file is damaged, holds something else, was written by an older version, or was filled
            in other spaces. The model keeps the buffer that it had.
        """
        before = self.replay_buffer
        try:
            super().load_replay_buffer(path, truncate_last_traj)
            assert self.replay_buffer is not None
            self.replay_buffer = self._adopt_replay_buffer(self.replay_buffer, path)
        except FileFormatError as error:  # the buffer does not know its path
            self.replay_buffer = before
            raise FileFormatError(path, "replay buffer", error.file_format) from None
        except Exception as error:
            self.replay_buffer = before
            if isinstance(error, ValueError | OSError | MemoryError):
                raise
            if is_of_older_version(error):
                raise FileFormatError(path, "replay buffer", 1) from error
            # Unpickling raises almost any kind of error, depending on where the file ends and what it holds.
            raise ValueError(f"{path} is damaged, or is no replay buffer: {error!r}.") from error

    def _adopt_replay_buffer(self, loaded: ReplayBuffer, path: Any) -> ReplayBuffer:
        """
        Check a replay buffer that was loaded.

        :param loaded: The buffer.
        :param path: The file that it was loaded from, for messages.
        :return: The buffer that the model takes, which is this one or one made of it.
        :raises ValueError: If the model cannot use it.
        """
        for name in ("observation_space", "action_space"):
            theirs, ours = getattr(loaded, name), getattr(self, name)
            if theirs != ours:
                raise ValueError(f"{path} was filled with the {name} {theirs}, this model's is {ours}.")
        return loaded

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_deferred", "_overlapped"]


class DeferredUpdates:
    """
    Updates that wait for the environments' next step.

    :param active: Whether updates are put off at all.
    """

    def __init__(self, active: bool = False):
        self.active = active
        self.request: tuple[int, int] | None = None
        """Number of updates and size of their batches; None if no updates wait"""


def _are_of_the_same(kept: dict[str, Any], current: dict[str, Any]) -> bool:
    """:return: Whether kept statistics are of the observations or ``Dict`` entries that are normalized now."""
    theirs, ours = kept.get("obs_rms"), current.get("obs_rms")
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return theirs.keys() == ours.keys()
    return (theirs is None) == (ours is None)


def _read_file_format(path: str | Path | BufferedIOBase) -> int:
    """
    :param path: A saved model, or an open binary file.
    :return: The format that it was written in; 1 if it does not say, :data:`FILE_FORMAT` if it is no model at all.
    """
    file = open_path(path, "r", verbose=0, suffix="zip")
    try:
        with zipfile.ZipFile(file) as archive:
            data = json.loads(archive.read("data"))
    except (KeyError, UnicodeDecodeError):  # SB3 says what is missing
        return FILE_FORMAT
    finally:
        if isinstance(path, str | Path):
            file.close()
        else:
            file.seek(0)
    # Models of other algorithms have no format of ours: SB3 says below what does not fit.
    if "file_format" not in data and "world_model_learning_rate" not in data:
        return FILE_FORMAT
    return int(data.get("file_format", 1))
