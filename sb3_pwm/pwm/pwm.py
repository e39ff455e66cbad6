"""PWM: policy learning with a world model, as a Stable-Baselines3 algorithm."""

import warnings
from collections import defaultdict
from io import BufferedIOBase
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    Schedule,
    TensorDict,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import polyak_update, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_pwm.common.layers import EnsembleMLP, frozen
from sb3_pwm.common.memory import explain_out_of_memory
from sb3_pwm.common.observations import map_observations
from sb3_pwm.common.off_policy_algorithm import RobustOffPolicyAlgorithm
from sb3_pwm.common.precision import autocast
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.replay_buffer import SequenceReplayBuffer
from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.pwm.arguments import (
    UNSUPPORTED,
    DatasetArgument,
    WorldModelArgument,
    as_schedule,
    check_arguments,
    check_policy,
    check_pretrained,
    check_spaces,
    choose_task,
    parse_ent_coef,
    resolve_dataset,
    resolve_world_model,
)
from sb3_pwm.pwm.imagination import LatentRollout
from sb3_pwm.pwm.losses import (
    ReplayedStates,
    actor_loss,
    behavior_loss,
    critic_loss,
    ent_coef_loss,
    imagined_targets,
    replayed_targets,
    with_replayed,
)
from sb3_pwm.pwm.networks import Actor
from sb3_pwm.pwm.optimizers import step
from sb3_pwm.pwm.phase import Phase, current_phase
from sb3_pwm.pwm.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PWMPolicy
from sb3_pwm.pwm.update_functions import UpdateFunctions, pays_to_compile
from sb3_pwm.world_model.model import WorldModel

SelfPWM = TypeVar("SelfPWM", bound="PWM")
Metrics = defaultdict[str, list[th.Tensor]]

ACTOR_CLIP, CRITIC_CLIP, WORLD_MODEL_CLIP = 1.0, 100.0, 20.0
# The imagined gradient saturates a tanh within hundreds of updates: the coefficient must be faster than the actor.
ENT_COEF_LEARNING_RATE = 3e-3


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


class PWM(RobustOffPolicyAlgorithm):
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
    :param n_critic_epochs: Passes over a rollout's states in an update of the critics.
    :param n_critic_minibatches: Number of parts into which a pass cuts the states.
    :param replay_critic_coef: Weight of the critics' loss on TD(lambda) targets of replayed sequences, relative to the
        imagined ones; 0: imagination only, as in the paper. Replayed targets follow older policies, and know how
        episodes really end: use them (1.0) where the imagined return runs away from the real one. ``"auto"``: 1 with
        ``offline`` and when such a model goes on online, else 0.
    :param replay_critic_horizon: Number of steps of those sequences; there are as many of them as give the critics the
        number of states that the imagined rollouts give.
    :param world_model_updates: World-model updates per update of the actor; 0 freezes the world model. ``"auto"``: 0 with
        a given ``world_model`` and ``offline``, else 1.
    :param world_model: A pretrained world model, or its file (.safetensors, or a .pt of the TD-MPC2 and PWM releases);
        in place of a new one. A saved PWM holds it: loading needs no other file.
    :param dataset: Offline data that fills the replay buffer: an :class:`~sb3_pwm.data.OfflineDataset`, the folder of a
        stored one, or Minari ids or folders.
    :param task: Name of the task, where the world model or the data has several; None: the one that is named like the
        environment's id.
    :param offline: Whether :meth:`learn` steps no environment, see above.
    :param bc_coef: With ``offline``, and when such a model goes on online, weight of the squared distance
        between the policy's mean action and the replayed one, which keeps it from where the world model knows nothing.
        0, the paper's: none, for data that holds about everything.
    :param bc_temperature: Which of the data's actions count in it: small, those that turned out better than the
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
    :param gradient_checkpointing: Whether the rollout keeps only its latents and computes the rest again in the backward
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

    unsupported_arguments: ClassVar[dict[str, str]] = UNSUPPORTED
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: PWMPolicy
    replay_buffer: SequenceReplayBuffer | None  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[PWMPolicy],
        env: GymEnv | str,
        learning_rate: float | str | Schedule = 5e-4,
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
        replay_critic_coef: float | str = "auto",
        replay_critic_horizon: int = 16,
        world_model_updates: int | str = "auto",
        world_model_loss_kwargs: dict[str, float] | None = None,
        world_model: WorldModelArgument = None,
        dataset: DatasetArgument = None,
        task: str | None = None,
        offline: bool = False,
        bc_coef: float | str = "auto",
        bc_temperature: float = 0.5,
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
        gradient_checkpointing: bool = False,
        overlap_updates: bool = True,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        check_policy(policy, policy_kwargs)
        if env is not None:
            env = maybe_make_env(env, verbose)
            if isinstance(env, gym.Env | VecEnv):  # else SB3 says what it is
                check_spaces(env.observation_space, env.action_space)
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
            overlap_updates=overlap_updates,
        )
        self.critic_learning_rate = critic_learning_rate
        self.world_model_learning_rate = world_model_learning_rate
        self.horizon = horizon
        self.td_lambda = td_lambda
        self.rho = rho
        self.n_critic_epochs = n_critic_epochs
        self.n_critic_minibatches = n_critic_minibatches
        self.replay_critic_coef = replay_critic_coef
        self.replay_critic_horizon = replay_critic_horizon
        self.world_model_updates = world_model_updates
        self.world_model_loss_kwargs = {} if world_model_loss_kwargs is None else world_model_loss_kwargs
        self.task = task
        self.bc_coef = bc_coef
        self.bc_temperature = bc_temperature
        self.precision = precision
        self.compile = compile
        self.gradient_checkpointing = gradient_checkpointing
        self.ent_coef = ent_coef
        self.target_entropy = target_entropy
        self.log_ent_coef: th.Tensor | None = None
        self.ent_coef_optimizer: th.optim.Optimizer | None = None
        self.pretrained = False
        # Whether the termination head has been trained. Most tasks only truncate, and save its time.
        self.terminations_seen = False
        self._given = Given(world_model, dataset)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        (world_model, dataset), self._given = self._given, Given()
        fields, pretrained = resolve_world_model(world_model)
        offline_data = resolve_dataset(dataset)
        if fields is not None:
            if "world_model" in self.policy_kwargs:
                raise ValueError("world_model is given twice: leave it out of policy_kwargs.")
            self.policy_kwargs["world_model"] = fields
        if pretrained is not None:
            self.pretrained = True
            if pretrained.config.tasks:
                self.task = choose_task(self.task, pretrained.config.tasks, "world model", self.env)
                self.policy_kwargs["task"] = self.task
        check_arguments(self)
        advice = "Choose a smaller world_model."
        with explain_out_of_memory(f"a world model of {self.policy_kwargs.get('world_model')}", advice):
            super()._setup_model()
        if pretrained is not None:
            check_pretrained(self.policy, self._vec_normalize_env)
            self.policy.world_model.load_state_dict(pretrained.state_dict())
        self.critic_lr_schedule = as_schedule(self.critic_learning_rate, "critic_learning_rate")
        self.world_model_lr_schedule = as_schedule(self.world_model_learning_rate, "world_model_learning_rate")
        if self.target_entropy == "auto":
            self.target_entropy = -0.25 * float(np.prod(self.action_space.shape))  # type: ignore[arg-type]
        self._functions = UpdateFunctions(self.policy, self.gradient_checkpointing)
        self._setup_ent_coef()
        if offline_data is not None:
            self.add_dataset(offline_data)

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = as_schedule(self.learning_rate, "learning_rate")  # type: ignore[assignment]

    def _setup_ent_coef(self) -> None:
        initial, learned = parse_ent_coef(self.ent_coef)
        self.log_ent_coef = self.ent_coef_optimizer = None
        if learned:
            self.log_ent_coef = th.full((1,), np.log(initial), dtype=th.float32, device=self.device, requires_grad=True)
            self.ent_coef_optimizer = th.optim.Adam([self.log_ent_coef], lr=ENT_COEF_LEARNING_RATE, fused=True)

    def add_dataset(self, dataset: OfflineDataset) -> None:
        """
        Add the episodes of a task to the replay buffer.

        :param dataset: The data. If it has several tasks, the episodes of ``task`` are taken.
        :raises ValueError: If it has no such task, its shapes are not the environment's, or it has more steps than
            ``buffer_size``.
        """
        assert self.replay_buffer is not None
        data = dataset.task_data(choose_task(self.task, dataset.tasks, "data set", self.env))
        self.replay_buffer.add_episodes([data.episode(number) for number in range(len(data.lengths))])

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
        return current_phase(
            self.offline,
            self.learned_offline,
            self.pretrained,
            self.world_model_updates,
            self.replay_critic_coef,
            self.bc_coef,
        )

    # --- The update -------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 128) -> None:
        """
        Update world model, actor and critics (PWM algorithm 1, with the world model learned alongside).

        :param gradient_steps: Number of updates.
        :param batch_size: Number of replayed sequences and of imagined rollouts in each.
        :raises ValueError: If a loss or gradient is not finite; the message names it and the step.
        :raises MemoryError: If an update does not fit into memory; the message names what to lower.
        """
        if self._defer_updates(gradient_steps, batch_size) or not self._has_enough_data():
            return
        self._prepare_updates()
        phase, metrics = self.phase, Metrics(list)
        with explain_out_of_memory(f"an update on {self.device}", self._memory_advice):
            for _ in range(gradient_steps):
                # At least once even if the world model is frozen: rollouts start from replayed states.
                for _ in range(max(phase.n_world_model_updates, 1)):
                    batch = self._sample(batch_size, self.horizon, phase.trains_world_model)
                    self._update_world_model(batch, phase, metrics)  # equation 4
                replayed = self._replay(batch.mask.numel()) if phase.replays else None
                imagined = self._update_actor(batch, replayed, phase, metrics)  # equation 6
                self._update_critics(imagined, replayed, phase, metrics)  # equation 8
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                self._n_updates += 1
        self._log_metrics(metrics)

    def _update_world_model(self, batch: SequenceBatch, phase: Phase, metrics: Metrics) -> None:
        """One step on the world-model loss, unless the world model is frozen."""
        world_model, termination = self.policy.world_model, self._uses_termination

        def closure() -> Any:
            with self._autocast():
                loss = self._functions.world_model_loss(
                    world_model, batch, self.rho, termination=termination, **self.world_model_loss_kwargs
                )
            return loss.total, loss

        if phase.trains_world_model:
            optimizer = self.policy.world_model_optimizer
            loss, grad_norm = self._step(optimizer, closure, WORLD_MODEL_CLIP, "world_model")
            metrics["world_model_grad_norm"].append(grad_norm)
            metrics["world_model_loss"].append(loss.total.detach())
            metrics["dynamics_loss"].append(loss.dynamics.detach())
            metrics["reward_loss"].append(loss.reward.detach())
            if termination:
                metrics["termination_loss"].append(loss.termination.detach())
        self.policy.reward_scale.update((batch.rewards**2).mean().sqrt())

    def _update_actor(
        self, batch: SequenceBatch, replayed: ReplayedStates | None, phase: Phase, metrics: Metrics
    ) -> Imagined:
        """One step on the imagined return, from the batch's first states and with one draw of action noise."""
        policy, termination = self.policy, self._uses_termination
        with th.no_grad(), self._autocast():
            start = policy.world_model.encode(batch.observations[0], batch.task)
        noise = th.randn(self.horizon, len(start), batch.actions.shape[-1], device=self.device)
        # The statistics of earlier updates: the loss must be the same function at each evaluation.
        reward_scale, return_scale, ent_coef = policy.reward_scale.value, policy.return_scale.value, self._ent_coef()

        def closure() -> Any:
            with self._autocast():
                rollout = self._functions.imagine(
                    policy.world_model, policy.actor, start, noise, batch.task, termination
                )
                final_values = self._functions.critic_target(rollout.latents[-1]).amin(0)  # (B,)
            loss = actor_loss(rollout, final_values, reward_scale, return_scale, ent_coef, self.gamma)
            total, distance = loss.total, None
            if replayed is not None and phase.bc_coef > 0.0:
                with self._autocast():
                    means, _ = policy.actor(replayed.latents)
                distance = behavior_loss(means, replayed, self.bc_temperature)
                total = total + phase.bc_coef * distance
            return total, (loss, total, distance, Imagined(rollout, final_values))

        with frozen(policy.world_model):
            (loss, total, distance, imagined), grad_norm = self._step(
                policy.actor_optimizer, closure, ACTOR_CLIP, "actor"
            )
        returns, log_prob = loss.returns.detach(), loss.log_prob.detach()
        policy.return_scale.update(returns.std(correction=0))
        self._update_ent_coef(log_prob)
        if distance is not None:
            metrics["bc_loss"].append(distance.detach())
        metrics["actor_loss"].append(total.detach())
        metrics["actor_grad_norm"].append(grad_norm)
        metrics["imagined_return"].append(returns.mean() * reward_scale)
        metrics["entropy"].append(-log_prob)
        metrics["ent_coef"].append(ent_coef)
        return imagined

    def _update_critics(
        self, imagined: Imagined, replayed: ReplayedStates | None, phase: Phase, metrics: Metrics
    ) -> None:
        """Several steps on the TD(lambda) targets of the imagined rollout, and of replayed sequences."""
        rollout, reward_scale = imagined.rollout, self.policy.reward_scale.value
        with th.no_grad(), self._autocast():
            between = self._functions.critic_target(rollout.latents[1:-1]).amin(0)  # (H - 1, B)
        next_values = th.cat([between, imagined.final_values.detach().unsqueeze(0)])
        states = imagined_targets(rollout, next_values, reward_scale, self.gamma, self.td_lambda)
        if replayed is not None and phase.replay_critic_coef > 0.0:
            states = with_replayed(states, replayed, phase.replay_critic_coef)
        for _ in range(self.n_critic_epochs):
            order = th.randperm(len(states.targets), device=self.device)
            for part in order.chunk(self.n_critic_minibatches):

                def closure(part: th.Tensor = part) -> Any:
                    with self._autocast():
                        values = self._functions.critic(states.latents[part])  # (N, M)
                    loss = critic_loss(values, states.targets[part], states.weights[part])
                    return loss, (loss.detach(), values.detach())

                (loss, values), grad_norm = self._step(self.policy.critic_optimizer, closure, CRITIC_CLIP, "critic")
                metrics["critic_grad_norm"].append(grad_norm)
                metrics["critic_loss"].append(loss)
        metrics["value"].append(values.mean() * reward_scale)

    def _update_ent_coef(self, log_prob: th.Tensor) -> None:
        """One step of the entropy coefficient towards the target entropy, if it is learned."""
        if self.log_ent_coef is not None and self.ent_coef_optimizer is not None:
            self.ent_coef_optimizer.zero_grad()
            ent_coef_loss(self.log_ent_coef, log_prob, float(self.target_entropy)).backward()
            self.ent_coef_optimizer.step()

    def _ent_coef(self) -> th.Tensor:
        """The entropy coefficient, a scalar without gradient."""
        if self.log_ent_coef is None:
            return th.full((), parse_ent_coef(self.ent_coef)[0], device=self.device)
        return self.log_ent_coef.detach().exp().squeeze()

    # --- What an update needs ---------------------------------------------------------------------------------------

    def _has_enough_data(self) -> bool:
        """Whether the updates can begin. A model that was loaded without its replay buffer collects first."""
        buffer = self.replay_buffer
        assert buffer is not None
        return buffer.can_sample(self._longest_sequence) and buffer.size() * self.n_envs >= self.learning_starts

    @property
    def _longest_sequence(self) -> int:
        """Number of steps of the longest sequences that an update replays."""
        return max(self.horizon, self.replay_critic_horizon if self.phase.replays else 0)

    @property
    def _uses_termination(self) -> bool:
        """Whether the termination head is trained and used: from the first termination in the data on."""
        return self.terminations_seen and self.policy.world_model.termination_network is not None

    def _prepare_updates(self) -> None:
        """Compile what is worth it, set the learning rates, and see whether the data has terminations by now."""
        assert self.replay_buffer is not None
        self.terminations_seen = self.terminations_seen or self.replay_buffer.has_terminations
        if not self._functions.compiled and self._wants_compilation():
            if self.verbose >= 1:
                print("The first updates compile the networks: up to a few minutes, once per machine and network size")
            self._functions.compile(self.horizon, self.device)
        policy, progress = self.policy, self._current_progress_remaining
        policy.set_training_mode(True)
        self._update_learning_rate(policy.actor_optimizer)
        update_learning_rate(policy.critic_optimizer, self.critic_lr_schedule(progress))
        update_learning_rate(policy.world_model_optimizer, self.world_model_lr_schedule(progress))
        for group in policy.world_model_optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)

    def _wants_compilation(self) -> bool:
        """Whether to compile the update. ``"auto"`` goes by the number of updates that ``learn`` was asked for."""
        if self.compile != "auto":
            return bool(self.compile)
        assert isinstance(self.train_freq, TrainFreq)
        timesteps = self._total_timesteps - self.num_timesteps
        if self.offline or self.gradient_steps < 0:
            return pays_to_compile(timesteps, self.horizon)
        if self.train_freq.unit != TrainFrequencyUnit.STEP:
            return False  # the length of episodes is not known
        return pays_to_compile(
            timesteps / (self.n_envs * self.train_freq.frequency) * self.gradient_steps, self.horizon
        )

    @property
    def _memory_advice(self) -> str:
        return (
            f"Lower batch_size (now {self.batch_size}), horizon (now {self.horizon}) or the size of the world_model, "
            "raise n_critic_minibatches, set gradient_checkpointing=True, or keep the replay buffer on the host with "
            'replay_buffer_kwargs=dict(storage="host").'
        )

    def _autocast(self) -> th.autocast:
        """The context of forward passes, see ``precision``."""
        return autocast(self.device, self.precision)

    def _sample(self, batch_size: int, horizon: int, trained: bool = False) -> SequenceBatch:
        """
        Sample replayed sequences, whose observations have passed the policy's preprocessing and features extractor.

        :param batch_size: Number of sequences, B.
        :param horizon: Number of steps in a sequence, H.
        :param trained: Whether the features of the first observations have a gradient. The other observations are
            targets of the world model.
        :return: The sequences, with observations ``(H + 1, B, observation_dim)``.
        """
        assert self.replay_buffer is not None
        batch = self.replay_buffer.sample_sequences(batch_size, horizon, env=self._vec_normalize_env)
        task = None
        if self.policy.task_index is not None:
            task = th.full((batch_size,), self.policy.task_index, device=self.device)
        first = self._features(map_observations(lambda values: values[0], batch.observations), trained)
        others = self._features(map_observations(lambda values: values[1:].flatten(0, 1), batch.observations), False)
        features = th.cat([first, others]).unflatten(0, (horizon + 1, batch_size))
        return batch._replace(observations=features, task=task)

    def _features(self, observations: Any, trained: bool) -> th.Tensor:
        """:param observations: ``(N, *)``. :param trained: Whether with gradient. :return: ``(N, observation_dim)``."""
        with th.set_grad_enabled(trained), self._autocast():
            return self.policy.extract_features(observations, self.policy.features_extractor)

    @th.no_grad()
    def _replay(self, n_states: int) -> ReplayedStates:
        """Replayed steps, about ``n_states`` of them, with TD(lambda) targets of what really followed."""
        batch = self._sample(max(n_states // self.replay_critic_horizon, 1), self.replay_critic_horizon)
        with self._autocast():
            latents = self.policy.world_model.encode(batch.observations, batch.task)
            values = self._functions.critic_target(latents).amin(0)
        return replayed_targets(latents, values, batch, self.policy.reward_scale.value, self.gamma, self.td_lambda)

    def _step(self, optimizer: th.optim.Optimizer, closure: Any, clip: float, name: str) -> Any:
        """:func:`~sb3_pwm.pwm.optimizers.step`, with an error that says where in learning it was."""
        try:
            # On a GPU every check would wait for it: _log_metrics() makes one, after the updates.
            return step(optimizer, closure, clip, check_finite=self.device.type == "cpu")
        except FloatingPointError:
            self._raise_not_finite(f"The gradient of the {name} loss")

    def _raise_not_finite(self, quantity: str) -> NoReturn:
        raise ValueError(
            f"{quantity} is not finite at step {self.num_timesteps}, update {self._n_updates}: "
            "lower the learning rates, or check the scale of observations and rewards."
        )

    def _log_metrics(self, metrics: Metrics) -> None:
        """Log the mean of every metric over the updates."""
        if not metrics:
            return
        # One transfer for all of them, after the last update: nothing before it waits for the device.
        means = th.stack([th.stack(values).mean() for values in metrics.values()]).tolist()
        for name, mean in zip(metrics, means, strict=True):
            if not np.isfinite(mean):
                self._raise_not_finite(f"train/{name}")
            self.logger.record(f"train/{name}", mean)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    # --- SB3's hooks ------------------------------------------------------------------------------------------------

    def learn(
        self: SelfPWM,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "PWM",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfPWM:
        """Learn, see :meth:`RobustOffPolicyAlgorithm.learn`."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _check_offline(self) -> None:
        super()._check_offline()
        longest, buffer = self._longest_sequence, self.replay_buffer
        if buffer is None or not buffer.can_sample(longest):
            size = 0 if buffer is None else buffer.size()
            raise ValueError(
                f"offline=True needs data of at least {longest} steps per environment, and has {size}: give "
                "dataset=, or call load_replay_buffer() or add_dataset() first; or set offline to False to learn "
                "in the environment."
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
            self.replay_buffer.truncate_episodes()  # SB3 resets the environments then
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfPWM], path: str | Path | BufferedIOBase, env: GymEnv | None = None, *args: Any, **kwargs: Any
    ) -> SelfPWM:
        """
        Load a model, see :meth:`RobustOffPolicyAlgorithm.load`. The file holds the world model that it was made with.

        ``dataset`` fills the replay buffer, and with ``ent_coef`` the entropy coefficient begins anew.
        """
        if kwargs.pop("world_model", None) is not None:
            warnings.warn("A saved model has its own world model: the one that is given to load() is not used.")
        if "dataset" in kwargs:
            kwargs["_given"] = Given(dataset=kwargs.pop("dataset"))
        ent_coef = kwargs.pop("ent_coef", None)
        model = super().load(path, env, *args, **kwargs)
        if ent_coef is not None:  # afterwards: the file has a state of its own for it, or has none
            model.ent_coef = ent_coef
            model._setup_ent_coef()
        return model

    def _check_parameters(self, parameters: TensorDict) -> None:
        if "ent_coef_optimizer" in parameters and self.ent_coef_optimizer is None:
            raise ValueError(
                "The parameters are of a model that learns its entropy coefficient, this model's is fixed "
                f"(ent_coef={self.ent_coef!r}): leave 'ent_coef_optimizer' out of them."
            )

    def _adopt_replay_buffer(self, loaded: ReplayBuffer, path: Any) -> ReplayBuffer:
        if not isinstance(loaded, SequenceReplayBuffer):
            raise ValueError(
                f"{path} holds a {type(loaded).__name__}, which yields no sequences: read it with "
                "sb3_pwm.OfflineDataset.from_replay_buffer(), and pass that to add_dataset()."
            )
        super()._adopt_replay_buffer(loaded, path)
        return loaded if loaded.n_envs == self.n_envs else loaded.resize_n_envs(self.n_envs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_functions", "_given"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", "policy.actor_optimizer", "policy.critic_optimizer", "policy.world_model_optimizer"]
        if self.ent_coef_optimizer is None:
            return state_dicts, []
        return [*state_dicts, "ent_coef_optimizer"], ["log_ent_coef"]
