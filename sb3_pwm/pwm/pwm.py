"""PWM: policy learning with a world model, as a Stable-Baselines3 algorithm."""

import dataclasses
import json
import time
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    RolloutReturn,
    Schedule,
    TensorDict,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule, polyak_update, update_learning_rate
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, unwrap_vec_normalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_pwm.common.compilation import Compiler
from sb3_pwm.common.files import replacing, with_suffix
from sb3_pwm.common.keywords import check_number, reject_unknown_keywords
from sb3_pwm.common.layers import EnsembleMLP, frozen
from sb3_pwm.common.memory import explain_out_of_memory
from sb3_pwm.common.observations import map_observations
from sb3_pwm.common.vec_env import BusyWhileStepping
from sb3_pwm.data.batch import SequenceBatch
from sb3_pwm.data.buffers import SequenceReplayBuffer
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.pwm.imagination import (
    LatentRollout,
    ReplayedStates,
    advantage_weights,
    checkpointed_step,
    critic_loss,
    discount_weights,
    imagine,
    imagined_outcomes,
    imagined_return,
    imagined_step,
    td_lambda_returns,
)
from sb3_pwm.pwm.policies import Actor, CnnPolicy, MlpPolicy, MultiInputPolicy, PWMPolicy
from sb3_pwm.world_model.losses import WorldModelLoss, prediction_errors, world_model_loss
from sb3_pwm.world_model.model import WorldModel

SelfPWM = TypeVar("SelfPWM", bound="PWM")

ACTOR_CLIP, CRITIC_CLIP, WORLD_MODEL_CLIP = 1.0, 100.0, 20.0
# The imagined gradient saturates a tanh within hundreds of updates: the coefficient must be faster than the actor.
ENT_COEF_LEARNING_RATE = 3e-3
# The longest horizon that is compiled as one unrolled graph.
LONGEST_UNROLLED = 4
AUTO_COMPILE = {"unrolled": 40_000, "parts": 5_000}
"""
Number of planned updates from which on ``compile="auto"`` compiles, from measurements on a CPU (docs/speed.md).
Unrolled: 100 s of compilation against 3.5 ms per update; parts: 20 s against a fifteenth of an update's 30 to 800 ms.
"""


NOT_SUPPORTED = {
    **dict.fromkeys(
        ("use_sde", "sde_sample_freq", "use_sde_at_warmup"),
        "PWM's policy explores by its own standard deviation, without gSDE; action_noise adds to it.",
    ),
    "n_steps": "PWM's critics have TD(lambda) targets over a horizon of steps: set td_lambda and horizon.",
    "policy_delay": "PWM's actor and critics learn from the same rollouts: set critic_epochs for more of the critics'.",
    "target_update_interval": "PWM's target critics are a running average: set tau.",
}
"""Arguments of SB3's other off-policy algorithms that the method has no place for, and what to use."""


class UnsupportedSpaceError(AssertionError, ValueError):
    """PWM cannot act in, or see, a space. An AssertionError too, since that is what SB3's own algorithms raise here."""


class PWM(OffPolicyAlgorithm):
    """
    Policy Learning with Multi-Task World Models (PWM), learning its world model online or with a pretrained one.

    Paper: https://arxiv.org/abs/2407.02466. At every update the world model is fitted to sequences from the replay
    buffer, the policy is rolled out in it and improved by the gradient of the imagined return, and an ensemble of
    critics is regressed to the TD(lambda) targets of the same rollouts.

    Beside the paper, for learning from scratch: bootstrap values come from a Polyak average of the critics, and an
    entropy bonus with SAC's automatic coefficient keeps the tanh-Gaussian from saturating. Where episodes end in ways
    that the world model does not foresee, the critics can learn from replayed sequences too, as DreamerV3's do
    (arXiv 2301.04104, "critic learning"). docs/experiments.md tells what each of them does.

    With a pretrained world model and offline data (``world_model``, ``dataset``, ``offline=True``) a timestep of
    :meth:`learn` is an update in the world model, and no environment is stepped but for evaluation (PWM section 4.2).
    Set ``offline`` to False afterwards, and the same object goes on in the environment.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` for images, ``"MultiInputPolicy"`` for ``Dict`` observations, or a
        subclass of :class:`~sb3_pwm.pwm.policies.PWMPolicy`.
    :param env: The environment, or its registered id; continuous actions with finite bounds.
    :param learning_rate: Learning rate of the actor; a float or a function of the progress remaining (1 to 0).
    :param critic_learning_rate: Learning rate of the critics; also ``"lin_5e-4"``, linear decay as rl-zoo3 writes it.
    :param world_model_learning_rate: Learning rate of the world model; likewise.
    :param buffer_size: Number of transitions kept, over all environments.
    :param learning_starts: Number of random steps before learning. Updates begin as soon as there is a sequence to
        replay: ``horizon`` steps per environment, with replayed targets ``replay_critic_horizon``.
    :param batch_size: Number of sequences per update, B.
    :param horizon: Number of steps of a replayed sequence and of an imagined rollout, H.
    :param td_lambda: Lambda of the critics' targets, in [0, 1].
    :param rho: Weight of step t in the world-model loss is ``rho ** t``, in [0, 1].
    :param gamma: Discount factor.
    :param tau: Polyak coefficient of the target critics; 1 bootstraps from the critics themselves, as the paper does.
    :param train_freq: Update every so many steps, or ``(n, "episode")``; see SB3.
    :param gradient_steps: Number of updates then; -1: as many as steps were taken.
    :param critic_epochs: Passes over a rollout's states in an update of the critics.
    :param critic_minibatches: Number of parts into which a pass cuts the states.
    :param replay_critic_coef: Weight of the critics' loss on TD(lambda) targets of replayed sequences, relative to the
        imagined ones; 0: imagination only, as in the paper. Replayed targets follow older policies, and know how
        episodes really end: use them (1.0) where the imagined return runs away from the real one. ``"auto"``: 1 with
        ``offline`` and when such a model goes on online, else 0.
    :param replay_critic_horizon: Number of steps of those sequences; there are as many of them as give the critics the
        number of states that the imagined rollouts give.
    :param world_model_steps: World-model updates per update of the actor; 0 freezes the world model. ``"auto"``: 0 with
        a given ``world_model`` and ``offline``, else 1.
    :param world_model: A pretrained world model, or its file (.safetensors, or a .pt of the TD-MPC2 and PWM releases);
        in place of a new one. A saved PWM holds it: loading needs no other file.
    :param dataset: Offline data that fills the replay buffer: an :class:`~sb3_pwm.data.OfflineDataset`, the folder of a
        stored one, or Minari ids or folders.
    :param task: Name of the task, where the world model or the data has several; None: the one that is named like the
        environment's id.
    :param offline: Whether :meth:`learn` steps no environment, see above.
    :param behaviour_coef: With ``offline``, and when such a model goes on online, weight of the squared distance
        between the policy's mean action and the replayed one, which keeps it from where the world model knows nothing.
        0, the paper's: none, for data that holds about everything.
    :param behaviour_temperature: Which of the data's actions count in it: small, those that turned out better than the
        critics expected (:func:`~sb3_pwm.pwm.imagination.advantage_weights`); ``float("inf")``: all alike.
    :param ent_coef: Coefficient of the entropy bonus; ``"auto"`` or ``"auto_0.03"`` (initial value): learned as in SAC.
    :param target_entropy: Target of the learned coefficient, in nats; ``"auto"``: -0.25 per action dimension, which
        the floor of the standard deviation leaves within reach of actions that are not saturated (SAC's -1 does not).
    :param action_noise: Noise added to the actions, see SB3.
    :param replay_buffer_class: A subclass of :class:`~sb3_pwm.data.SequenceReplayBuffer`.
    :param replay_buffer_kwargs: Its further keyword arguments.
    :param optimize_memory_usage: Whether the replay buffer stores each observation once, for half of its memory; see
        :class:`~sb3_pwm.data.SequenceReplayBuffer`.
    :param stats_window_size: Window of the rollout statistics, in episodes.
    :param tensorboard_log: Folder of TensorBoard logs.
    :param policy_kwargs: See :class:`~sb3_pwm.pwm.policies.PWMPolicy`.
    :param precision: ``"float32"``, or ``"bfloat16"``: the networks' products in bfloat16 (``torch.autocast``), losses,
        parameters and latents in single precision. For GPUs, and for CPUs with AVX512-BF16 or AMX; others are slower.
    :param compile: Whether the update passes through ``torch.compile``; ``"auto"``: if ``learn`` is to do so many
        updates that the minutes of compilation pay, see :data:`AUTO_COMPILE`. Up to a horizon of 4 whole losses and
        rollouts are compiled, beyond it their parts, since a graph unrolled over 16 steps takes too long. Needs a C++
        compiler; without one there is a warning and nothing is compiled.
    :param checkpoint_rollout: Whether the rollout keeps only its latents and computes the rest again in the backward
        pass: a third more arithmetic in the rollout for memory that hardly grows with the horizon.
    :param overlap: Whether updates are computed while environments in processes of their own (``SubprocVecEnv``) take
        their next step. The policy then acts on the parameters before the last updates; with other environments there
        is nothing to overlap.
    :param verbose: 0: silent, 1: information, 2: debug.
    :param seed: Seed of all generators.
    :param device: Device of the networks.
    :param _init_setup_model: Whether to build the networks in the constructor.
    :raises UnsupportedSpaceError: If the action space is not a bounded ``Box``, or the observations are a ``Tuple``.
    :raises ValueError: If an argument is out of range; the message names it.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: PWMPolicy
    replay_buffer: SequenceReplayBuffer | None  # type: ignore[assignment]

    def __new__(cls, *args: Any, **kwargs: Any) -> "PWM":
        reject_unknown_keywords(cls, kwargs, NOT_SUPPORTED)
        return super().__new__(cls)

    def __init__(
        self,
        policy: str | type[PWMPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 5e-4,
        critic_learning_rate: float | str | Schedule = 1e-3,
        world_model_learning_rate: float | str | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 128,
        horizon: int = 3,
        td_lambda: float = 0.95,
        rho: float = 0.99,
        gamma: float = 0.99,
        tau: float = 0.02,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        critic_epochs: int = 1,
        critic_minibatches: int = 1,
        replay_critic_coef: float | str = "auto",
        replay_critic_horizon: int = 16,
        world_model_steps: int | str = "auto",
        world_model: WorldModel | str | Path | None = None,
        dataset: OfflineDataset | str | Path | Sequence[str | Path] | None = None,
        task: str | None = None,
        offline: bool = False,
        behaviour_coef: float = 1.0,
        behaviour_temperature: float = 0.5,
        ent_coef: float | str = "auto_0.03",
        target_entropy: float | str = "auto",
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        precision: str = "float32",
        compile: bool | str = "auto",
        checkpoint_rollout: bool = False,
        overlap: bool = True,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        if policy_kwargs is not None and not isinstance(policy_kwargs, dict):
            raise ValueError(f"policy_kwargs must be a dictionary, got {policy_kwargs!r}.")
        if isinstance(policy, type) and not issubclass(policy, PWMPolicy):
            raise ValueError(
                f"policy={policy.__name__} is not one of PWM's: pass a name, or a subclass of sb3_pwm.PWMPolicy. "
                "(A saved model with it is another algorithm's: load it with that one.)"
            )
        if env is not None:
            env = maybe_make_env(env, verbose)
            if isinstance(env, gym.Env | VecEnv):  # else SB3 says what it is
                check_spaces(env.observation_space, env.action_space)
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=SequenceReplayBuffer if replay_buffer_class is None else replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
            sde_support=False,
        )
        self.critic_learning_rate = critic_learning_rate
        self.world_model_learning_rate = world_model_learning_rate
        self.horizon = horizon
        self.td_lambda = td_lambda
        self.rho = rho
        self.critic_epochs = critic_epochs
        self.critic_minibatches = critic_minibatches
        self.replay_critic_coef = replay_critic_coef
        self.replay_critic_horizon = replay_critic_horizon
        self.world_model_steps = world_model_steps
        self.task = task
        self.offline = offline
        self.behaviour_coef = behaviour_coef
        self.behaviour_temperature = behaviour_temperature
        self._learned_offline = False
        # Until the networks and the replay buffer are made; a saved model keeps neither
        self._given_world_model = world_model
        self._given_dataset = dataset
        self.pretrained = world_model is not None
        self.precision = precision
        self.compile = compile
        self.checkpoint_rollout = checkpoint_rollout
        self.overlap = overlap
        self.ent_coef = ent_coef
        self.target_entropy = target_entropy
        self.log_ent_coef: th.Tensor | None = None
        self.ent_coef_optimizer: th.optim.Optimizer | None = None
        self.ent_coef_tensor: th.Tensor | None = None  # a fixed coefficient
        # The termination head is trained and used from the first termination on; most tasks only truncate.
        self._terminations_seen = False
        # Updates that wait for the environments' next step: their number and the batch size
        self._deferring = False
        self._deferred: tuple[int, int] | None = None
        self._n_updates_at_start = 0
        self._normalization: dict[str, Any] = {}  # VecNormalize's statistics, when the model was saved

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        world_model, dataset = self._open_given()
        self._check_arguments()
        with explain_out_of_memory(f"a world model of {self.policy_kwargs}", "Choose a smaller world_model_size."):
            super()._setup_model()
        self.critic_lr_schedule = as_schedule(self.critic_learning_rate, "critic_learning_rate")
        self.world_model_lr_schedule = as_schedule(self.world_model_learning_rate, "world_model_learning_rate")
        if self.target_entropy == "auto":
            self.target_entropy = -0.25 * float(np.prod(self.action_space.shape))  # type: ignore[arg-type]
        if world_model is not None:
            self.policy.world_model.load_state_dict(world_model.state_dict())
        if dataset is not None:
            self.add_dataset(dataset)
        self._world_model_loss: Callable[..., WorldModelLoss] = world_model_loss
        self._imagine: Callable[..., LatentRollout] = (
            partial(imagine, step=checkpointed_step) if self.checkpoint_rollout else imagine
        )
        self._critic: Callable[[th.Tensor], th.Tensor] = self.policy.critic
        self._critic_target: Callable[[th.Tensor], th.Tensor] = self.policy.critic_target
        self._compiled = False
        # On a GPU every check of a gradient would wait for it: train() makes one, after its updates.
        self._checks_at_once = self.device.type == "cpu"
        self._setup_ent_coef()

    def _setup_ent_coef(self) -> None:
        initial, learned = parse_ent_coef(self.ent_coef)
        self.log_ent_coef = self.ent_coef_optimizer = self.ent_coef_tensor = None
        if learned:
            self.log_ent_coef = th.full((1,), np.log(initial), dtype=th.float32, device=self.device, requires_grad=True)
            self.ent_coef_optimizer = th.optim.Adam([self.log_ent_coef], lr=ENT_COEF_LEARNING_RATE, fused=True)
        else:
            self.ent_coef_tensor = th.tensor(initial, device=self.device)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """As SB3's; every environment that a model is given comes through here."""
        env = OffPolicyAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        check_normalization(env)
        return env

    def _open_given(self) -> tuple[WorldModel | None, OfflineDataset | None]:
        """The world model and the data that were given, and what follows from them."""
        world_model, dataset = self._given_world_model, self._given_dataset
        self._given_world_model = self._given_dataset = None
        if isinstance(world_model, str | Path):
            world_model = WorldModel.load(world_model)
        if not (world_model is None or isinstance(world_model, WorldModel)):
            raise ValueError(f"world_model must be a WorldModel or its file, got {world_model!r}.")
        if isinstance(dataset, str | Path | list | tuple):
            dataset = OfflineDataset.open_any(dataset)
        if not (dataset is None or isinstance(dataset, OfflineDataset)):
            raise ValueError(
                f"dataset must be an OfflineDataset, its folder, or Minari ids or folders, got {dataset!r}."
            )
        if world_model is not None:
            # As rl-zoo3's files have them: they are for learning without a pretrained one.
            unused = sorted({"world_model_size", "latent_dim", "world_model_kwargs"} & set(self.policy_kwargs))
            for name in unused:
                del self.policy_kwargs[name]
            if unused:
                warnings.warn(
                    f"world_model has its own size: policy_kwargs' {', '.join(unused)} are not used.", stacklevel=3
                )
            if self._vec_normalize_env is not None and self._vec_normalize_env.norm_obs:
                raise ValueError(
                    "The world model was trained on observations as they are: leave VecNormalize's norm_obs out "
                    "(with rl-zoo3: -params normalize:False)."
                )
            self.policy_kwargs["world_model_config"] = dataclasses.asdict(world_model.config)
            if world_model.config.tasks:
                self.task = self.policy_kwargs["task"] = self._choose_task(world_model.config.tasks, "world model")
        if self.offline and dataset is not None:
            self.learning_starts = 0
        return world_model, dataset

    def _choose_task(self, tasks: Sequence[str], owner: str) -> str:
        """
        :param tasks: Those there are.
        :param owner: Of what, for the error.
        :return: The one that was asked for, else that of the environment's name, else the only one.
        :raises ValueError: If that is none or several.
        """
        if self.task is not None:
            if self.task not in tasks:
                raise ValueError(f"The {owner} has no task {self.task!r}; its tasks are {', '.join(tasks)}.")
            return self.task
        specs = self.env.get_attr("spec") if self.env is not None else []
        name = getattr(specs[0], "id", "").rpartition(":")[2] if specs else ""
        named = [task for task in tasks if task.lower() == name.lower()]
        if len(named) == 1:
            return named[0]
        if len(tasks) == 1:
            return tasks[0]
        raise ValueError(
            f"The {owner} has {len(tasks)} tasks, and none is named like the environment {name!r}: "
            f"give task=, one of {', '.join(tasks)}."
        )

    def add_dataset(self, dataset: OfflineDataset) -> None:
        """
        Add the episodes of a task to the replay buffer.

        :param dataset: The data; of several tasks those of ``task`` are taken.
        :raises ValueError: If it has no such task, its shapes are not the environment's, or it has more steps than
            ``buffer_size``.
        """
        assert isinstance(self.replay_buffer, SequenceReplayBuffer)
        data = dataset.task_data(self._choose_task(dataset.tasks, "data set"))
        self.replay_buffer.add_episodes([data.episode(number) for number in range(len(data.lengths))])
        if data.terminated.any():
            self._terminations_seen = self.policy.world_model.termination_network is not None

    @property
    def actor(self) -> Actor:  # type: ignore[override]
        """The policy's actor."""
        return self.policy.actor

    @property
    def critic(self) -> EnsembleMLP:
        """The policy's critics."""
        return self.policy.critic

    @property
    def critic_target(self) -> EnsembleMLP:
        """Their running average."""
        return self.policy.critic_target

    @property
    def world_model(self) -> WorldModel:
        """The policy's world model."""
        return self.policy.world_model

    @property
    def _n_world_model_steps(self) -> int:
        if self.world_model_steps == "auto":
            return 0 if self.pretrained and self.offline else 1
        return int(self.world_model_steps)

    @property
    def _replay_critic_coef(self) -> float:
        if self.replay_critic_coef == "auto":
            return 1.0 if self._near_data else 0.0
        return self.replay_critic_coef  # type: ignore[return-value]

    @property
    def _behaviour_coef(self) -> float:
        return self.behaviour_coef if self._near_data else 0.0

    @property
    def _replays(self) -> bool:
        """Whether an update needs replayed sequences beside those that rollouts start from."""
        return self._replay_critic_coef > 0.0 or self._behaviour_coef > 0.0

    @property
    def _near_data(self) -> bool:
        """Whether the policy is held at the data: offline, and when it goes on online, or it leaves it at once."""
        return self.offline or self._learned_offline

    def _check_arguments(self) -> None:
        """Refuse at construction what could only fail later."""
        at_least: dict[str, int] = dict(
            buffer_size=1,
            batch_size=1,
            horizon=1,
            critic_epochs=1,
            critic_minibatches=1,
            replay_critic_horizon=1,
        )
        if self.world_model_steps != "auto":
            at_least["world_model_steps"] = 0
        for name, least in at_least.items():
            check_number(name, getattr(self, name), least, integer=True)
        for name in ("td_lambda", "rho", "gamma", "tau"):
            check_number(name, getattr(self, name), 0.0, 1.0)
        check_number("behaviour_coef", self.behaviour_coef, 0.0)
        check_number("behaviour_temperature", self.behaviour_temperature, 0.0, above=True, finite=False)
        for name, minimum in (("replay_critic_coef", 0.0), ("target_entropy", -np.inf)):
            if getattr(self, name) != "auto":
                check_number(f'{name} (if not "auto")', getattr(self, name), minimum)
        if not callable(self.learning_rate):
            check_number("learning_rate", self.learning_rate, 0.0)
        check_number("gradient_steps", self.gradient_steps, -1, integer=True)
        if self.action_noise is not None and not isinstance(self.action_noise, ActionNoise):
            raise ValueError(f"action_noise must be one of SB3's, got {self.action_noise!r}.")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f'precision must be "float32" or "bfloat16", got {self.precision!r}.')
        if self.compile not in (True, False, "auto"):
            raise ValueError(f'compile must be True, False or "auto", got {self.compile!r}.')
        per_env = max(self.buffer_size // self.n_envs, 1) - (1 if self.optimize_memory_usage else 0)
        for name in ("horizon", "replay_critic_horizon") if self._replays else ("horizon",):
            steps = getattr(self, name)
            # A model that is loaded to act alone may have no room to learn.
            if steps > per_env and self.env is not None:
                raise ValueError(
                    f"{name}={steps} is longer than the {per_env} steps per environment that "
                    f"buffer_size={self.buffer_size} holds: raise buffer_size or lower {name}."
                )
        frequency, unit = self.train_freq if isinstance(self.train_freq, tuple) else (self.train_freq, "step")
        check_number("train_freq", frequency, 1, integer=True)
        if self.n_envs > 1 and unit in ("episode", TrainFrequencyUnit.EPISODE):
            raise ValueError(
                f"train_freq={tuple(self.train_freq)} counts episodes, and {self.n_envs} environments end theirs at "  # type: ignore[arg-type]
                'different times: give steps, such as train_freq=(1, "step"), or a single environment.'
            )
        assert self.replay_buffer_class is not None
        if issubclass(self.replay_buffer_class, HerReplayBuffer):
            raise ValueError(
                "PWM replays sequences, whose rewards the world model learns; hindsight relabels single transitions: "
                "leave HerReplayBuffer out, or use SAC or TD3 with it."
            )
        if not issubclass(self.replay_buffer_class, SequenceReplayBuffer):
            raise ValueError(
                f"replay_buffer_class={self.replay_buffer_class.__name__} yields no sequences: leave it out, "
                "or pass a subclass of sb3_pwm.SequenceReplayBuffer."
            )

    def train(self, gradient_steps: int, batch_size: int = 128) -> None:
        """
        Update world model, actor and critics (PWM algorithm 1, with the world model learned alongside).

        :param gradient_steps: Number of updates.
        :param batch_size: Number of replayed sequences and of imagined rollouts in each.
        :raises ValueError: If a loss or gradient is not finite; the message names it and the step.
        :raises MemoryError: If an update does not fit into memory; the message names what to lower.
        """
        if self._deferring:
            self._deferred = (gradient_steps, batch_size)
            return
        assert self.replay_buffer is not None
        if not self._has_enough_data():
            return  # A model that was loaded without its replay buffer collects first.
        if not self._compiled and self._wants_compilation():
            self._compile()
        self.policy.set_training_mode(True)
        self._update_learning_rates()
        metrics: dict[str, list[th.Tensor]] = defaultdict(list)

        advice = (
            f"Lower batch_size (now {batch_size}), horizon (now {self.horizon}) or policy_kwargs' world_model_size, "
            "raise critic_minibatches, set checkpoint_rollout=True, or keep the replay buffer on the host with "
            'replay_buffer_kwargs=dict(storage="host").'
        )
        with explain_out_of_memory(f"an update on {self.device}", advice):
            for _ in range(gradient_steps):
                # At least once even when the world model is frozen: rollouts start from replayed states
                for _ in range(max(self._n_world_model_steps, 1)):
                    batch = self._sample(batch_size, self.horizon)
                    if self._n_world_model_steps > 0:
                        self._update_world_model(batch, metrics)
                    else:
                        self._update_reward_scale(batch)
                self._update_actor_and_critics(batch, metrics)
                self._n_updates += 1

        if not metrics:
            return
        # One transfer for all of them, after the last update: nothing before it waits for the device.
        means = th.stack([th.stack(values).mean() for values in metrics.values()]).tolist()
        for name, mean in zip(metrics, means, strict=True):
            if not np.isfinite(mean):
                self._raise_not_finite(f"train/{name}")
            self.logger.record(f"train/{name}", mean)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    @property
    def _longest_sequence(self) -> int:
        """Steps of the longest sequences that an update replays."""
        return max(self.horizon, self.replay_critic_horizon if self._replays else 0)

    def _has_enough_data(self) -> bool:
        assert self.replay_buffer is not None
        buffer = self.replay_buffer
        return buffer.can_sample(self._longest_sequence) and buffer.size() * self.n_envs >= self.learning_starts

    def _wants_compilation(self) -> bool:
        """Whether to compile the update; ``"auto"`` goes by the number of updates that ``learn`` was asked for."""
        if self.compile != "auto":
            return bool(self.compile)
        assert isinstance(self.train_freq, TrainFreq)
        steps = self._total_timesteps - self.num_timesteps
        if self.gradient_steps < 0:
            updates = float(steps)
        elif self.train_freq.unit == TrainFrequencyUnit.STEP:
            updates = steps / (self.n_envs * self.train_freq.frequency) * self.gradient_steps
        else:
            updates = 0.0  # the length of episodes is not known
        return updates >= AUTO_COMPILE["unrolled" if self.horizon <= LONGEST_UNROLLED else "parts"]

    def _compile(self) -> None:
        """Compile what an update spends its time in; not before the first, since a model that only acts needs none."""
        self._compiled = True
        if self.verbose >= 1:
            print("The first updates compile the networks: up to a few minutes, once per machine and network size")
        compiler = Compiler()
        self._critic, self._critic_target = compiler(self.policy.critic), compiler(self.policy.critic_target)
        if self.horizon <= LONGEST_UNROLLED and not self.checkpoint_rollout:
            self._imagine, self._world_model_loss = compiler(imagine), compiler(world_model_loss)
        elif self.device.type != "cpu":
            # On a CPU these gain nothing (docs/speed.md); a GPU is given fewer kernels to launch.
            step = checkpointed_step if self.checkpoint_rollout else compiler(imagined_step)
            self._imagine = partial(imagine, step=step, outcomes=compiler(imagined_outcomes))
            self._world_model_loss = partial(
                world_model_loss, step=compiler(WorldModel.next), errors=compiler(prediction_errors)
            )

    def _autocast(self) -> th.autocast:
        """Context of the forward passes, see ``precision``."""
        return th.autocast(self.device.type, dtype=th.bfloat16, enabled=self.precision == "bfloat16")

    def _sample(self, batch_size: int, horizon: int) -> SequenceBatch:
        """Replayed sequences whose observations have passed the policy's preprocessing and feature extractor."""
        assert self.replay_buffer is not None
        batch = self.replay_buffer.sample_sequences(batch_size, horizon, env=self._vec_normalize_env)
        task = None
        if self.policy.task_index is not None:
            task = th.full((batch_size,), self.policy.task_index, device=self.device)
        # Of a sequence only the first latent is trained, see losses.open_loop: the others are targets.
        trained = th.is_grad_enabled() and self._n_world_model_steps > 0
        first = self._features(map_observations(lambda values: values[0], batch.observations), trained)
        others = self._features(map_observations(lambda values: values[1:].flatten(0, 1), batch.observations), False)
        features = th.cat([first, others]).unflatten(0, (horizon + 1, batch_size))
        return batch._replace(observations=features, task=task)

    def _features(self, observations: Any, trained: bool) -> th.Tensor:
        """:param observations: ``(N, *)``. :param trained: With gradient? :return: ``(N, observation_dim)``."""
        with th.set_grad_enabled(trained), self._autocast():
            return self.policy.extract_features(observations, self.policy.features_extractor)

    def _update_world_model(self, batch: SequenceBatch, metrics: dict[str, list[th.Tensor]]) -> None:
        policy = self.policy
        with self._autocast():
            loss = self._world_model_loss(policy.world_model, batch, self.rho, termination=self._terminations_seen)
        grad_norm = self._step(policy.world_model_optimizer, loss.total, WORLD_MODEL_CLIP, "world_model")
        self._update_reward_scale(batch)
        metrics["world_model_grad_norm"].append(grad_norm)
        metrics["world_model_loss"].append(loss.total.detach())
        metrics["dynamics_loss"].append(loss.dynamics.detach())
        metrics["reward_loss"].append(loss.reward.detach())
        if self._terminations_seen:
            metrics["termination_loss"].append(loss.termination.detach())

    def _update_reward_scale(self, batch: SequenceBatch) -> None:
        self.policy.reward_scale.update((batch.rewards**2).mean().sqrt())

    def _update_actor_and_critics(self, batch: SequenceBatch, metrics: dict[str, list[th.Tensor]]) -> None:
        policy, gamma = self.policy, self.gamma
        if self._replays:
            replayed = self._replay(batch.mask.numel())
        with th.no_grad(), self._autocast():
            start = policy.world_model.encode(batch.observations[0], batch.task)
        noise = th.randn(self.horizon, len(start), batch.actions.shape[-1], device=self.device)

        # Rollout and its value; rewards and values in units of the reward scale
        with frozen(policy.world_model):
            with self._autocast():
                rollout = self._imagine(
                    policy.world_model, policy.actor, start, noise, batch.task, self._terminations_seen
                )
                final_values = self._critic_target(rollout.latents[-1]).amin(0)  # (B,)
            rewards = rollout.rewards / policy.reward_scale.value
            returns = imagined_return(rewards, rollout.continues, final_values, gamma)
            weights = discount_weights(rollout.continues.detach(), 1.0)[:-1]  # (H, B)
            log_prob = (weights * rollout.log_probs).mean()

            # Actor: the return in units of its own spread, and the entropy bonus
            policy.return_scale.update(returns.detach().std(correction=0))
            ent_coef = self._update_ent_coef(log_prob.detach())
            actor_loss = -returns.mean() / policy.return_scale.value.clamp(min=1.0) + ent_coef * log_prob
            if self._behaviour_coef > 0.0:
                distance = self._behaviour_distance(replayed)
                actor_loss = actor_loss + self._behaviour_coef * distance
                metrics["behaviour_distance"].append(distance.detach())
            actor_grad_norm = self._step(policy.actor_optimizer, actor_loss, ACTOR_CLIP, "actor")

        # Critics: TD(lambda) targets of the same rollout, and of replayed sequences
        with th.no_grad(), self._autocast():
            between = self._critic_target(rollout.latents[1:-1]).amin(0)  # (H - 1, B)
            next_values = th.cat([between, final_values.unsqueeze(0)])
            targets = td_lambda_returns(rewards, rollout.continues, next_values, gamma, self.td_lambda)
        states = rollout.latents[:-1].detach().flatten(0, 1)  # (H B, Z)
        targets, weights = targets.flatten(), weights.flatten()
        if self._replay_critic_coef > 0.0:
            # The loss is a mean over all states; imagined ones are to count as much as without the replayed ones.
            share = 1.0 + len(replayed.latents) / len(states)
            states, targets = th.cat([states, replayed.latents]), th.cat([targets, replayed.targets])
            weights = share * th.cat([weights, self._replay_critic_coef * replayed.mask])
        for _ in range(self.critic_epochs):
            order = th.randperm(len(states), device=self.device)
            for part in order.chunk(self.critic_minibatches):
                with self._autocast():
                    values = self._critic(states[part])  # (N, M)
                loss = critic_loss(values, targets[part], weights[part])
                grad_norm = self._step(policy.critic_optimizer, loss, CRITIC_CLIP, "critic")
                metrics["critic_grad_norm"].append(grad_norm)
                metrics["critic_loss"].append(loss.detach())
        polyak_update(policy.critic.parameters(), policy.critic_target.parameters(), self.tau)

        metrics["actor_loss"].append(actor_loss.detach())
        metrics["actor_grad_norm"].append(actor_grad_norm)
        metrics["imagined_return"].append(returns.detach().mean() * policy.reward_scale.value)
        metrics["value"].append(values.detach().mean() * policy.reward_scale.value)
        metrics["entropy"].append(-log_prob.detach())
        metrics["ent_coef"].append(ent_coef)

    @th.no_grad()
    def _replay(self, n_states: int) -> ReplayedStates:
        """Replayed steps, about that many, with TD(lambda) targets of what really followed."""
        policy = self.policy
        batch = self._sample(max(n_states // self.replay_critic_horizon, 1), self.replay_critic_horizon)
        with self._autocast():
            latents = policy.world_model.encode(batch.observations, batch.task)
            values = self._critic_target(latents).amin(0)
        rewards = batch.rewards / policy.reward_scale.value
        # No target reaches beyond its episode: a truncated one bootstraps from its last observation.
        same_episode = th.cat([batch.mask[1:], th.ones_like(batch.mask[:1])])
        lambdas = self.td_lambda * same_episode
        targets = td_lambda_returns(rewards, 1.0 - batch.terminations, values[1:], self.gamma, lambdas)
        steps = latents[:-1], batch.actions, targets, values[:-1], batch.mask
        return ReplayedStates(*(part.flatten(0, 1) for part in steps))

    def _behaviour_distance(self, replayed: ReplayedStates) -> th.Tensor:
        """Squared distance of the policy's mean action from the data's, those first that turned out well."""
        with self._autocast():
            mean, _ = self.policy.actor(replayed.latents)
        weights = advantage_weights(replayed.targets - replayed.values, replayed.mask, self.behaviour_temperature)
        return (weights * ((th.tanh(mean) - replayed.actions) ** 2).sum(-1)).mean()

    def _update_ent_coef(self, log_prob: th.Tensor) -> th.Tensor:
        """One step of the entropy coefficient towards the target entropy (arXiv 1812.05905, section 5), if learned."""
        if self.log_ent_coef is None or self.ent_coef_optimizer is None:
            assert self.ent_coef_tensor is not None
            return self.ent_coef_tensor
        ent_coef = self.log_ent_coef.detach().exp().squeeze()
        loss = -(self.log_ent_coef * (log_prob + float(self.target_entropy))).sum()
        self.ent_coef_optimizer.zero_grad()
        loss.backward()
        self.ent_coef_optimizer.step()
        return ent_coef

    def _step(self, optimizer: th.optim.Optimizer, loss: th.Tensor, clip: float, name: str) -> th.Tensor:
        """Gradient step of an optimiser's own parameters only. Returns the gradient norm before clipping."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        optimizer.zero_grad()
        # Without `inputs` the frozen networks that the loss passes through would collect gradients too.
        loss.backward(inputs=parameters)
        norm = th.nn.utils.clip_grad_norm_(parameters, clip)
        if self._checks_at_once and not th.isfinite(norm):
            self._raise_not_finite(f"The gradient of the {name} loss")
        optimizer.step()
        return norm

    def _raise_not_finite(self, quantity: str) -> NoReturn:
        raise ValueError(
            f"{quantity} is not finite at step {self.num_timesteps}, update {self._n_updates}: "
            "lower the learning rates, or check the scale of observations and rewards."
        )

    def _update_learning_rates(self) -> None:
        policy = self.policy
        self._update_learning_rate(policy.actor_optimizer)
        progress = self._current_progress_remaining
        update_learning_rate(policy.critic_optimizer, self.critic_lr_schedule(progress))
        update_learning_rate(policy.world_model_optimizer, self.world_model_lr_schedule(progress))
        for group in policy.world_model_optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)

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
        for quantity, values in (("observation", self._last_obs), ("observation", new_obs)):
            self._check_finite(quantity, values)
        self._check_finite("reward", reward)
        self._check_finite("action", buffer_action)
        for i, done in enumerate(dones):
            if not done:
                continue
            last = infos[i].get("terminal_observation")
            if last is not None:
                alone = map_observations(lambda values: np.asarray(values)[None], last)
                self._check_finite("last observation", alone, i)
            truncated = infos[i].get("TimeLimit.truncated", False) and replay_buffer.handle_timeout_termination
            if not truncated:
                self._terminations_seen = True
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _check_finite(self, quantity: str, values: Any, first_env: int = 0) -> None:
        """
        :param quantity: Its name, for the error.
        :param values: One row per environment; an array or a dictionary of them.
        :param first_env: The environment of the first row.
        :raises ValueError: If one of them is NaN or infinite; the message says whose it is.
        """
        named = values.items() if isinstance(values, dict) else [("", values)]
        for name, array in named:
            finite = np.isfinite(np.asarray(array))
            if not finite.all():
                env = first_env + int(np.argmin(finite.reshape(len(finite), -1).all(-1)))
                raise ValueError(
                    f"The {quantity}{f' {name!r}' if name else ''} of environment {env} is NaN or infinite at step "
                    f"{self.num_timesteps}: nothing of this step was stored; check the environment."
                )

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[int, BaseCallback]:
        if self.replay_buffer is not None and (reset_num_timesteps or self._last_obs is None):
            self.replay_buffer.cut_episodes()  # SB3 resets the environments then
        noise = self.action_noise
        if isinstance(noise, VectorizedActionNoise) and noise.n_envs != self.n_envs:  # loaded with another number
            self.action_noise = VectorizedActionNoise(noise.base_noise, self.n_envs)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def learn(
        self: SelfPWM,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "PWM",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfPWM:
        """
        Learn in the environment, see SB3; with ``offline``, in the world model alone.

        :param total_timesteps: Number of environment steps, over all environments; with ``offline``, of updates.
        :param callback: Callbacks.
        :param log_interval: Episodes between logs; with ``offline``, hundreds of updates.
        :param tb_log_name: Name of the TensorBoard run.
        :param reset_num_timesteps: Whether the step count starts anew.
        :param progress_bar: Whether to show a progress bar.
        :return: The model.
        :raises ValueError: If it is to learn offline and has no data.
        """
        if self.offline:
            longest = self._longest_sequence
            size = 0 if self.replay_buffer is None else self.replay_buffer.size()
            if size < longest:
                raise ValueError(
                    f"offline=True needs data of at least {longest} steps per environment, and has {size}: give "
                    "dataset=, or call load_replay_buffer() or add_dataset() first; or set offline to False to learn "
                    "in the environment."
                )
            self._learned_offline = True
        self._n_updates_at_start, self._deferred = self._n_updates, None
        # Without an environment SB3 says below what to do.
        self._deferring = self.overlap and self.env is not None and isinstance(self.env.unwrapped, SubprocVecEnv)
        try:
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        finally:
            self._deferring = False
        self._train_deferred()
        return self

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:
        """
        As SB3's; with ``overlap``, the updates that are due are made while the environments take the first step.

        With ``offline`` no environment is stepped: callbacks are told of a timestep, which is an update.
        """
        if self.offline:
            return self._pass_timestep(*args, **kwargs)
        if self._deferred is not None:
            env = BusyWhileStepping(env, self._train_deferred)
        return super().collect_rollouts(env, *args, **kwargs)

    def _pass_timestep(
        self, callback: BaseCallback, *args: Any, log_interval: int | None = None, **kwargs: Any
    ) -> RolloutReturn:
        """What a rollout of one step tells callbacks and logger, without the step."""
        callback.on_rollout_start()
        self.num_timesteps += 1
        callback.update_locals(locals())
        goes_on = callback.on_step()
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        if log_interval is not None and self.num_timesteps % (100 * log_interval) == 0:
            self.dump_logs()
        callback.on_rollout_end()
        return RolloutReturn(1, 0, goes_on)

    def _train_deferred(self) -> None:
        """Make the updates that :meth:`train` was asked for and put off, if any."""
        if self._deferred is None:
            return
        (gradient_steps, batch_size), self._deferred = self._deferred, None
        deferring, self._deferring = self._deferring, False
        try:
            self.train(gradient_steps, batch_size)
        finally:
            self._deferring = deferring
            self.policy.set_training_mode(False)

    def dump_logs(self) -> None:
        """Add the update rate to what SB3 logs."""
        seconds = max((time.time_ns() - self.start_time) / 1e9, 1e-9)
        self.logger.record("time/updates_per_second", (self._n_updates - self._n_updates_at_start) / seconds)
        super().dump_logs()

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfPWM],
        path: str | Path | BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfPWM:
        """
        Load a model as SB3 does. The file alone is enough: a world model that it was made with is in it.

        :param path: The file; ``.zip`` is appended to a name without an ending. Or an open binary file.
        :param env: The environment to learn in, or in other numbers: the model goes on with as many as it has. Without
            one the model only acts. A VecNormalize that has seen nothing yet gets the statistics that the model was
            saved with.
        :param device: Device of the networks.
        :param custom_objects: By name, what to take in place of what is in the file.
        :param print_system_info: Whether to print the versions that it was saved with, and those here.
        :param force_reset: Whether the environment is reset before learning goes on.
        :param kwargs: Arguments of the constructor, in place of the saved ones; ``dataset`` fills the replay buffer,
            and with ``ent_coef`` the coefficient begins anew.
        :return: The model.
        :raises FileNotFoundError: If there is no such file.
        :raises ValueError: If it is damaged, or another algorithm's, or its spaces are not the environment's.
        """
        reject_unknown_keywords(cls, kwargs, NOT_SUPPORTED)
        if kwargs.pop("world_model", None) is not None:
            warnings.warn("A saved model has its own world model: the one that is given to load() is not used.")
        if "dataset" in kwargs:
            kwargs["_given_dataset"] = kwargs.pop("dataset")
        ent_coef = kwargs.pop("ent_coef", None)
        try:
            model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
            if ent_coef is not None:  # afterwards: the file has the state of its own, or has none
                model.ent_coef = ent_coef
                model._setup_ent_coef()
            model._restore_normalization()
            return model
        except KeyError as error:
            # SB3 looks for an older version's optimiser when a part of the file is missing, or is none of the model's.
            if error.args != ("policy.optimizer",):
                raise
            raise ValueError(f"{path} does not hold the parts of this model: {error.__context__}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is damaged and cannot be loaded: {error}") from error
        except AssertionError as error:
            # A file that is cut short can pass for a whole one: the last part of it is a zip file of its own.
            if "found in the saved file" not in str(error):
                raise
            raise ValueError(f"{path} is cut short, or not a saved model at all: {error}.") from error

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Set parameters as SB3 does.

        :param load_path_or_dict: What :meth:`get_parameters` gives, or a saved model.
        :param exact_match: Whether all parts have to be there.
        :param device: Device to load a file on.
        :raises ValueError: If parts are missing, or are none of this model's.
        """
        parameters = load_path_or_dict
        if not isinstance(parameters, dict):
            parameters = load_from_zip_file(parameters, device=device, load_data=False)[1]
        if "ent_coef_optimizer" in parameters and self.ent_coef_optimizer is None:
            raise ValueError(
                "The parameters are of a model that learns its entropy coefficient, this model's is fixed "
                f"(ent_coef={self.ent_coef!r}): leave 'ent_coef_optimizer' out of them."
            )
        super().set_parameters(parameters, exact_match, device)

    def load_replay_buffer(self, path: str | Path | BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay buffer as SB3 does; one of another number of environments is spread over this one's.

        :param path: The file; ``.pkl`` is appended to a name without an ending. Or an open binary file.
        :param truncate_last_traj: Without effect: what was stored last and what comes next are never one episode.
        :raises FileNotFoundError: If there is no such file.
        :raises ValueError: If it is damaged, holds something else, or was filled in other spaces; the model keeps the
            buffer that it had.
        """
        before = self.replay_buffer
        try:
            super().load_replay_buffer(path, truncate_last_traj)
            loaded = self.replay_buffer
            assert loaded is not None
            if not isinstance(loaded, SequenceReplayBuffer):
                raise ValueError(
                    f"{path} holds a {type(loaded).__name__}, which yields no sequences: read it with "
                    "sb3_pwm.OfflineDataset.from_replay_buffer(), and pass that to add_dataset()."
                )
            for name in ("observation_space", "action_space"):
                theirs, ours = getattr(loaded, name), getattr(self, name)
                if theirs != ours:
                    raise ValueError(f"{path} was filled with the {name} {theirs}, this model's is {ours}.")
            if loaded.n_envs != self.n_envs:
                self.replay_buffer = loaded.spread(self.n_envs)
        except Exception as error:
            self.replay_buffer = before
            if isinstance(error, ValueError | OSError | MemoryError):
                raise
            # Unpickling raises about everything, by where a file ends and what it is.
            raise ValueError(f"{path} is damaged, or is no replay buffer: {error!r}.") from error

    def save(
        self,
        path: str | Path | BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model as SB3 does, but so that an older file stays whole until the new one is.

        :param path: The file; ``.zip`` is appended to a name without an ending. Or an open binary file.
        :param exclude: Names of further attributes to leave out.
        :param include: Names of attributes to keep that are otherwise left out.
        """
        if self._vec_normalize_env is not None:
            theirs = vars(self._vec_normalize_env)
            self._normalization = {name: theirs[name] for name in ("obs_rms", "ret_rms") if name in theirs}
        if not isinstance(path, str | Path):
            super().save(path, exclude, include)
            return
        with replacing(with_suffix(path, ".zip")) as file:
            super().save(file, exclude, include)  # type: ignore[arg-type]

    def _restore_normalization(self) -> None:
        """
        Give a VecNormalize that has seen nothing yet the statistics that the policy was trained with: rl-zoo3's
        checkpoints have no others.
        """
        normalize, kept = self._vec_normalize_env, self._normalization
        if normalize is None or not kept or normalize.ret_rms.count >= 1.0:
            return
        own, theirs = vars(normalize).get("obs_rms"), kept.get("obs_rms")
        if isinstance(own, dict) and isinstance(theirs, dict) and own.keys() != theirs.keys():
            return  # Other entries of a Dict are normalised now.
        vars(normalize).update(kept)
        warnings.warn("VecNormalize has seen nothing yet: its statistics are those that the saved model has.")

    def save_replay_buffer(self, path: str | Path | BufferedIOBase) -> None:
        """
        Save the replay buffer as SB3 does, but so that an older file stays whole until the new one is.

        :param path: The file; ``.pkl`` is appended to a name without an ending. Or an open binary file.
        """
        if not isinstance(path, str | Path):
            super().save_replay_buffer(path)
            return
        with replacing(with_suffix(path, ".pkl")) as file:
            super().save_replay_buffer(file)  # type: ignore[arg-type]

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "_world_model_loss",
            "_imagine",
            "_critic",
            "_critic_target",
            "_compiled",
            "_checks_at_once",
            "ent_coef_tensor",
            "_given_world_model",
            "_given_dataset",
            "_deferring",
            "_deferred",
        ]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", "policy.actor_optimizer", "policy.critic_optimizer", "policy.world_model_optimizer"]
        if self.ent_coef_optimizer is None:
            return state_dicts, []
        return [*state_dicts, "ent_coef_optimizer"], ["log_ent_coef"]


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param observation_space: Observation space of the environment.
    :param action_space: Action space of the environment.
    :raises UnsupportedSpaceError: If PWM cannot use one of them; the message says what to use.
    """
    if not isinstance(action_space, spaces.Box):
        raise UnsupportedSpaceError(
            f"PWM needs a continuous action space (Box), got {action_space}: use DQN or PPO for this environment."
        )
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
        raise UnsupportedSpaceError(
            "Continuous action space must have a finite lower and upper bound for PWM, "
            f"got {action_space}: wrap the environment in gymnasium.wrappers.RescaleAction or ClipAction."
        )
    if isinstance(observation_space, spaces.Tuple):
        raise UnsupportedSpaceError(
            "PWM takes no Tuple observations: make them a Dict (MultiInputPolicy), or wrap the environment in "
            "gymnasium.wrappers.FlattenObservation."
        )


def check_normalization(env: VecEnv) -> None:
    """
    :param env: Environments, as a model steps them.
    :raises ValueError: If they are wrapped further after their normalisation, so that what it saw, which is what the
        replay buffer keeps, has other shapes than what the policy sees.
    """
    normalize = unwrap_vec_normalize(env)
    if normalize is None:
        return
    seen, kept = get_obs_shape(env.observation_space), get_obs_shape(normalize.observation_space)
    if seen != kept:
        raise ValueError(
            f"The replay buffer keeps observations as they come to VecNormalize, here of shape {kept}, and the policy "
            f"sees {seen}: put VecNormalize outermost, as in VecNormalize(VecTransposeImage(env)) for images whose "
            "channels come last, or VecNormalize(VecFrameStack(env, 4))."
        )


def as_schedule(learning_rate: float | str | Schedule, name: str) -> Schedule:
    """
    :param learning_rate: A float, a function of the progress remaining, or ``"lin_<float>"`` for linear decay to zero.
    :param name: The argument's name, for the error.
    :return: Learning rate as a function of the progress remaining.
    :raises ValueError: If a string is of another form, or a number is negative or none at all.
    """
    if isinstance(learning_rate, str):
        kind, _, initial = learning_rate.rpartition("_")
        try:
            value = float(initial)
        except ValueError:
            kind = "?"
        if kind not in ("", "lin") or not 0.0 <= value < np.inf:
            raise ValueError(f'{name}={learning_rate!r} is no learning rate: give a float or "lin_<float>".')
        return FloatSchedule(value if kind == "" else LinearSchedule(value, 0.0, 1.0))
    if not callable(learning_rate):
        check_number(name, learning_rate, 0.0)
    return FloatSchedule(learning_rate)


def parse_ent_coef(ent_coef: float | str) -> tuple[float, bool]:
    """
    :param ent_coef: A float of at least zero, ``"auto"`` or ``"auto_<initial value>"``.
    :return: The (initial) coefficient, and whether it is learned.
    :raises ValueError: If it is of another form.
    """
    learned = isinstance(ent_coef, str) and ent_coef.startswith("auto")
    text = str(ent_coef).removeprefix("auto").removeprefix("_") if learned else ent_coef
    try:
        value = 1.0 if text == "" else float(text)
    except (TypeError, ValueError):
        value = -1.0
    if not 0.0 <= value < np.inf or (learned and value == 0.0):
        raise ValueError(f'ent_coef={ent_coef!r} must be a float of at least 0, "auto" or "auto_<positive float>".')
    return value, learned
