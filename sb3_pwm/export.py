"""Export of the deterministic policy to ONNX or TorchScript, which run without this package."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_pwm.common.files import atomic_write

SUFFIXES = (".onnx", ".pt")
"""Suffixes of the files: ONNX and TorchScript"""


class Normalization(nn.Module):
    """
    Normalization of observations, as ``VecNormalize`` does it.

    :param statistics: Running mean and variance of the observations. They are copied.
    :param epsilon: Number that is added to the variance.
    :param clip: Largest absolute value of normalized observations.
    """

    mean: th.Tensor
    std: th.Tensor

    def __init__(self, statistics: RunningMeanStd, epsilon: float, clip: float):
        super().__init__()
        self.register_buffer("mean", th.as_tensor(statistics.mean, dtype=th.float64))
        self.register_buffer("std", th.as_tensor(np.sqrt(statistics.var + epsilon), dtype=th.float64))
        self.clip = float(clip)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        Normalize observations.

        :param observations: Observations ``(B, *)``.
        :return: Normalized observations ``(B, *)``.
        """
        # In double precision, as VecNormalize does: the difference of large numbers loses digits.
        return ((observations.double() - self.mean) / self.std).clamp(-self.clip, self.clip).float()


class DeterministicPolicy(nn.Module):
    """
    Module that computes actions of the environment from its observations, as ``predict(..., deterministic=True)`` does.

    :param policy: The policy. It is copied.
    :param vec_normalize: ``VecNormalize`` that the policy was trained with, if any. The module then takes observations
        that are not normalized. The statistics are copied.
    :raises ValueError: If ``vec_normalize`` is no ``VecNormalize``, or normalizes observations of another shape.
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, policy: BasePolicy, vec_normalize: VecNormalize | None = None):
        super().__init__()
        space = policy.action_space
        assert isinstance(space, spaces.Box)
        optimizers = policy.actor_optimizer, policy.critic_optimizer, policy.world_model_optimizer
        # Optimizers and critics are not copied: they need most of the memory of a policy. The actor's average acts.
        left_out = {id(part): None for part in (*optimizers, policy.actor, policy.critic, policy.critic_target)}
        self.policy = copy.deepcopy(policy, left_out).to("cpu").eval()  # type: ignore[arg-type]
        self.policy.requires_grad_(False)
        _make_exportable(self.policy)
        self.register_buffer("low", th.as_tensor(space.low, dtype=th.float64))
        self.register_buffer("high", th.as_tensor(space.high, dtype=th.float64))
        self.rounds = not np.issubdtype(space.dtype, np.floating)
        self.dtype = th.as_tensor(space.low).dtype if self.rounds else th.float32
        self.spaces = _named_spaces(policy.observation_space)
        _check_normalization(policy.observation_space, vec_normalize)
        self.is_dict = isinstance(policy.observation_space, spaces.Dict)
        self.normalizations = nn.ModuleList(_normalization(name, vec_normalize) for name in self.spaces)

    def forward(self, *observations: th.Tensor) -> th.Tensor:
        """
        Compute the deterministic actions.

        :param observations: Observations ``(B, *observation)``. For a ``Dict`` space, one tensor per entry, in the
            order of the keys of the space.
        :return: Actions of the environment ``(B, *action)``, not scaled to [-1, 1]; float32, or the integers of the
            action space.
        """
        normalized = [module(values) for module, values in zip(self.normalizations, observations, strict=True)]
        named = dict(zip(self.spaces, normalized, strict=True))
        unit = self.policy(named if self.is_dict else normalized[0], deterministic=True).reshape(-1, *self.low.shape)
        # As sb3_pwm.common.actions.unscale_actions() does.
        actions = self.low + 0.5 * (unit.double() + 1.0) * (self.high - self.low)
        return (actions.round() if self.rounds else actions).to(self.dtype)


def _named_spaces(space: spaces.Space) -> dict[str, spaces.Space]:
    """:return: Spaces of the inputs of the file, by the name of the input."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"observations": space}


def _check_normalization(space: spaces.Space, vec_normalize: VecNormalize | None) -> None:
    """:raises ValueError: If ``vec_normalize`` is no ``VecNormalize``, or normalizes observations of another shape."""
    if vec_normalize is None:
        return
    if not isinstance(vec_normalize, VecNormalize):
        raise ValueError(
            "vec_normalize must be a VecNormalize or None, as model.get_vec_normalize_env() returns it, "
            f"got {vec_normalize}."
        )
    theirs, ours = get_obs_shape(vec_normalize.observation_space), get_obs_shape(space)
    if theirs != ours:
        raise ValueError(
            f"vec_normalize normalizes observations of the shape {theirs}, the policy's observations have {ours}."
        )


def _normalization(name: str, vec_normalize: VecNormalize | None) -> nn.Module:
    """:return: Module that normalizes the input of this name, or the identity if it is not normalized."""
    if vec_normalize is None or not vec_normalize.norm_obs:
        return nn.Identity()
    statistics: Any = vec_normalize.obs_rms
    if isinstance(statistics, dict):
        if name not in (vec_normalize.norm_obs_keys or ()):
            return nn.Identity()
        statistics = statistics[name]
    assert isinstance(statistics, RunningMeanStd)
    return Normalization(statistics, vec_normalize.epsilon, vec_normalize.clip_obs)


def _make_exportable(policy: nn.Module) -> None:
    """Replace modules that exporters cannot read by modules that compute the same without support for training."""
    for module in list(policy.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Mish):
                setattr(module, name, nn.Mish())  # this package's Mish has its own backward pass
            if isinstance(child, nn.Embedding) and child.max_norm is not None:
                child.weight.data.renorm_(2, 0, child.max_norm)  # as the embedding does when a row is looked up
                child.max_norm = None


def export_policy(policy: BasePolicy, path: str | Path, vec_normalize: VecNormalize | None = None) -> None:
    """
    Write the deterministic policy to a file, atomically. See :class:`DeterministicPolicy` for what it computes.

    :param policy: The policy.
    :param path: The file: ``*.onnx`` for ONNX, which needs the packages onnx and onnxscript, or ``*.pt`` for
        TorchScript.
    :param vec_normalize: ``VecNormalize`` that the policy was trained with, if any. It becomes part of the file.
    :raises ValueError: If the path has another suffix, or ``vec_normalize`` does not fit the policy.
    :raises ImportError: If the packages for ONNX are not installed. The message says what to install.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in .onnx or, for TorchScript, .pt.")
    model = DeterministicPolicy(policy, vec_normalize).eval()
    examples = tuple(_example(space) for space in model.spaces.values())
    with atomic_write(path) as file, warnings.catch_warnings(), th.no_grad():
        warnings.filterwarnings("ignore", category=th.jit.TracerWarning)
        for category in (DeprecationWarning, FutureWarning):  # raised inside torch
            warnings.filterwarnings("ignore", category=category)
        if path.suffix == ".pt":
            th.jit.save(th.jit.trace(model, examples), file)
            return
        try:
            # onnx and onnxscript are optional packages. torch.onnx.export imports them.
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ImportError("Exporting to ONNX needs two packages: pip install 'sb3-pwm[onnx]'.") from error
        batch = th.export.Dim("batch", min=1)
        output = "actions"
        while output in model.spaces:
            output += "_"
        program = th.onnx.export(
            model,
            examples,
            dynamo=True,
            dynamic_shapes={"observations": tuple({0: batch} for _ in examples)},
            input_names=list(model.spaces),
            output_names=[output],
            verbose=False,
        )
        assert program is not None
        file.write(program.model_proto.SerializeToString())


def _example(space: spaces.Space) -> th.Tensor:
    """:return: Batch of two observations of a space, for the exporters."""
    start = getattr(space, "start", 0)  # the first category of Discrete and MultiDiscrete
    return th.from_numpy(np.full((2, *(space.shape or ())), start, space.dtype))
