"""Network blocks of the TD-MPC2 architecture (arXiv 2310.16828, section 3.1) that PWM builds on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch as th
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

INIT_STD = 0.02
# Rows from which on a CPU evaluates an ensemble one member at a time, and the size of its blocks of rows otherwise:
# more at once falls out of its caches, and its allocator gives such memory back and fetches it again page by page
# (docs/experiments.md).
LONG_BATCH = 1024


def at_least_float32(x: th.Tensor) -> th.Tensor:
    """:param x: Any tensor. :return: The same, in single precision if it was in half: what is summed or compared."""
    return x.float() if x.dtype in (th.bfloat16, th.float16) else x


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """
    Take a module's parameters out of the graph that is built meanwhile: no activations kept for them, no gradients.

    :param module: All of whose parameters require gradients before and after.
    """
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class _FastMish(th.autograd.Function):
    """``x tanh(softplus(x))`` as ``x - 2 x / d`` with d = (exp(x) + 1)^2 + 1: one exponential, six passes."""

    @staticmethod
    def forward(ctx: Any, x: th.Tensor) -> th.Tensor:
        exp = x.clamp(max=20.0).exp_()  # beyond 20 the quotient is zero in every precision
        d = exp + 1.0
        d.mul_(d).add_(1.0)
        ctx.save_for_backward(x, exp, d)
        return th.addcdiv(x, x, d, value=-2.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> th.Tensor:
        x, exp, d = ctx.saved_tensors
        # The slope is 1 + 2 (2 t - 1) / d with t = x exp (exp + 1) / d
        t = th.addcmul(exp, exp, exp).mul_(x).div_(d)
        t.mul_(2.0).sub_(1.0).div_(d)
        return th.addcmul(gradient, gradient, t, value=2.0)


class Mish(nn.Mish):
    """``nn.Mish`` in less than half of its time on a CPU, where torch's kernel costs more than the layer before it."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """:param x: Any shape. :return: The same shape."""
        # The difference of x and 2 x / d cancels for negative x: too much of it in half precision.
        if x.device.type != "cpu" or x.dtype not in (th.float32, th.float64):
            return super().forward(x)
        return _FastMish.apply(x)  # type: ignore[no-untyped-call]


def make_activation(activation_fn: type[nn.Module]) -> nn.Module:
    """:param activation_fn: Class of an activation. :return: A module of it, or of a faster equivalent."""
    return Mish() if activation_fn is nn.Mish else activation_fn()


class SimNorm(nn.Module):
    """
    Simplicial normalization: the last dimension is cut into groups and each group passes through a softmax.

    A latent is so a list of points on simplices: bounded, and sparse by preference, which keeps long latent rollouts
    from drifting (arXiv 2310.16828, equation 5).

    :param group_size: Number of entries in a group; the input's last dimension must be a multiple of it.
    """

    def __init__(self, group_size: int = 8):
        super().__init__()
        self.group_size = group_size

    def forward(self, x: th.Tensor) -> th.Tensor:
        """:param x: ``(..., Z)``. :return: ``(..., Z)``, every group non-negative with sum one."""
        groups = at_least_float32(x).unflatten(-1, (-1, self.group_size))
        return F.softmax(groups, dim=-1).flatten(-2)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}"


class NormedLinear(nn.Linear):
    """
    Linear layer, LayerNorm, activation.

    :param in_features: Size of the input's last dimension.
    :param out_features: Size of the output's last dimension.
    :param activation: Module applied last.
    """

    def __init__(self, in_features: int, out_features: int, activation: nn.Module):
        super().__init__(in_features, out_features)
        self.ln = nn.LayerNorm(out_features)
        self.act = activation

    def forward(self, x: th.Tensor) -> th.Tensor:
        """:param x: ``(..., in_features)``. :return: ``(..., out_features)``."""
        return self.act(self.ln(super().forward(x)))


class MLP(nn.Sequential):
    """A stack of layers that treat every row alike; a CPU passes many rows through it block by block."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """:param x: ``(..., in_features)``. :return: ``(..., out_features)``."""
        rows = x.numel() // x.shape[-1]
        if x.device.type != "cpu" or rows < 4 * LONG_BATCH or th.compiler.is_compiling():
            return super().forward(x)
        outputs = [super(MLP, self).forward(block) for block in x.reshape(rows, -1).split(LONG_BATCH)]
        return th.cat(outputs).view(*x.shape[:-1], -1)


def mlp(
    in_features: int,
    hidden: Sequence[int],
    out_features: int,
    activation_fn: type[nn.Module],
    output_activation: nn.Module | None = None,
) -> MLP:
    """
    Stack of :class:`NormedLinear` with a plain linear output, or a normed one where the output has an activation.

    :param in_features: Size of the input.
    :param hidden: Sizes of the hidden layers.
    :param out_features: Size of the output.
    :param activation_fn: Class of the hidden layers' activation.
    :param output_activation: Module that ends the stack; without it the last layer is a plain ``Linear``.
    :return: The network, initialized as TD-MPC2 does: truncated normal weights, zero biases.
    """
    sizes = [in_features, *hidden]
    layers: list[nn.Module] = [
        NormedLinear(n_in, n_out, make_activation(activation_fn)) for n_in, n_out in pairwise(sizes)
    ]
    if output_activation is None:
        layers.append(nn.Linear(sizes[-1], out_features))
    else:
        layers.append(NormedLinear(sizes[-1], out_features, output_activation))
    network = MLP(*layers)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=INIT_STD)
            nn.init.zeros_(module.bias)
    return network


class EnsembleLinear(nn.Module):
    """
    One linear layer per ensemble member, evaluated as a single batched matrix product.

    :param n_members: Size of the ensemble, N.
    :param in_features: Size of the input.
    :param out_features: Size of the output.
    """

    def __init__(self, n_members: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(th.empty(n_members, in_features, out_features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, out_features))
        nn.init.trunc_normal_(self.weight, std=INIT_STD)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """:param x: ``(N, B, in_features)``. :return: ``(N, B, out_features)``."""
        return th.baddbmm(self.bias, x, self.weight)

    def member(self, x: th.Tensor, n: int) -> th.Tensor:
        """:param x: ``(B, in_features)``. :param n: Which member. :return: Its output ``(B, out_features)``."""
        return th.addmm(self.bias[n], x, self.weight[n])


class EnsembleLayerNorm(nn.Module):
    """
    LayerNorm with a gain and offset of its own for each ensemble member.

    :param n_members: Size of the ensemble, N.
    :param features: Size of the last dimension.
    """

    def __init__(self, n_members: int, features: int):
        super().__init__()
        self.features = features
        self.weight = nn.Parameter(th.ones(n_members, 1, features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, features))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """:param x: ``(N, B, features)``. :return: ``(N, B, features)``."""
        return th.addcmul(self.bias, F.layer_norm(x, (self.features,)), self.weight)

    def member(self, x: th.Tensor, n: int) -> th.Tensor:
        """:param x: ``(B, features)``. :param n: Which member. :return: Its output ``(B, features)``."""
        return F.layer_norm(x, (self.features,), self.weight[n, 0], self.bias[n, 0])


class EnsembleMLP(nn.Module):
    """
    N independent MLPs (linear, LayerNorm, activation) with the same input and a scalar output each.

    The output weights start at zero, so every member's first prediction is zero.

    :param n_members: Size of the ensemble, N.
    :param in_features: Size of the input.
    :param hidden: Sizes of the hidden layers.
    :param activation_fn: Class of the hidden layers' activation.
    """

    def __init__(self, n_members: int, in_features: int, hidden: Sequence[int], activation_fn: type[nn.Module]):
        super().__init__()
        self.n_members = n_members
        sizes = [in_features, *hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [EnsembleLinear(n_members, n_in, n_out), EnsembleLayerNorm(n_members, n_out)]
            layers.append(make_activation(activation_fn))
        output = EnsembleLinear(n_members, sizes[-1], 1)
        nn.init.zeros_(output.weight)
        self.layers = nn.Sequential(*layers, output)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """:param x: ``(..., in_features)``. :return: ``(N, ...)``, one prediction per member."""
        batch_shape = x.shape[:-1]
        flat = x.reshape(-1, x.shape[-1])
        if x.device.type == "cpu" and len(flat) >= LONG_BATCH and not th.compiler.is_compiling():
            outputs = th.stack([self._member(flat, n) for n in range(self.n_members)])
        else:
            outputs = self.layers(flat.expand(self.n_members, -1, -1))
        return at_least_float32(outputs).view(self.n_members, *batch_shape)

    def _member(self, x: th.Tensor, n: int) -> th.Tensor:
        for layer in self.layers:
            x = layer.member(x, n) if isinstance(layer, EnsembleLinear | EnsembleLayerNorm) else layer(x)
        return x
