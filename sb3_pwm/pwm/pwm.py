"""PWM: policy learning with a world model, as a Stable-Baselines3 algorithm."""

import warnings
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule, TensorDict
from stable_baselines3.common.utils import polyak_update, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_pwm.common.layers import EnsembleMLP, frozen
from sb3_pwm.common.memory import explain_out_of_memory
from sb3_pwm.common.metrics import Metrics
from sb3_pwm.common.outliers import warn_of_outliers
from sb3_pwm.common.precision import autocast
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.replay_buffer import SequenceReplayBuffer
from sb3_pwm.data.types import SequenceBatch, SequenceSampling
from sb3_pwm.pwm import arguments, losses, optimizers, self_evaluation
from sb3_pwm.pwm.arguments import DatasetArgument, WorldModelArgument
from sb3_pwm.pwm.entropy import EntropyCoefficientMixin
from sb3_pwm.pwm.imagination import LatentRollout
from sb3_pwm.pwm.lbfgs import LBFGS
from sb3_pwm.pwm.losses import ReplayedStates
from sb3_pwm.pwm.networks import Actor
from sb3_pwm.pwm.observation_checks import ObservationWatch, summarize_buffer
from sb3_pwm.pwm.phase import PHASE_ARGUMENTS, Phase, current_phase
from sb3_pwm.pwm.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PWMPolicy
from sb3_pwm.pwm.self_evaluation import BestActor
from sb3_pwm.pwm.sequence_off_policy import SequenceOffPolicyAlgorithm
from sb3_pwm.pwm.update_functions import UpdateFunctions, pays_to_compile
from sb3_pwm.world_model.config import DEFAULT_SIZE
from sb3_pwm.world_model.losses import termination_loss
from sb3_pwm.world_model.model import WorldModel
from sb3_pwm.world_model.normalization import set_statistics
from sb3_pwm.world_model.reward_range import check_reward_range

SelfPWM = TypeVar("SelfPWM", bound="PWM")

ACTOR_CLIP, CRITIC_CLIP, WORLD_MODEL_CLIP = 1.0, 100.0, 20.0


class Given(NamedTuple):
    """Arguments that are used once, when the networks and the replay buffer are made; they are not saved."""

    world_model: WorldModelArgument = None
    dataset: DatasetArgument = None


class Imagined(NamedTuple):
    """What the actor's update leaves to the critics'."""

    rollout: LatentRollout
    """Rollout of the actor"""
    final_values: th.Tensor
    """``(B,)`` values of its last latents, by the target critics"""


class PWM(EntropyCoefficientMixin, SequenceOffPolicyAlgorithm):
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

    With SB3's ``VecNormalize`` the networks see normalized observations. Rewards are replayed in the environment's
    units, whatever ``norm_reward`` is: PWM divides them by a running scale of its own. A ``VecNormalize`` that has
    hardly seen an observation gets the statistics of the replay buffer's, if any, when :meth:`learn` begins. Offline
    learning freezes it (``training=False``), also for online learning afterwards and after loading.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` for images, ``"MultiInputPolicy"`` for ``Dict`` observations, or a
        subclass of :class:`~sb3_pwm.pwm.policies.PWMPolicy`.
    :param env: The environment, or its registered id. Its actions are continuous, with finite bounds.
    :param learning_rate: Learning rate of the actor: a number, a function of the progress remaining (1 to 0), or
        ``"lin_5e-4"`` for linear decay to zero, as rl-zoo3 writes it. ``"auto"``: ``"lin_5e-4"`` offline, where the
        last updates decide how good the policy is that :meth:`learn` ends with, else 5e-4.
    :param critic_learning_rate: Learning rate of the critics, in the same forms but for ``"auto"``.
    :param world_model_learning_rate: Learning rate of the world model, in the same forms but for ``"auto"``.
    :param buffer_size: Number of transitions that the replay buffer keeps, over all environments.
    :param learning_starts: Number of random steps before learning. The first update also needs one sequence to replay
        (``horizon`` steps per environment; ``replay_critic_horizon`` if sequences are replayed for the critics).
        Offline learning sets it to 0, since the data takes the place of random steps.
    :param batch_size: Number of sequences per update, B. L-BFGS needs 32 or more.
    :param horizon: Number of steps of a replayed sequence and of an imagined rollout, H.
    :param td_lambda: Lambda of the critics' TD(lambda) targets, in [0, 1].
    :param rho: Decay of the weights in the world-model loss, in [0, 1]. Step t has weight ``rho ** t``.
    :param gamma: Discount factor.
    :param tau: Polyak coefficient of the target critics. With 1 the critics bootstrap from themselves, as in the paper.
    :param train_freq: Number of steps between updates, or ``(n, "episode")``; see SB3.
    :param gradient_steps: Number of updates after these steps. -1: as many as there were steps.
    :param n_critic_epochs: Number of passes over a rollout's states in an update of the critics.
    :param n_critic_minibatches: Number of minibatches in a pass.
    :param imagined_critic_coef: Weight of the critics' loss on TD(lambda) targets of imagined rollouts, which is the
        paper's. Offline, what is imagined away from the data is never corrected, and values that bootstrap on it climb.
        ``"auto"``: 0 offline and when the model goes on online afterwards, else 1.
    :param replay_critic_coef: Weight of the critics' loss on TD(lambda) targets of replayed sequences. 0 is the paper's
        method. Replayed targets follow older policies, but know how episodes really end: use 1.0 where the imagined
        return runs away from the real one. ``"auto"``: 1 offline and when the model goes on online afterwards, else 0.
    :param replay_critic_horizon: Number of steps of these replayed sequences. Their number is such that the critics get
        as many replayed states as imagined ones.
    :param replay_critic_expectile: Expectile of the replayed targets that the critics learn, above 0 and below 1. At
        0.5 it is their mean: the value of the mixture of policies that made the data. A higher one follows what the
        better of them reached from a state (IQL, arXiv 2110.06169). ``"auto"``: 0.7 offline and when the model goes on
        online afterwards, else 0.5.
    :param discounted_fraction: Fraction of the replayed sequences that are drawn by the discounted visits of their
        episodes, step t with the weight ``gamma ** t``, as the objective counts states. The others are drawn uniformly.
        A policy has to begin where episodes begin, of which long episodes hold few steps. ``"auto"``: 0.5 offline and
        when the model goes on online afterwards, else 0.
    :param new_fraction: Fraction of the replayed sequences that are drawn from the model's own steps in the environment
        since the data was added. If all stored steps were equally likely, a large data set would hide them (RLPD, arXiv
        2302.02948). ``"auto"``: 0.5 when the model goes on online after offline learning, else 0. See
        :class:`~sb3_pwm.data.SequenceSampling`.
    :param lr_scale: Factor of all three learning rates. A policy that was extracted from data is lost in a thousand
        steps if the world model, whose latents it sees, learns as fast as from scratch. ``"auto"``: 0.1 when the model
        goes on online after offline learning, else 1.
    :param actor_tau: Polyak coefficient of the average of the actor's weights, which acts wherever actions are
        deterministic: in evaluations and exported policies. The first updates have larger ones, so that the average
        soon forgets the untrained weights. With 1 it is the actor itself. ``"auto"``: 0.005 offline and when the model
        goes on online afterwards, where single updates can lose what was extracted, else 1.
    :param world_model_updates: Number of world-model updates per update of the actor; 0 freezes the world model. A
        termination head that a pretrained world model did not have is trained all the same, and nothing else of it.
        ``"auto"``: 0 offline with a pretrained world model, else 1.
    :param world_model_loss_kwargs: Coefficients ``dynamics_coef``, ``reward_coef``, ``termination_coef`` and
        ``behavior_coef`` of :func:`~sb3_pwm.world_model.losses.world_model_loss`, where they depart from its defaults.
    :param world_model: The world model that the policy owns. A new one: the name of a preset (``"200K"``, ``"1M"``,
        ``"5M"``, ``"19M"``, ``"48M"``, ``"317M"``), a dictionary of fields of
        :class:`~sb3_pwm.world_model.WorldModelConfig` (with the preset that they depart from as ``size``), or a
        configuration. A pretrained one: a :class:`~sb3_pwm.world_model.WorldModel`, or its file (.safetensors, or a .pt
        of the TD-MPC2 and PWM releases). A configuration or pretrained model without a termination head gets one. A
        saved model holds its world model: loading needs no other file. None: the one in ``policy_kwargs``, else
        ``"200K"``.
    :param dataset: Offline data that fills the replay buffer: an :class:`~sb3_pwm.data.OfflineDataset`, the folder of a
        stored one, Minari ids or folders, or files of replay buffers, see :meth:`OfflineDataset.load`.
    :param task: Name of the task, if the world model or the data has several. None: the task that is named like the
        environment.
    :param offline: Whether :meth:`learn` learns from the replay buffer alone.
    :param bc_coef: Weight of the behavior-cloning term in the actor's loss: the negative log-likelihood of the replayed
        actions, with the spread that they have around the policy's mean actions. It keeps the policy where the world
        model knows the dynamics: as near to the data as their actions are to each other. ``"auto"``: 1 offline and when
        the model goes on online afterwards, else 0, which is the paper's method. ``"auto_2.5"``: the same with 2.5
        instead of 1. See :func:`~sb3_pwm.pwm.losses.behavior_loss`.
    :param bc_dropout: Dropout of the actor's hidden layers in that term, against learning few data by heart. The
        imagined return is computed without it. ``"auto"``: offline and when the model goes on online afterwards, 0.3
        with up to 10,000 steps of data, falling linearly to 0 with 30,000; else 0.
    :param bc_temperature: Temperature of the weights of the replayed actions in that term, in units of the standard
        deviation of the advantages. A small one imitates only actions after which the episode turned out better than
        the critics expected; ``float("inf")`` imitates all alike. See :func:`~sb3_pwm.pwm.losses.advantage_weights`.
    :param keep_best: Whether offline learning ends with the best policy, where the last one is much worse. The judge
        is the world model: it rolls the policy out from where the episodes of the data begin, ten times while
        :meth:`learn` makes 500 updates or more (``train/rollout_return``). Where the last policy's rollouts leave the
        data, the judge is not believed, and the last policy stays.
    :param ent_coef: Coefficient of the entropy bonus. ``"auto"`` or ``"auto_0.03"`` (with an initial value) learns it,
        as SAC does.
    :param target_entropy: Target of the learned coefficient, in nats. ``"auto"``: -0.25 per action dimension. The floor
        of the standard deviation puts SAC's -1 out of reach of actions that are not saturated.
    :param policy_optimizer: Optimizer of the actor. ``"adam"``: a step per update, by the policy's ``optimizer_class``
        (Adam) and ``learning_rate``. ``"lbfgs"``: a round of L-BFGS per update, see
        :class:`~sb3_pwm.pwm.lbfgs.LBFGS`. Its iterations share the update's start latents, action noise and replayed
        states. It evaluates the actor's gradient several times (``train/actor_evaluations``), while the critics make
        as many steps as with Adam: raise ``n_critic_epochs`` and ``tau`` for more. ``learning_rate`` has no effect.
    :param policy_optimizer_kwargs: Keyword arguments of :class:`~sb3_pwm.pwm.lbfgs.LBFGS`; with ``"adam"``, those of
        ``optimizer_class`` for the actor alone.
    :param action_noise: Noise added to the actions, see SB3.
    :param replay_buffer_class: A subclass of :class:`~sb3_pwm.data.SequenceReplayBuffer`.
    :param replay_buffer_kwargs: Further keyword arguments of the replay buffer.
    :param optimize_memory_usage: Whether the replay buffer stores each observation once, in half of the memory; see
        :class:`~sb3_pwm.data.SequenceReplayBuffer`.
    :param stats_window_size: Number of episodes that rollout statistics are averaged over.
    :param tensorboard_log: Folder of the TensorBoard logs.
    :param policy_kwargs: Keyword arguments of the policy, see :class:`~sb3_pwm.pwm.policies.PWMPolicy`.
    :param precision: ``"float32"``, or ``"bfloat16"`` for matrix products in bfloat16 (``torch.autocast``); losses,
        parameters and latents stay in single precision. ``"auto"``: bfloat16 on CPUs with AVX512-BF16 or AMX if the
        world model's networks have a width of 512 (``"5M"``) or more, else float32. It pays on GPUs too.
    :param compile: Whether the update passes through ``torch.compile``. ``"auto"``: if ``learn`` is to make enough
        updates to win back the minutes of compilation, see :data:`~sb3_pwm.pwm.update_functions.AUTO_COMPILE`. Without
        a C++ compiler there is a warning, and nothing is compiled.
    :param gradient_checkpointing: Whether rollouts keep only their latents, and compute the rest again in the backward
        pass. This costs a third more arithmetic, and memory hardly grows with the horizon.
    :param overlap_updates: Whether updates are computed while environments in processes of their own
        (``SubprocVecEnv``) take their next step. The policy then acts on the parameters before the last updates.
    :param verbose: 0: no output, 1: information, 2: debug messages.
    :param seed: Seed of all random number generators.
    :param device: Device of the networks.
    :param _init_setup_model: Whether the constructor builds the networks.
    :raises UnsupportedSpaceError: If the action space is not a bounded ``Box``, or the observations are a ``Tuple``.
    :raises ValueError: If an argument is out of range; the message names it.
    """

    unsupported_arguments: ClassVar[dict[str, str]] = arguments.UNSUPPORTED
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: PWMPolicy
    _watch: ObservationWatch | None = None

    def __init__(
        self,
        policy: str | type[PWMPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = "auto",
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
        n_critic_epochs: int = 1,
        n_critic_minibatches: int = 1,
        imagined_critic_coef: float | str = "auto",
        replay_critic_coef: float | str = "auto",
        replay_critic_horizon: int = 16,
        replay_critic_expectile: float | str = "auto",
        discounted_fraction: float | str = "auto",
        new_fraction: float | str = "auto",
        lr_scale: float | str = "auto",
        actor_tau: float | str = "auto",
        world_model_updates: int | str = "auto",
        world_model_loss_kwargs: dict[str, float] | None = None,
        world_model: WorldModelArgument = None,
        dataset: DatasetArgument = None,
        task: str | None = None,
        offline: bool = False,
        bc_coef: float | str = "auto",
        bc_dropout: float | str = "auto",
        bc_temperature: float = 0.1,
        keep_best: bool = True,
        ent_coef: float | str = "auto_0.03",
        target_entropy: float | str = "auto",
        policy_optimizer: str = "adam",
        policy_optimizer_kwargs: dict[str, Any] | None = None,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        precision: str = "auto",
        compile: bool | str = "auto",
        gradient_checkpointing: bool = False,
        overlap_updates: bool = True,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        arguments.check_policy(policy, policy_kwargs, task)
        if _init_setup_model:
            arguments.check_env(env)
        if env is not None:
            env = maybe_make_env(env, verbose)
            if isinstance(env, gym.Env | VecEnv):  # else SB3 says what it is
                arguments.check_spaces(env.observation_space, env.action_space)
        super().__init__(
            policy,
            env,
            learning_rate,  # type: ignore[arg-type]  # a string becomes a schedule in _setup_lr_schedule
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
            policy_kwargs=dict(policy_kwargs or {}),  # a copy: the caller may make other models with it
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.Box,),
            support_multi_env=True,
            sde_support=False,
            offline=offline,
            task=task,
            overlap_updates=overlap_updates,
        )
        self.critic_learning_rate = critic_learning_rate
        self.world_model_learning_rate = world_model_learning_rate
        self.horizon = horizon
        self.td_lambda = td_lambda
        self.rho = rho
        self.n_critic_epochs = n_critic_epochs
        self.n_critic_minibatches = n_critic_minibatches
        self.imagined_critic_coef = imagined_critic_coef
        self.replay_critic_coef = replay_critic_coef
        self.replay_critic_horizon = replay_critic_horizon
        self.replay_critic_expectile = replay_critic_expectile
        self.discounted_fraction = discounted_fraction
        self.new_fraction = new_fraction
        self.lr_scale = lr_scale
        self.actor_tau = actor_tau
        self.world_model_updates = world_model_updates
        self.world_model_loss_kwargs = {} if world_model_loss_kwargs is None else world_model_loss_kwargs
        self.bc_coef = bc_coef
        self.bc_dropout = bc_dropout
        self.bc_temperature = bc_temperature
        self.keep_best = keep_best
        self.precision = precision
        self.compile = compile
        self.gradient_checkpointing = gradient_checkpointing
        self.ent_coef = ent_coef
        self.target_entropy = target_entropy
        self.policy_optimizer = policy_optimizer
        self.policy_optimizer_kwargs = {} if policy_optimizer_kwargs is None else policy_optimizer_kwargs
        self.pretrained = False
        # Whether the termination head learns although the world model is frozen, because it was not pretrained.
        self.trains_new_termination_head = False
        self.rewards_exceed_range = False
        self.statistics_are_fixed = False  # a pretrained world model knows the observations of its tasks
        self._best_actor = BestActor()
        self._given = Given(world_model, dataset)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        (world_model, dataset), self._given = self._given, Given()
        fields, pretrained = arguments.resolve_world_model(world_model)
        offline_data = arguments.resolve_dataset(dataset)
        if fields is not None:
            if "world_model" in self.policy_kwargs:  # as rl-zoo3's configurations and trials have it
                warnings.warn("world_model takes the place of the one in policy_kwargs.", stacklevel=3)
            self.policy_kwargs["world_model"] = fields
        self.pretrained = self.pretrained or pretrained is not None
        tasks = arguments.tasks_of(self.policy_kwargs.get("world_model"))
        if tasks:
            task = self.policy_kwargs.get("task") or self.task
            self.task = self.policy_kwargs["task"] = arguments.choose_task(task, tasks, "world model", self.env)
        if offline_data is not None and pretrained is None:
            task = arguments.choose_task(self.task, offline_data.tasks, "data set", self.env)
            arguments.fit_reward_bins(self.policy_kwargs, offline_data.task_data(task).reward_range)
        arguments.check_arguments(self)
        size = self.policy_kwargs.get("world_model", DEFAULT_SIZE)
        with explain_out_of_memory(f"a world model of {size}", "Choose a smaller world_model."):
            super()._setup_model()
        if self.pretrained:  # a loaded model too, whose environment may be a new one
            arguments.check_pretrained(self.policy, self._vec_normalize_env)
        if pretrained is not None:
            self.policy.world_model.load_state_dict(pretrained.state_dict())
            self.trains_new_termination_head = pretrained.has_new_termination_head
            self.statistics_are_fixed = not self.world_model.lacks_statistics_of(self.task)
        self.critic_lr_schedule = arguments.as_schedule(self.critic_learning_rate, "critic_learning_rate")
        self.world_model_lr_schedule = arguments.as_schedule(
            self.world_model_learning_rate, "world_model_learning_rate"
        )
        self._functions = UpdateFunctions(self.policy, self.gradient_checkpointing)
        if self.policy_optimizer != "adam" or self.policy_optimizer_kwargs:
            self._setup_policy_optimizer()
        self._setup_ent_coef()
        if offline_data is not None:
            self.add_dataset(offline_data)

    def _setup_lr_schedule(self) -> None:
        learning_rate = arguments.DEFAULT_LEARNING_RATE if self.learning_rate == "auto" else self.learning_rate
        self.lr_schedule = arguments.as_schedule(learning_rate, "learning_rate")  # type: ignore[assignment]

    def _setup_policy_optimizer(self) -> None:
        """Give the actor a new optimizer."""
        self.policy.actor_optimizer = self.policy.make_actor_optimizer(
            self.lr_schedule(1), self.policy_optimizer, **self.policy_optimizer_kwargs
        )

    def _change_policy_optimizer(self, name: str | None, options: dict[str, Any] | None) -> None:
        """Give the actor another optimizer, if it has another name or other options. None: as they are."""
        before = self.policy_optimizer, self.policy_optimizer_kwargs
        self.policy_optimizer = before[0] if name is None else name
        if options is None:
            options = before[1] if self.policy_optimizer == before[0] else {}
        self.policy_optimizer_kwargs = options
        if (self.policy_optimizer, options) != before:
            arguments.check_policy_optimizer(self)
            self._setup_policy_optimizer()

    def _check_parameters(self, parameters: TensorDict) -> None:
        super()._check_parameters(parameters)
        arguments.check_optimizer_state(parameters.get("policy.actor_optimizer"), self.policy.actor_optimizer)

    def _check_task(self) -> None:
        arguments.check_task(self.task, self.policy)

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
        """The running average of the critics, which bootstraps."""
        return self.policy.critic_target

    @property
    def world_model(self) -> WorldModel:
        """The policy's world model."""
        return self.policy.world_model

    @property
    def phase(self) -> Phase:
        """What an update does in the phase of learning that the model is in."""
        values = {name: getattr(self, name) for name in PHASE_ARGUMENTS}
        n_steps = 0 if self.replay_buffer is None else self.replay_buffer.size() * self.replay_buffer.n_envs
        return current_phase(values, self.offline, self.learned_offline, self.pretrained, n_steps)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._setup_learn(*args, **kwargs)
        self._best_actor = BestActor()
        return result

    # --- The update (PWM algorithm 1) --------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 128) -> None:
        """
        Update world model, actor and critics.

        :param gradient_steps: Number of updates.
        :param batch_size: Number of replayed sequences and of imagined rollouts in each.
        :raises ValueError: If a loss or gradient is not finite; the message names it and the step.
        :raises MemoryError: If an update does not fit into memory; the message names what to lower.
        """
        if self._defer_updates(gradient_steps, batch_size) or not self._has_enough_data():
            return
        self._prepare_updates()
        phase, metrics = self.phase, Metrics()
        with explain_out_of_memory(f"an update on {self.device}", self._memory_advice(batch_size)):
            for _ in range(gradient_steps):
                # At least one batch even if the world model is frozen: rollouts start from replayed states.
                for _ in range(max(phase.n_world_model_updates, 1)):
                    batch = self._sample(batch_size, self.horizon, trained=phase.trains_world_model)
                    self._update_world_model(batch, phase, metrics)  # equation 4
                imitated = self._replay_steps(batch.mask.numel()) if phase.bc_coef > 0.0 else None
                if imitated is not None and phase.counts_latents:
                    self.policy.count_latents(imitated.latents)
                imagined = self._update_actor(batch, imitated, phase, metrics)  # equation 6
                replayed = self._replay(batch.mask.numel()) if phase.replay_critic_coef > 0.0 else None
                self._update_critics(imagined, replayed, phase, metrics)  # equation 8
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                actor_tau = optimizers.averaging_coefficient(phase.actor_tau, self._n_updates)
                polyak_update(self.actor.parameters(), self.policy.actor_average.parameters(), actor_tau)
                self._n_updates += 1
        self._log_metrics(metrics)
        optimizer = self.policy.actor_optimizer
        if isinstance(optimizer, LBFGS):
            self.logger.record("train/actor_evaluations", optimizer.n_evaluations)
            self.logger.record("train/line_search_failures", optimizer.n_failures)
        if self.offline and self.keep_best:
            self._judge_policy()

    def _update_world_model(self, batch: SequenceBatch, phase: Phase, metrics: Metrics) -> None:
        """Make a step on the world-model loss, unless the world model is frozen."""
        policy, termination = self.policy, self.uses_termination

        def closure() -> Any:
            with self._autocast():
                loss = self._functions.world_model_loss(
                    policy.world_model, batch, self.rho, termination=termination, **self.world_model_loss_kwargs
                )
            return loss.total, loss

        if phase.trains_world_model:
            if not self.statistics_are_fixed:
                policy.world_model.count_observations(batch.observations[0], policy.task_index)
            loss, grad_norm = self._step(policy.world_model_optimizer, closure, WORLD_MODEL_CLIP, "world_model")
            metrics.record(world_model_grad_norm=grad_norm, world_model_loss=loss.total)
            metrics.record(dynamics_loss=loss.dynamics, reward_loss=loss.reward)
            if termination:
                metrics.record(termination_loss=loss.termination)
            if policy.world_model.behavior_network is not None:
                metrics.record(behavior_loss=loss.behavior)
        elif termination and self.trains_new_termination_head:
            self._update_termination_head(batch, metrics)
        policy.reward_scale.update((batch.rewards**2).mean().sqrt())

    def _update_termination_head(self, batch: SequenceBatch, metrics: Metrics) -> None:
        """Make a step of the termination head alone."""
        world_model = self.policy.world_model

        def closure() -> Any:
            with self._autocast():
                loss = termination_loss(world_model, batch, self.rho)
            return loss, loss

        with frozen(world_model):
            world_model.termination_network.requires_grad_(True)  # type: ignore[union-attr]
            loss, _ = self._step(self.policy.world_model_optimizer, closure, WORLD_MODEL_CLIP, "termination")
        metrics.record(termination_loss=loss)

    def _judge_policy(self) -> None:
        """
        Judge the policy now and then, and at the end go back to the best one if the last is much worse.

        The last policy stays if its rollouts left the data, where the world model has made up what it says.
        """
        start = self._num_timesteps_at_start
        done, total = self.num_timesteps - start, self._total_timesteps - start
        is_last = done >= total
        every = max(total // self_evaluation.N_EVALUATIONS, 1)
        if total < self_evaluation.MIN_UPDATES or (not is_last and done % every):
            return
        assert self.replay_buffer is not None
        self.policy.set_training_mode(False)
        starts = self.replay_buffer.first_observations(self_evaluation.N_STARTS, self._vec_normalize_env)
        with th.no_grad():
            latents = self.policy.encode(starts)
        judgement = self_evaluation.judge(self.policy, latents, self.uses_termination)
        score, best, actor = judgement.mean_return, self._best_actor, self.policy.actor_average
        self.logger.record("train/rollout_return", score)
        best.update(actor, score, self._n_updates)
        if not is_last or not best.is_better(score):
            return
        data = self._replay(self_evaluation.N_COMPARED).latents
        is_strange = self_evaluation.strangeness(judgement.visited, data) > self_evaluation.MAX_STRANGENESS
        if not is_strange:
            best.restore(actor)
            self.policy.actor.load_state_dict(actor.state_dict())
        if self.verbose >= 1:
            judged = (
                f"in {self_evaluation.N_STEPS} steps of the world model the policy after {best.n_updates} updates has "
                f"a return of {best.score:.5g}, the last one {score:.5g}"
            )
            print(
                f"Kept the last policy: {judged}, but these steps left the data, and the world model knows no better"
                if is_strange
                else f"Kept the policy after {best.n_updates} updates: {judged}"
            )

    def _update_actor(
        self, batch: SequenceBatch, imitated: ReplayedStates | None, phase: Phase, metrics: Metrics
    ) -> Imagined:
        """
        Make a step on the imagined return, from the batch's first states and with one draw of action noise; with
        L-BFGS, a round of iterations on them.
        """
        policy, termination = self.policy, self.uses_termination
        with th.no_grad(), self._autocast():
            start = policy.world_model.encode(batch.observations[0], batch.task)
        noise = th.randn(self.horizon, len(start), batch.actions.shape[-1], device=self.device)
        weights = masks = None
        if imitated is not None:
            weights = losses.advantage_weights(imitated.advantages, imitated.mask, self.bc_temperature)
            masks = policy.actor.dropout_masks(len(weights), phase.bc_dropout) if phase.bc_dropout > 0.0 else None
        # Statistics of earlier updates: the loss must be the same function at each evaluation.
        reward_scale, return_scale, ent_coef = policy.reward_scale.value, policy.return_scale.value, self._ent_coef()

        def closure() -> Any:
            with self._autocast():
                rollout = self._functions.imagine(
                    policy.world_model, policy.actor, start, noise, batch.task, termination
                )
                final_values = self._functions.critic_target(rollout.latents[-1]).amin(0)  # (B,)
            loss = losses.actor_loss(rollout, final_values, reward_scale, return_scale, ent_coef, self.gamma)
            if imitated is not None and weights is not None:
                with self._autocast():
                    latents = imitated.latents
                    means = policy.actor(latents)[0] if masks is None else policy.actor.masked_means(latents, masks)
                behavior = losses.behavior_loss(means, imitated.actions, weights)
                loss = loss._replace(total=loss.total + phase.bc_coef * behavior, behavior=behavior)
            return loss.total, (loss, Imagined(rollout, final_values))

        with frozen(policy.world_model):
            (loss, imagined), grad_norm = self._step(policy.actor_optimizer, closure, ACTOR_CLIP, "actor")
        returns, log_prob = loss.returns.detach(), loss.log_prob.detach()
        policy.return_scale.update(returns.std(correction=0))
        self._update_ent_coef(log_prob)
        metrics.record(actor_loss=loss.total, actor_grad_norm=grad_norm, imagined_return=returns.mean() * reward_scale)
        metrics.record(entropy=-log_prob, ent_coef=ent_coef)
        if loss.behavior is not None:
            metrics.record(bc_loss=loss.behavior)
        return imagined

    def _update_critics(
        self, imagined: Imagined, replayed: ReplayedStates | None, phase: Phase, metrics: Metrics
    ) -> None:
        """Make steps on the TD(lambda) targets of the imagined rollout, and of replayed sequences."""
        rollout, reward_scale, parts = imagined.rollout, self.policy.reward_scale.value, []
        if phase.imagined_critic_coef > 0.0:
            with th.no_grad(), self._autocast():
                between = self._functions.critic_target(rollout.latents[1:-1]).amin(0)  # (H - 1, B)
            next_values = th.cat([between, imagined.final_values.detach().unsqueeze(0)])
            targets = losses.imagined_targets(rollout, next_values, reward_scale, self.gamma, self.td_lambda)
            parts.append((targets, phase.imagined_critic_coef))
        if replayed is not None:
            targets = losses.of_replayed(replayed, phase.replay_critic_expectile)
            parts.append((targets, phase.replay_critic_coef))
        states = losses.join_targets(parts)

        def closure(part: th.Tensor) -> Any:
            with self._autocast():
                values = self._functions.critic(states.latents[part])  # (N, M)
            loss = losses.critic_loss(values, states.targets[part], states.weights[part], states.expectiles[part])
            return loss, (loss, values)

        for _ in range(self.n_critic_epochs):
            order = th.randperm(len(states.targets), device=self.device)
            for part in order.chunk(self.n_critic_minibatches):
                (loss, values), grad_norm = self._step(
                    self.policy.critic_optimizer, partial(closure, part), CRITIC_CLIP, "critic"
                )
                metrics.record(critic_loss=loss, critic_grad_norm=grad_norm)
        metrics.record(value=values.mean() * reward_scale)

    def _step(self, optimizer: th.optim.Optimizer, closure: Any, clip: float, name: str) -> Any:
        """:func:`~sb3_pwm.pwm.optimizers.step`, with an error that names the loss and the step."""
        try:
            # On a GPU every check would wait for it: _log_metrics() makes one, after the updates.
            return optimizers.step(optimizer, closure, clip, check_finite=self.device.type == "cpu")
        except FloatingPointError:
            self._raise_not_finite(f"The gradient of the {name} loss")

    # --- What an update needs ----------------------------------------------------------------------------------------

    @property
    def _longest_sequence(self) -> int:
        """Number of steps of the longest sequences that an update replays."""
        return max(self.horizon, self.replay_critic_horizon if self.phase.replays else 0)

    @property
    def _trained_steps(self) -> int:
        return self.horizon if self.phase.trains_world_model else 0

    @property
    def uses_termination(self) -> bool:
        """Whether the termination head is trained and used: from the first termination in the data on."""
        return self.terminations_seen and self.policy.world_model.termination_network is not None

    def _prepare_updates(self) -> None:
        """Look for terminations in the data, compile what is worth it, and set modes and learning rates."""
        assert self.replay_buffer is not None
        if self.replay_buffer.has_terminations and not self.terminations_seen:
            self.terminations_seen = True
            if not self.world_model.config.termination:
                warnings.warn(
                    "Episodes terminate, and the world model has no termination head, so that it imagines that they go "
                    "on: leave termination=False out of the fields of the world model."
                )
        compiles = pays_to_compile(self._planned_updates(), self.horizon) if self.compile == "auto" else self.compile
        if compiles and not self._functions.compiled:
            if self.verbose >= 1:
                print("The first updates compile the networks: up to a few minutes, once per machine and network size")
            self._functions.compile(self.horizon, self.device)
        policy, progress, scale = self.policy, self._current_progress_remaining, self.phase.lr_scale
        policy.set_training_mode(True)
        if not isinstance(policy.actor_optimizer, LBFGS):  # its step lengths are not the learning rate's
            learning_rate = scale * self.lr_schedule(progress) * (progress if self.phase.decays_learning_rate else 1.0)
            self.logger.record("train/learning_rate", learning_rate)
            update_learning_rate(policy.actor_optimizer, learning_rate)
        update_learning_rate(policy.critic_optimizer, scale * self.critic_lr_schedule(progress))
        update_learning_rate(policy.world_model_optimizer, scale * self.world_model_lr_schedule(progress))
        for group in policy.world_model_optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)

    def _memory_advice(self, batch_size: int) -> str:
        return (
            f"Lower batch_size (now {batch_size}), horizon (now {self.horizon}) or the size of the world_model, "
            "raise n_critic_minibatches, set gradient_checkpointing=True, or keep the replay buffer on the host with "
            'replay_buffer_kwargs=dict(storage="host").'
        )

    def _autocast(self) -> th.autocast:
        """:return: The context of forward passes, see ``precision``."""
        return autocast(self.device, self.precision, self.world_model.config.mlp_dim)

    def _sample(self, batch_size: int, horizon: int, trained: bool = False, outcomes: bool = False) -> SequenceBatch:
        """Sample replayed sequences and featurize them, see :meth:`PWMPolicy.featurize`."""
        assert self.replay_buffer is not None
        sampling = SequenceSampling(self.phase.discounted_fraction, self.gamma, self.phase.new_fraction)
        batch = self.replay_buffer.sample_sequences(batch_size, horizon, self._vec_normalize_env, sampling, outcomes)
        with self._autocast():
            return self.policy.featurize(batch, trained)

    @th.no_grad()
    def _replay(self, n_states: int) -> ReplayedStates:
        """
        Sample about ``n_states`` replayed steps for the critics, with TD(lambda) targets from what really followed.

        Steps of a sequence are alike: they are a random half of the steps of twice as many sequences.
        """
        n_sequences = max(2 * n_states // self.replay_critic_horizon, 1)
        return losses.choose_states(self._targets(self._sample(n_sequences, self.replay_critic_horizon)), n_states)

    @th.no_grad()
    def _replay_steps(self, n_states: int) -> ReplayedStates:
        """
        Sample ``n_states`` replayed steps for the behavior term, with the advantages of the rest of their episodes.

        They are independent of each other: steps of the same sequences would say less about what the data do, and the
        policy would imitate it less precisely (docs/experiments.md).
        """
        return self._targets(self._sample(n_states, 1, outcomes=True))

    def _targets(self, batch: SequenceBatch) -> ReplayedStates:
        """:return: All steps of sequences, with TD(lambda) targets and advantages."""
        last_values = None
        with self._autocast():
            latents = self.policy.world_model.encode(batch.observations, batch.task)
            values = self._functions.critic_target(latents).amin(0)
            if batch.outcome is not None:
                last = self.policy.world_model.encode(batch.outcome.last_observations, batch.task)
                last_values = self._functions.critic_target(last).amin(0)
        scale = self.policy.reward_scale.value
        return losses.replayed_targets(latents, values, batch, scale, self.gamma, self.td_lambda, last_values)

    # --- Data and files ----------------------------------------------------------------------------------------------

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfPWM], path: str | Path | BufferedIOBase, env: GymEnv | None = None, *args: Any, **kwargs: Any
    ) -> SelfPWM:
        """
        Load a model, see :meth:`SequenceOffPolicyAlgorithm.load`. The file holds the world model that it was made with.

        Among the keyword arguments, ``dataset`` fills the replay buffer, and ``ent_coef`` starts the entropy
        coefficient anew. Another ``policy_optimizer`` or ``policy_optimizer_kwargs`` makes a new optimizer of the
        actor. ``world_model`` is not used, with a warning. ``policy``, another ``policy_kwargs`` and another ``task``
        than the policy's are refused.
        """
        if kwargs.pop("world_model", None) is not None:
            warnings.warn("A saved model has its own world model: the one that is given to load() is not used.")
        kwargs = arguments.arguments_of_load(kwargs)
        dataset, task = arguments.resolve_dataset(kwargs.pop("dataset", None)), kwargs.pop("task", None)
        policy_kwargs = kwargs.pop("policy_kwargs", None)
        optimizer, options = kwargs.pop("policy_optimizer", None), kwargs.pop("policy_optimizer_kwargs", None)
        model = super().load(path, env, *args, **kwargs)
        arguments.check_policy_kwargs_of_load(policy_kwargs, model.policy_kwargs)
        model._change_policy_optimizer(optimizer, options)
        if task is not None:
            model.task = task
        model._check_task()
        if env is not None:
            arguments.warn_of_other_task(model.policy, model.env)
        if dataset is not None:
            model.add_dataset(dataset)
        return model

    def add_dataset(self, dataset: OfflineDataset) -> None:
        """
        Add the episodes of a task to the replay buffer, see :meth:`SequenceOffPolicyAlgorithm.add_dataset`.

        A pretrained world model that lacks the statistics of the task's observations takes them from the data.
        """
        super().add_dataset(dataset)
        if not self.offline:
            self._look_at_data()
        elif self.pretrained:  # the policy may act before it learns; learn() warns
            self._look_at_data(warn=False)

    def _prepare_normalization(self) -> None:
        super()._prepare_normalization()
        if self.offline or (self.pretrained and self._lacks_statistics()):
            self._look_at_data()

    def _look_at_data(self, warn: bool = True) -> None:
        """
        Take the statistics of observations from the replay buffer, if there are none yet.

        :param warn: Whether to warn of outliers.
        """
        assert self.replay_buffer is not None
        summary = summarize_buffer(self.replay_buffer, self.policy, self._vec_normalize_env)
        if summary is None:
            return
        if warn:
            warn_of_outliers(summary, "The data" if self.task is None else f"The data of {self.task}")
        if self.offline and self._watch is None:
            self._watch = ObservationWatch(summary, self.observation_space)
        if self._lacks_statistics():
            set_statistics(self.world_model, summary, self.policy.task_index or 0)
            # Running statistics would count the outliers.
            self.statistics_are_fixed = self.pretrained or bool(summary.n_outliers.any())

    def _lacks_statistics(self) -> bool:
        """:return: Whether the statistics of observations are to be taken from the data."""
        if self._n_updates > 0 or self.world_model.statistics is None:
            return False
        if self.pretrained:
            return self.world_model.lacks_statistics_of(self.policy.task)
        return self.offline and not self.world_model.statistics.count[self.policy.task_index or 0]

    def predict(
        self, observation: np.ndarray | dict[str, np.ndarray], *args: Any, **kwargs: Any
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions as SB3's algorithms do.

        After offline learning, the first thousand observations are compared with the data. A warning tells if their
        scale differs grossly.
        """
        if self._watch is not None:
            self._watch.look(observation)
        return super().predict(observation, *args, **kwargs)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Set the environment, see :meth:`RobustOffPolicyAlgorithm.set_env`.

        :raises ValueError: If the world model was pretrained, and would see normalized observations.
        """
        env = self._wrap_env(env, self.verbose)
        if self.pretrained:
            arguments.check_pretrained(self.policy, unwrap_vec_normalize(env))
        super().set_env(env, force_reset)
        arguments.warn_of_other_task(self.policy, env)

    def _check_rewards(self, rewards: tuple[float, float], where: str, refuse: bool) -> None:
        if self.rewards_exceed_range and not refuse:
            return  # it was said
        try:
            check_reward_range(self.world_model.config, rewards, where)
        except ValueError as error:
            if refuse:
                raise
            self.rewards_exceed_range = True
            warnings.warn(str(error))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_functions", "_given", "_watch", "_best_actor"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        optimizers = ("policy.actor_optimizer", "policy.critic_optimizer", "policy.world_model_optimizer")
        return [*state_dicts, *optimizers], tensors
