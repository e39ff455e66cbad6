"""The policy of PWM: the world model, and actor and critics over its latents."""

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_pwm.common.actions import scale_actions, unscale_actions
from sb3_pwm.common.checks import check_number, check_subclass, reject_unknown_keywords
from sb3_pwm.common.files import atomic_write
from sb3_pwm.common.layers import EnsembleMLP
from sb3_pwm.common.observations import map_observations
from sb3_pwm.common.statistics import ObservationStatistics, RunningScale
from sb3_pwm.common.version import FileFormatError
from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.export import export_policy
from sb3_pwm.pwm.lbfgs import LBFGS
from sb3_pwm.pwm.networks import LOG_STD_MAX, Actor, squashed_action
from sb3_pwm.world_model.config import ACTIVATIONS, DEFAULT_SIZE, PRESETS, WorldModelConfig
from sb3_pwm.world_model.model import WorldModel

SelfPWMPolicy = TypeVar("SelfPWMPolicy", bound="PWMPolicy")

NOT_SUPPORTED = {
    "share_features_extractor": "actor and critics see the world model's latent, and so share one extractor always.",
    **dict.fromkeys(("use_sde", "use_expln"), "PWM's policy explores without gSDE."),
    "clip_mean": "the mean passes through a tanh; set log_std_min and log_std_init for the standard deviation.",
    "world_model_size": "give the preset's name as PWM(world_model=...).",
    "latent_dim": "it is a field of the world model: PWM(world_model=dict(latent_dim=...)).",
    **dict.fromkeys(
        ("world_model_kwargs", "world_model_config"),
        "the world model's fields are given as PWM(world_model=dict(...)), with its preset as size.",
    ),
}
"""Arguments of SB3's other off-policy policies that this one has no place for, and why."""


class PWMPolicy(BasePolicy):
    """
    Policy object of PWM.

    The defaults suit a CPU. The paper's networks, for extraction
    from a large pretrained model, are ``net_arch=dict(pi=[400, 200, 100], vf=[400, 200])``, ``activation_fn=nn.Mish``,
    ``world_model="48M"``.

    Observations pass through SB3's preprocessing and a features extractor. The world model's encoder turns the features
    into the latent. The extractor is trained with the encoder, by the world-model loss.

    :param observation_space: Observation space.
    :param action_space: Action space (``Box``, finite bounds).
    :param lr_schedule: Learning rate schedule of the actor.
    :param net_arch: Hidden layers of actor and critics: ``[...]`` for both, or ``dict(pi=[...], vf=[...])``. ``qf``,
        the name in SB3's off-policy algorithms, is taken for ``vf``. None: ``[256, 256]``, and ``[128, 128]`` for the
        world model of the preset ``"200K"`` and others whose latent is not larger.
    :param activation_fn: Hidden activation of actor and critics, any module class. The world model has it too if it is
        one of :data:`~sb3_pwm.world_model.config.ACTIVATIONS`, else SiLU; ``world_model=dict(activation=...)`` decides
        otherwise.
    :param world_model: Shape of the world model: the name of a preset (``"200K"``, ``"1M"``, ``"5M"``, ``"19M"``,
        ``"48M"`` or ``"317M"``), a dictionary of fields of :class:`~sb3_pwm.world_model.WorldModelConfig` with the
        preset that they depart from as ``size``, or a configuration. ``PWM(world_model=...)`` sets it, and takes
        pretrained models too.
    :param task: The task of a multi-task world model that the policy is for.
    :param n_critics: Number of critics. The minimum of their values bootstraps.
    :param log_std_init: Initial log standard deviation of the actor, before the tanh.
    :param log_std_min: Floor of the log standard deviation; at most 2, its ceiling.
    :param normalize_latents: Whether the actor sees latents normalized by the mean and spread that they have in the
        data, from offline learning on. Else, and before it, it sees them as they are. All entries have the same scale.
    :param features_extractor_class: Class that turns observations into the input of the world model. None: SB3's class
        for the policy's kind of observations, :attr:`default_features_extractor_class`.
    :param features_extractor_kwargs: Keyword arguments of the features extractor.
    :param encoder_lr_scale: Learning rate of extractor and encoder relative to the rest of the world model's (TD-MPC2's
        ``enc_lr_scale``). None: 0.1 for an extractor that learns, since with the full rate the latents of different
        images first become the same (docs/experiments.md), else 1.
    :param normalize_images: Whether images are divided by 255.
    :param optimizer_class: Optimizer of actor, critics and world model. ``PWM(policy_optimizer="lbfgs")`` replaces the
        actor's.
    :param optimizer_kwargs: Keyword arguments of all three optimizers. By default Adam and AdamW have the paper's betas
        (0.7, 0.95) for actor and critics.
    :raises ValueError: If an argument is not valid, or the extractor does not fit the observations; the message names
        it.
    """

    default_features_extractor_class: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor
    """The features extractor that ``features_extractor_class=None`` stands for"""

    def __new__(cls, *args: Any, **kwargs: Any) -> "PWMPolicy":
        reject_unknown_keywords(cls, kwargs, NOT_SUPPORTED)
        return super().__new__(cls)

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.SiLU,
        world_model: str | Mapping[str, Any] | WorldModelConfig = DEFAULT_SIZE,
        task: str | None = None,
        n_critics: int = 3,
        log_std_init: float = -1.0,
        log_std_min: float = -1.427,
        normalize_latents: bool = True,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        encoder_lr_scale: float | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        check_subclass("features_extractor_class", features_extractor_class, BaseFeaturesExtractor, optional=True)
        check_subclass("activation_fn", activation_fn, nn.Module)
        if not callable(optimizer_class):
            raise ValueError(f"optimizer_class must be a class such as torch.optim.AdamW, got {optimizer_class!r}.")
        check_number("n_critics", n_critics, 1, integer=True)
        check_number("log_std_init", log_std_init)
        check_number("log_std_min", log_std_min, high=LOG_STD_MAX)
        super().__init__(
            observation_space,
            action_space,
            self.default_features_extractor_class if features_extractor_class is None else features_extractor_class,
            features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        names = {activation: name for name, activation in ACTIVATIONS.items()}
        self.activation_fn = activation_fn
        self.task = task
        self.n_critics = n_critics
        self.log_std_init = log_std_init
        self.log_std_min = log_std_min

        if issubclass(self.features_extractor_class, CombinedExtractor) and not isinstance(
            observation_space, spaces.Dict
        ):
            raise ValueError(
                f"MultiInputPolicy is for Dict observations, not {observation_space}: use MlpPolicy, or CnnPolicy for "
                "images."
            )
        try:
            self.features_extractor = self.make_features_extractor()
        except RuntimeError as error:  # what a convolution raises whose input is smaller than its kernel
            raise ValueError(
                f"{self.features_extractor_class.__name__} does not fit {observation_space} (NatureCNN and "
                f"CombinedExtractor take images of 36 x 36 and more): {error}"
            ) from error
        extractor_learns = any(True for _ in self.features_extractor.parameters())
        if isinstance(self.features_extractor, NatureCNN | CombinedExtractor):
            # As SB3's on-policy algorithms do: with torch's own initialization an image hardly shows in the features.
            self.features_extractor.apply(partial(self.init_weights, gain=math.sqrt(2.0)))
        self.encoder_lr_scale = (0.1 if extractor_learns else 1.0) if encoder_lr_scale is None else encoder_lr_scale
        check_number("encoder_lr_scale", self.encoder_lr_scale, 0.0, above=True)
        dimensions = dict(observation_dim=self.features_extractor.features_dim, action_dim=get_action_dim(action_space))
        config = WorldModelConfig.resolve(
            world_model,
            **dimensions,
            activation=names.get(activation_fn, "silu"),
            termination=True,
            normalize_observations=not extractor_learns,  # the features of a learning extractor move
        )
        for name, value in dimensions.items():
            if value > getattr(config, name):
                raise ValueError(
                    f"The world model has {name} {getattr(config, name)}, too small for this environment's {value}."
                )
        self.world_model = WorldModel(config)
        self.net_arch = as_net_arch(net_arch, config.latent_dim)
        # A dimension whose bounds are equal is always 0 in the data, but not in imagined rollouts.
        self.world_model.ignore_actions(np.flatnonzero(action_space.low == action_space.high).tolist())
        self.task_index = None if task is None else self.world_model.task_index(task)
        self.normalize_latents = normalize_latents
        statistics = ObservationStatistics(1, config.latent_dim, shared_scale=True) if normalize_latents else None
        self.actor = Actor(
            config.latent_dim,
            dimensions["action_dim"],
            self.net_arch["pi"],
            activation_fn,
            float(log_std_init),
            float(log_std_min),
            statistics,
        )
        self.actor_average = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic = EnsembleMLP(n_critics, config.latent_dim, self.net_arch["vf"], activation_fn)
        self.critic_target = EnsembleMLP(n_critics, config.latent_dim, self.net_arch["vf"], activation_fn)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        self.reward_scale = RunningScale()
        self.return_scale = RunningScale()

        learning_rate = lr_schedule(1)
        self.actor_optimizer = self.make_actor_optimizer(learning_rate)
        self.critic_optimizer = self._make_optimizer(self.critic.parameters(), learning_rate)
        # The paper's betas are for actor and critics; the world model keeps the optimizer's own.
        self.world_model_optimizer = self._make_optimizer(self._world_model_groups(), learning_rate, paper_betas=False)

    def _world_model_groups(self) -> Iterable[Any]:
        """Parameters of extractor and world model; in two groups where the encoder has a learning rate of its own."""
        encoder = [*self.features_extractor.parameters(), *self.world_model.encoder.parameters()]
        if self.encoder_lr_scale == 1.0:
            return [*self.features_extractor.parameters(), *self.world_model.parameters()]
        theirs = set(encoder)
        others = [parameter for parameter in self.world_model.parameters() if parameter not in theirs]
        return [dict(params=encoder, lr_scale=self.encoder_lr_scale), dict(params=others, lr_scale=1.0)]

    def make_actor_optimizer(self, learning_rate: float, name: str = "adam", **kwargs: Any) -> th.optim.Optimizer:
        """
        :param learning_rate: Learning rate. L-BFGS does not use it.
        :param name: ``"adam"`` for an optimizer of ``optimizer_class``, or ``"lbfgs"``.
        :param kwargs: Keyword arguments of the optimizer. With ``"adam"`` they replace those of ``optimizer_kwargs``.
        :return: New optimizer of the actor.
        """
        if name == "lbfgs":
            return LBFGS(self.actor.parameters(), **kwargs)
        return self._make_optimizer(self.actor.parameters(), learning_rate, **kwargs)

    def _make_optimizer(
        self, parameters: Iterable[Any], learning_rate: float, paper_betas: bool = True, **kwargs: Any
    ) -> th.optim.Optimizer:
        options: dict[str, Any] = {}
        if self.optimizer_class in (th.optim.Adam, th.optim.AdamW):
            options["fused"] = True  # a fifth of the loop's time on a CPU too
            if paper_betas:
                options["betas"] = (0.7, 0.95)
        return self.optimizer_class(parameters, lr=learning_rate, **{**options, **self.optimizer_kwargs, **kwargs})  # type: ignore[call-arg]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # A model that was saved before the average of the actor existed, or before latents were normalized
        for name in [name for name in state_dict if name.startswith(f"{prefix}actor.")]:
            average = name.replace(f"{prefix}actor.", f"{prefix}actor_average.", 1)
            state_dict.setdefault(average, state_dict[name])
        for name, value in self.state_dict(prefix=prefix).items():
            if ".normalization." in name:
                state_dict.setdefault(name, value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def count_latents(self, latents: th.Tensor) -> None:
        """
        Update the statistics that latents are normalized with.

        :param latents: Latents ``(N, Z)`` of the data.
        """
        for actor in (self.actor, self.actor_average):
            if isinstance(actor.normalization, ObservationStatistics):
                actor.normalization.update(latents)

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """
        Pass observations through SB3's preprocessing and the features extractor.

        :param obs: Batch of observations.
        :param features_extractor: The features extractor.
        :return: Features ``(B, observation_dim)``.
        """
        space = self.observation_space
        spaces_of = dict(space.spaces) if isinstance(space, spaces.Dict) else space
        return super().extract_features(map_observations(_as_sb3_expects, obs, spaces_of), features_extractor)

    def encode(self, observations: PyTorchObs) -> th.Tensor:
        """
        :param observations: Batch of observations, before SB3's preprocessing.
        :return: Latents ``(B, Z)``.
        """
        return self.world_model.encode(self.extract_features(observations, self.features_extractor), self.task_index)

    def featurize(self, batch: SequenceBatch, trained: bool = False) -> SequenceBatch:
        """
        Pass the observations of replayed sequences through the preprocessing and the features extractor.

        :param batch: The sequences, as the replay buffer yields them.
        :param trained: Whether the features of the first observations have a gradient. The other observations are
            targets of the world model, and have none.
        :return: The sequences with observations ``(H + 1, B, observation_dim)``, those of their outcome
            ``(B, observation_dim)``, and the policy's task.
        """

        def features(observations: Any, with_gradient: bool) -> th.Tensor:
            with th.set_grad_enabled(with_gradient):
                return self.extract_features(observations, self.features_extractor)

        horizon, batch_size = batch.mask.shape
        first = features(map_observations(lambda values: values[0], batch.observations), trained)
        others = features(map_observations(lambda values: values[1:].flatten(0, 1), batch.observations), False)
        task = None
        if self.task_index is not None:
            task = th.full((batch_size,), self.task_index, device=self.device)
        observations = th.cat([first, others]).unflatten(0, (horizon + 1, batch_size))
        outcome = batch.outcome
        if outcome is not None:
            outcome = outcome._replace(last_observations=features(outcome.last_observations, False))
        return batch._replace(observations=observations, task=task, outcome=outcome)

    def set_training_mode(self, mode: bool) -> None:
        """:param mode: Whether the policy and all its parts are in training mode."""
        if mode != self.training:  # walking through all modules takes longer than a decision
            super().set_training_mode(mode)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self._predict(obs, deterministic)

    def obs_to_tensor(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[PyTorchObs, bool]:
        """
        Convert observations to tensors, as SB3's policies do.

        :param observation: One observation, or a batch.
        :return: The batch of observations, and whether a batch was given.
        :raises ValueError: If an observation is NaN or infinite, or is the tuple that Gymnasium's ``reset`` returns.
        """
        if isinstance(observation, tuple) and isinstance(observation[-1], dict):
            raise ValueError("The observation is a tuple: take the first of the two that Gymnasium's reset() returns.")
        observations = observation.values() if isinstance(observation, dict) else [observation]
        if not all(np.isfinite(values).all() for values in observations):
            raise ValueError("No action follows from an observation that is NaN or infinite.")
        return super().obs_to_tensor(observation)

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """
        Scale actions, see :func:`~sb3_pwm.common.actions.scale_actions`.

        :param action: Actions ``(..., *shape)`` of the environment.
        :return: Actions in [-1, 1], float32.
        """
        return scale_actions(self.action_space, action)  # type: ignore[arg-type]

    def unscale_action(self, scaled_action: np.ndarray) -> np.ndarray:
        """
        Undo :meth:`scale_action`, see :func:`~sb3_pwm.common.actions.unscale_actions`.

        :param scaled_action: Actions ``(..., *shape)`` in [-1, 1].
        :return: Actions of the environment, in the dtype of its action space.
        :raises ValueError: If an action is NaN.
        """
        if not np.isfinite(scaled_action).all():  # checked here: an integer cannot be NaN
            raise ValueError("The action is NaN: the observation is far too large, or the policy's parameters are NaN.")
        return unscale_actions(self.action_space, scaled_action)  # type: ignore[arg-type]

    def save(self, path: str | Path | BinaryIO) -> None:  # type: ignore[override]
        """
        Save the policy as SB3 does, but atomically: an older file stays whole until the new one is complete.

        :param path: The file, or an open binary file.
        """
        if not isinstance(path, str | Path):
            super().save(path)  # type: ignore[arg-type]
            return
        with atomic_write(path) as file:
            super().save(file)  # type: ignore[arg-type]

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfPWMPolicy], path: str | Path | BinaryIO, device: th.device | str = "auto"
    ) -> SelfPWMPolicy:
        """
        Load a policy that :meth:`save` has written.

        :param path: The file, or an open binary one.
        :param device: Device of the networks.
        :return: The policy.
        :raises FileNotFoundError: If there is no such file.
        :raises ValueError: If it is damaged, or something else.
        """
        try:
            return super().load(path, device)  # type: ignore[arg-type]
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except Exception as error:  # torch raises about everything, by where a file ends and what it holds
            if isinstance(error, TypeError) and "'world_model_size'" in str(error):
                raise FileFormatError(path, "policy", 1) from error
            raise ValueError(
                f"{path} is damaged, or is no {cls.__name__} (PWM.load() reads whole models): {error}"
            ) from error

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        latents = self.encode(observation)
        if deterministic:
            return th.tanh(self.actor_average(latents)[0])
        mean, log_std = self.actor(latents)
        return squashed_action(mean, log_std, th.randn_like(mean))

    def export(self, path: str | Path, vec_normalize: VecNormalize | None = None) -> None:
        """
        Write the deterministic policy to a file that runs without this package.

        Inputs are raw observations ``(B, *observation)``, outputs are actions of the environment ``(B, *action)``; in
        ONNX their names are ``observations`` and ``actions``. Each entry of a ``Dict`` is an input: in ONNX by its
        name, in TorchScript in the order of the space's keys. Images have their channels first, as in
        ``policy.observation_space``.

        :param path: The file: ``*.onnx`` (``pip install 'sb3-pwm[onnx]'``), or ``*.pt`` (TorchScript).
        :param vec_normalize: Normalization of the observations, if any (``model.get_vec_normalize_env()``).
        :raises ValueError: If the path has another suffix, or the normalization is of other observations.
        :raises ImportError: If ONNX is not installed.
        """
        export_policy(self, path, vec_normalize)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            world_model=dataclasses.asdict(self.world_model.config),
            task=self.task,
            n_critics=self.n_critics,
            log_std_init=self.log_std_init,
            log_std_min=self.log_std_min,
            normalize_latents=self.normalize_latents,
            # Only the values are needed to rebuild the policy; a schedule may hold what cannot be pickled.
            lr_schedule=self._dummy_schedule,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            encoder_lr_scale=self.encoder_lr_scale,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
        )
        return data


MlpPolicy = PWMPolicy


class CnnPolicy(PWMPolicy):
    """
    Policy of PWM for images, with the arguments of :class:`PWMPolicy`.

    A convolutional network (NatureCNN, as in SB3's other algorithms) comes before the world model's encoder.
    """

    default_features_extractor_class = NatureCNN


class MultiInputPolicy(PWMPolicy):
    """
    Policy of PWM for ``Dict`` observations, with the arguments of :class:`PWMPolicy`.

    Each image passes through a convolutional network. All entries together are the input of the world model's encoder
    (CombinedExtractor).
    """

    default_features_extractor_class = CombinedExtractor


def _as_sb3_expects(values: th.Tensor, space: spaces.Space) -> th.Tensor:
    """:return: Batch of observations as SB3's preprocessing takes them: categories from 0, and numbers with an axis."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return values - th.as_tensor(space.start, device=values.device)
    return values.unsqueeze(-1) if space.shape == () else values


def as_net_arch(net_arch: list[int] | dict[str, list[int]] | None, latent_dim: int) -> dict[str, list[int]]:
    """
    :param net_arch: Argument of :class:`PWMPolicy`.
    :param latent_dim: Size of the latent, which the default depends on.
    :return: ``dict(pi=[...], vf=[...])``.
    :raises ValueError: If the argument is of another form.
    """
    if net_arch is None:
        net_arch = [128, 128] if latent_dim <= PRESETS[DEFAULT_SIZE]["latent_dim"] else [256, 256]
    if isinstance(net_arch, list | tuple):
        net_arch = {"pi": list(net_arch), "vf": list(net_arch)}
    if isinstance(net_arch, dict) and "qf" in net_arch and "vf" not in net_arch:
        net_arch = {("vf" if name == "qf" else name): layers for name, layers in net_arch.items()}
    if not isinstance(net_arch, dict) or set(net_arch) != {"pi", "vf"}:
        raise ValueError(f"net_arch must be a list of layer sizes or dict(pi=[...], vf=[...]), got {net_arch!r}.")
    for layers in net_arch.values():
        if not all(isinstance(size, int | np.integer) and size > 0 for size in layers):
            raise ValueError(f"net_arch must hold positive layer sizes, got {net_arch!r}.")
    return net_arch
