"""The deterministic policy as a file that runs without this package: ONNX or TorchScript."""

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


class Normalization(nn.Module):
    """
    What VecNormalize does to an observation.

    :param statistics: Its running mean and variance; they are copied.
    :param epsilon: Added to the variance.
    :param clip: Bound of what comes out.
    """

    mean: th.Tensor
    std: th.Tensor

    def __init__(self, statistics: RunningMeanStd, epsilon: float, clip: float):
        super().__init__()
        self.register_buffer("mean", th.as_tensor(statistics.mean, dtype=th.float64))
        self.register_buffer("std", th.as_tensor(np.sqrt(statistics.var + epsilon), dtype=th.float64))
        self.clip = float(clip)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """:param observations: ``(B, *)``. :return: The same shape."""
        # In double precision, as VecNormalize does: a difference of large numbers
        return ((observations.double() - self.mean) / self.std).clamp(-self.clip, self.clip).float()


class DeterministicPolicy(nn.Module):
    """
    Raw observations in, the environment's actions out; what ``predict(..., deterministic=True)`` computes.

    :param policy: The policy; it is copied.
    :param vec_normalize: The normalization that its observations pass through first, if any; its statistics are copied.
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, policy: BasePolicy, vec_normalize: VecNormalize | None = None):
        super().__init__()
        space = policy.action_space
        assert isinstance(space, spaces.Box)
        optimizers = policy.actor_optimizer, policy.critic_optimizer, policy.world_model_optimizer
        # Neither optimizers nor critics are copied: they are most of a policy's memory
        left_out = {id(part): None for part in (*optimizers, policy.critic, policy.critic_target)}
        self.policy = copy.deepcopy(policy, left_out).to("cpu").eval()  # type: ignore[arg-type]
        self.policy.requires_grad_(False)
        _make_exportable(self.policy)
        self.register_buffer("low", th.as_tensor(space.low, dtype=th.float32))
        self.register_buffer("high", th.as_tensor(space.high, dtype=th.float32))
        self.spaces = _named_spaces(policy.observation_space)
        _check_normalization(policy.observation_space, vec_normalize)
        self.is_dict = isinstance(policy.observation_space, spaces.Dict)
        self.normalizations = nn.ModuleList(_normalization(name, vec_normalize) for name in self.spaces)

    def forward(self, *observations: th.Tensor) -> th.Tensor:
        """
        :param observations: ``(B, *observation)``; of a ``Dict`` its entries, in the order of the space's keys.
        :return: The environment's actions, ``(B, *action)``.
        """
        normalized = [module(values) for module, values in zip(self.normalizations, observations, strict=True)]
        named = dict(zip(self.spaces, normalized, strict=True))
        unit = self.policy(named if self.is_dict else normalized[0], deterministic=True).reshape(-1, *self.low.shape)
        return self.low + 0.5 * (unit + 1.0) * (self.high - self.low)


def _named_spaces(space: spaces.Space) -> dict[str, spaces.Space]:
    """The file's inputs, by name."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"observations": space}


def _check_normalization(space: spaces.Space, vec_normalize: VecNormalize | None) -> None:
    """:raises ValueError: If the normalization is none, or is one of other observations."""
    if vec_normalize is None:
        return
    if not isinstance(vec_normalize, VecNormalize):
        raise ValueError(
            "vec_normalize must be a VecNormalize or None, as model.get_vec_normalize_env() gives it, "
            f"got {vec_normalize}."
        )
    theirs, ours = get_obs_shape(vec_normalize.observation_space), get_obs_shape(space)
    if theirs != ours:
        raise ValueError(f"vec_normalize is of observations of shape {theirs}, the policy's are {ours}.")


def _normalization(name: str, vec_normalize: VecNormalize | None) -> nn.Module:
    """Of an observation, or of a dictionary's entry of that name."""
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
    """Replace what only training needs, and an exporter does not know, by what computes the same."""
    for module in list(policy.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Mish):
                setattr(module, name, nn.Mish())  # not ours with a backward pass of its own
            if isinstance(child, nn.Embedding) and child.max_norm is not None:
                child.weight.data.renorm_(2, 0, child.max_norm)  # what looking a row up would do first
                child.max_norm = None


def export_policy(policy: BasePolicy, path: str | Path, vec_normalize: VecNormalize | None = None) -> None:
    """
    Write the deterministic policy to a file, atomically.

    :param policy: The policy.
    :param path: The file: ``*.onnx`` (needs the packages onnx and onnxscript), or ``*.pt`` (TorchScript).
    :param vec_normalize: See :class:`DeterministicPolicy`.
    :raises ValueError: If it has another ending, or the normalization is of other observations.
    :raises ImportError: If ONNX is not installed; the message says what to install.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in .onnx or, for TorchScript, .pt.")
    model = DeterministicPolicy(policy, vec_normalize).eval()
    examples = tuple(_example(space) for space in model.spaces.values())
    with atomic_write(path) as file, warnings.catch_warnings(), th.no_grad():
        warnings.filterwarnings("ignore", category=th.jit.TracerWarning)
        for category in (DeprecationWarning, FutureWarning):  # of torch and Python, about each other
            warnings.filterwarnings("ignore", category=category)
        if path.suffix == ".pt":
            th.jit.save(th.jit.trace(model, examples), file)
            return
        try:
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
    """Two observations, as a raw environment gives them."""
    return th.from_numpy(np.zeros((2, *(space.shape or ())), space.dtype))
