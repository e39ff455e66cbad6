"""The deterministic policy as a file that runs without this package: ONNX or TorchScript."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_pwm.common.files import replacing

if TYPE_CHECKING:
    from sb3_pwm.pwm.policies import PWMPolicy

SUFFIXES = (".onnx", ".pt")


class DeterministicPolicy(nn.Module):
    """
    Raw observations in, the environment's actions out; what ``predict(..., deterministic=True)`` computes.

    :param policy: The policy; it is copied.
    :param vec_normalize: The normalisation that its observations pass through first, if any; its statistics are copied.
    """

    low: th.Tensor
    high: th.Tensor
    mean: th.Tensor
    std: th.Tensor
    clip: float

    def __init__(self, policy: PWMPolicy, vec_normalize: VecNormalize | None = None):
        super().__init__()
        space = policy.action_space
        assert isinstance(space, spaces.Box)
        optimizers = policy.actor_optimizer, policy.critic_optimizer, policy.world_model_optimizer
        # Neither optimisers nor critics are copied: they are most of a policy's memory
        left_out = {id(part): None for part in (*optimizers, policy.critic, policy.critic_target)}
        self.policy = copy.deepcopy(policy, left_out).to("cpu").eval()  # type: ignore[arg-type]
        self.policy.requires_grad_(False)
        _make_exportable(self.policy)
        self.register_buffer("low", th.as_tensor(space.low, dtype=th.float32))
        self.register_buffer("high", th.as_tensor(space.high, dtype=th.float32))
        self.normalises = vec_normalize is not None and vec_normalize.norm_obs
        if self.normalises:
            assert vec_normalize is not None
            if not isinstance(vec_normalize.obs_rms, RunningMeanStd):
                raise ValueError("Only the normalisation of a Box observation can be exported, not of a Dict.")
            std = np.sqrt(vec_normalize.obs_rms.var + vec_normalize.epsilon)
            self.register_buffer("mean", th.as_tensor(vec_normalize.obs_rms.mean, dtype=th.float64))
            self.register_buffer("std", th.as_tensor(std, dtype=th.float64))
            self.clip = float(vec_normalize.clip_obs)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """:param observations: ``(B, *observation)``. :return: The environment's actions, ``(B, *action)``."""
        if self.normalises:
            # In double precision, as VecNormalize does: a difference of large numbers
            scaled = (observations.double() - self.mean) / self.std
            observations = scaled.clamp(-self.clip, self.clip).float()
        unit = self.policy(observations, deterministic=True).reshape(-1, *self.low.shape)
        return self.low + 0.5 * (unit + 1.0) * (self.high - self.low)


def _make_exportable(policy: nn.Module) -> None:
    """Replace what only training needs, and an exporter does not know, by what computes the same."""
    for module in list(policy.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Mish):
                setattr(module, name, nn.Mish())  # not ours with a backward pass of its own
            if isinstance(child, nn.Embedding) and child.max_norm is not None:
                child.weight.data.renorm_(2, 0, child.max_norm)  # what looking a row up would do first
                child.max_norm = None


def export_policy(policy: PWMPolicy, path: str | Path, vec_normalize: VecNormalize | None = None) -> None:
    """
    Write the deterministic policy to a file, atomically.

    :param policy: The policy.
    :param path: The file: ``*.onnx`` (needs the packages onnx and onnxscript), or ``*.pt`` (TorchScript).
    :param vec_normalize: See :class:`DeterministicPolicy`.
    :raises ValueError: If it has another ending, or the observations are a Dict.
    :raises ImportError: If ONNX is not installed; the message says what to install.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in .onnx or, for TorchScript, .pt.")
    if not isinstance(policy.observation_space, spaces.Box):
        raise ValueError(f"Only policies of Box observations can be exported, not of {policy.observation_space}.")
    model = DeterministicPolicy(policy, vec_normalize).eval()
    dtype = th.from_numpy(np.zeros(0, policy.observation_space.dtype)).dtype
    example = th.zeros(2, *policy.observation_space.shape, dtype=dtype)
    with replacing(path) as file, warnings.catch_warnings(), th.no_grad():
        warnings.filterwarnings("ignore", category=th.jit.TracerWarning)
        for category in (DeprecationWarning, FutureWarning):  # of torch and Python, about each other
            warnings.filterwarnings("ignore", category=category)
        if path.suffix == ".pt":
            th.jit.save(th.jit.trace(model, example), file)
            return
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ImportError("Exporting to ONNX needs two packages: pip install 'sb3-pwm[onnx]'.") from error
        batch = th.export.Dim("batch", min=1)
        program = th.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=["observations"],
            output_names=["actions"],
            verbose=False,
        )
        assert program is not None
        file.write(program.model_proto.SerializeToString())
