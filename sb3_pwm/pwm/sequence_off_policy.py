"""An off-policy algorithm that replays sequences and can learn from data alone."""

import warnings
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv

from sb3_pwm.common.normalization import FEW_RESETS, fit_observations, n_observations, statistics_of
from sb3_pwm.common.off_policy_algorithm import RobustOffPolicyAlgorithm
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.replay_buffer import SequenceReplayBuffer
from sb3_pwm.data.types import tells_nothing
from sb3_pwm.pwm.arguments import choose_task

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="SequenceOffPolicyAlgorithm")


class SequenceOffPolicyAlgorithm(RobustOffPolicyAlgorithm):
    """
    Base class of PWM. Its replay buffer yields sequences, and takes the episodes of offline data.

    With ``offline``, a timestep is an update and no environment is stepped. Callbacks fire as they do online, so that
    evaluation, checkpoints, progress bars and rl-zoo3 work unchanged.

    :param args: Positional arguments of :class:`~sb3_pwm.common.off_policy_algorithm.RobustOffPolicyAlgorithm`.
    :param offline: Whether :meth:`learn` learns from the replay buffer alone.
    :param task: Name of the task, if the data has several. None: the task that is named like the environment.
    :param kwargs: Keyword arguments of :class:`~sb3_pwm.common.off_policy_algorithm.RobustOffPolicyAlgorithm`.
    """

    replay_buffer: SequenceReplayBuffer | None  # type: ignore[assignment]

    def __init__(self, *args: Any, offline: bool = False, task: str | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.offline = offline
        self.learned_offline = False
        self.task = task
        # Whether the termination head has been trained. Most tasks only truncate, and save its time.
        self.terminations_seen = False

    def add_dataset(self, dataset: OfflineDataset) -> None:
        """
        Add the episodes of a task to the replay buffer.

        :param dataset: The data. If it has several tasks, the episodes of ``task`` are taken.
        :raises ValueError: If it has no such task, its shapes are not the environment's, its rewards are beyond what
            the model can tell apart, or it has more steps than ``buffer_size``.
        """
        assert self.replay_buffer is not None
        self._check_task()
        data = dataset.task_data(choose_task(self.task, dataset.tasks, "data set", self.env))
        self._check_rewards(data.reward_range, f"The data of {data.name}", refuse=True)
        self.replay_buffer.add_episodes([data.episode(number) for number in range(len(data.lengths))])

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
        Learn in the environment as SB3's algorithms do; with ``offline``, from the replay buffer alone.

        :param total_timesteps: Number of environment steps over all environments; with ``offline``, of updates.
        :param callback: Callbacks.
        :param log_interval: Number of episodes between logs; with ``offline``, hundreds of updates.
        :param tb_log_name: Name of the TensorBoard run; None: the name of the class.
        :param reset_num_timesteps: Whether the step count starts anew.
        :param progress_bar: Whether to show a progress bar.
        :return: The model.
        :raises ValueError: If the model is to learn offline and has too little data, or would make no updates.
        """
        if self.offline:
            self._check_offline()
            # The data takes the place of the random steps, now and when the model goes on online.
            self.learning_starts = 0
            self.learned_offline = True
            assert self.replay_buffer is not None
            self.replay_buffer.n_new_rows = 0  # whatever it holds is the data
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        if not self.offline and self._n_updates > self._n_updates_at_start and self._has_constant_rewards():
            warnings.warn(
                "All rewards so far were the same, and no policy changes that: there was nothing to learn from. Learn "
                "for longer, until something is rewarded, or check the reward of the environment.",
                stacklevel=2,
            )
        return self

    def _check_offline(self) -> None:
        """
        Check that offline learning makes an update per timestep.

        :raises ValueError: If it does not; the message says what to change.
        """
        if self.gradient_steps not in (1, -1):
            raise ValueError(
                "With offline=True a timestep is one update, and "
                f"gradient_steps={self.gradient_steps} asks for another number: set gradient_steps=1, and ask learn() "
                "for as many timesteps as there are to be updates."
            )
        longest, buffer = self._longest_sequence, self.replay_buffer
        if buffer is None or not buffer.can_sample(longest):
            size = 0 if buffer is None else buffer.size()
            raise ValueError(
                f"offline=True needs data of at least {longest} steps per environment, and has {size}: give "
                "dataset=, or call load_replay_buffer() or add_dataset() first; or set offline to False to learn "
                "in the environment."
            )
        if self._has_constant_rewards():
            warnings.warn(
                f"All rewards of the data are {buffer.reward_range[0]:g}, and no policy changes that: there is nothing "
                "to learn from. Give data in which episodes earn more and less.",
                stacklevel=3,
            )
        longest_episode = int(buffer.episode_lengths.max())
        if longest_episode < self._trained_steps and buffer.timeouts[: buffer.size()].any():
            warnings.warn(
                f"The episodes of the data last at most {longest_episode} of the {self._trained_steps} steps of "
                "horizon: the policy is learned from imagined steps that the world model was not trained for. Give "
                f"longer episodes, or lower horizon to {longest_episode}.",
                stacklevel=3,
            )

    def _has_constant_rewards(self) -> bool:
        """:return: Whether all rewards in the replay buffer are the same, and it does not matter when episodes end."""
        buffer = self.replay_buffer
        if buffer is None or buffer.size() == 0:
            return False
        low, high = buffer.reward_range
        return tells_nothing(low if low == high else None, buffer.has_terminations)

    @property
    def _trained_steps(self) -> int:
        """Number of steps in a row that the world model learns to predict; 0 if it does not learn."""
        return 0

    def _check_task(self) -> None:
        """:raises ValueError: If ``task`` was set to another task than the policy's."""

    def _check_rewards(self, rewards: tuple[float, float], where: str, refuse: bool) -> None:
        """
        Check rewards that come into the replay buffer.

        :param rewards: Smallest and largest of them.
        :param where: Noun phrase for what has the rewards, for messages.
        :param refuse: Whether rewards that the model cannot use are an error. If not, they are a warning.
        :raises ValueError: If the model cannot use them, and they are to be refused.
        """

    def _store_transition(
        self, replay_buffer: ReplayBuffer, buffer_action: Any, new_obs: Any, reward: np.ndarray, *args: Any
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, *args)
        stored = reward if self._vec_normalize_env is None else self._vec_normalize_env.get_original_reward()
        self._check_rewards((float(np.min(stored)), float(np.max(stored))), "The environment", refuse=False)

    @property
    def _longest_sequence(self) -> int:
        """Number of steps of the longest sequences that an update replays."""
        return 1

    def _has_enough_data(self) -> bool:
        """:return: Whether updates can begin. A model that was loaded without its replay buffer collects first."""
        buffer = self.replay_buffer
        assert buffer is not None
        return buffer.can_sample(self._longest_sequence) and buffer.size() * self.n_envs >= self.learning_starts

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        self._check_task()
        self._prepare_normalization()  # before environments are reset, which normalizes their first observations
        # SB3 resets the environments if one of these holds: what comes next does not follow from what is stored.
        resets = kwargs.get("reset_num_timesteps", args[1] if len(args) > 1 else True) or self._last_obs is None
        if resets and self.replay_buffer is not None:
            self.replay_buffer.truncate_episodes()
        return super()._setup_learn(total_timesteps, *args, **kwargs)

    def _prepare_normalization(self) -> None:
        """Give a new ``VecNormalize`` the statistics of the data, and freeze it if the model learns from data alone."""
        normalize, buffer = self._vec_normalize_env, self.replay_buffer
        if normalize is None or not normalize.norm_obs or buffer is None:
            return
        statistics, n_stored = statistics_of(normalize), buffer.size() * self.n_envs
        if n_observations(statistics) < min(FEW_RESETS * self.n_envs + 1, n_stored):
            fit_observations(normalize, buffer.stored_observations())
            self._last_obs = None  # it was normalized otherwise: SB3 resets the environments
            warnings.warn(
                f"VecNormalize has seen hardly any observation: it was given the statistics of the {n_stored} "
                "observations in the replay buffer."
            )
        self._freeze_normalization()

    def _freeze_normalization(self) -> None:
        """Keep the statistics of observations as they are, if the policy has learned offline with them."""
        normalize = self._vec_normalize_env
        if self.learned_offline and normalize is not None and normalize.norm_obs and normalize.training:
            normalize.training = False
            warnings.warn(
                "VecNormalize is frozen (training=False): a policy that was learned offline knows observations as "
                "its statistics normalize them now, and would see others if they moved."
            )

    def _restore_normalization(self, owner: str) -> None:
        super()._restore_normalization(owner)
        self._freeze_normalization()

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:  # type: ignore[override]
        """Collect transitions as SB3 does. With ``offline``, tell callbacks of a timestep that stands for an update."""
        if self.offline:
            return self._offline_timestep(env, *args, **kwargs)
        return super().collect_rollouts(env, *args, **kwargs)

    def _offline_timestep(
        self, env: VecEnv, callback: BaseCallback, *args: Any, log_interval: int | None = None, **kwargs: Any
    ) -> RolloutReturn:
        """Tell callbacks and logger what a rollout of one step would tell them, without the step."""
        callback.on_rollout_start()
        self.num_timesteps += 1
        # What callbacks may ask a step for: there are no rewards, no episode ends, and nothing is reported.
        rewards, dones = np.zeros(env.num_envs, np.float32), np.zeros(env.num_envs, bool)
        infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
        new_obs = self._last_obs
        callback.update_locals(locals())
        continue_training = callback.on_step()
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        if log_interval is not None and self.num_timesteps % (100 * log_interval) == 0:
            self.dump_logs()
        callback.on_rollout_end()
        return RolloutReturn(1, 0, continue_training)

    def _overlaps_updates(self) -> bool:
        return not self.offline and super()._overlaps_updates()

    def _planned_updates(self) -> float:
        return float(self._total_timesteps - self.num_timesteps) if self.offline else super()._planned_updates()

    def _adopt_replay_buffer(self, loaded: ReplayBuffer, path: Any) -> ReplayBuffer:
        if not isinstance(loaded, SequenceReplayBuffer):
            raise ValueError(
                f"{path} holds a {type(loaded).__name__}, which yields no sequences: read it with "
                "sb3_pwm.OfflineDataset.from_replay_buffer(), and pass that to add_dataset()."
            )
        super()._adopt_replay_buffer(loaded, path)
        self._check_rewards(loaded.reward_range, f"The replay buffer {path}", refuse=self.offline)
        return loaded if loaded.n_envs == self.n_envs else loaded.resize_n_envs(self.n_envs)
