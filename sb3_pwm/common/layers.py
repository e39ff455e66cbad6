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
"""Standard deviation of the initial weights"""

# On a CPU, more rows at once do not fit into the caches, and the allocator returns such memory to the system and
# fetches it again page by page (docs/experiments.md).
LONG_BATCH = 1024
"""Number of rows from which a CPU evaluates an ensemble member by member, and size of the blocks of an :class:`MLP`"""


def at_least_float32(x: th.Tensor) -> th.Tensor:
    """
    Convert half precision to single precision, for values that are summed or compared.

    :param x: Tensor of any shape.
    :return: Tensor in single precision if ``x`` is in half precision, else ``x``.
    """
    return x.float() if x.dtype in (th.bfloat16, th.float16) else x


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """
    Exclude the parameters of a module from the graph that the block builds. The block keeps no activations for them.

    :param module: Module whose parameters all require gradients. They require gradients again after the block.
    """
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class _FastMish(th.autograd.Function):
    """``x tanh(softplus(x))``, computed as ``x - 2 x / d`` with ``d = (exp(x) + 1)^2 + 1``, which needs one exp."""

    @staticmethod
    def forward(ctx: Any, x: th.Tensor) -> th.Tensor:
        exp = x.clamp(max=20.0).exp_()  # beyond 20, the quotient is zero in every precision
        d = exp + 1.0
        d.mul_(d).add_(1.0)
        ctx.save_for_backward(x, exp, d)
        return th.addcdiv(x, x, d, value=-2.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> th.Tensor:
        x, exp, d = ctx.saved_tensors
        # The derivative is 1 + 2 (2 t - 1) / d with t = x exp (exp + 1) / d.
        t = th.addcmul(exp, exp, exp).mul_(x).div_(d)
        t.mul_(2.0).sub_(1.0).div_(d)
        return th.addcmul(gradient, gradient, t, value=2.0)


class Mish(nn.Mish):
    """``nn.Mish``, in less than half of the time on a CPU."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Apply the activation elementwise.

        :param x: Tensor of any shape.
        :return: Tensor of the same shape.
        """
        # For negative x, the difference of x and 2 x / d loses digits: too many in half precision.
        if x.device.type != "cpu" or x.dtype not in (th.float32, th.float64):
            return super().forward(x)
        return _FastMish.apply(x)  # type: ignore[no-untyped-call]


def make_activation(activation_fn: type[nn.Module]) -> nn.Module:
    """
    Make an activation.

    :param activation_fn: Class of the activation.
    :return: Module of that class, or a faster module that computes the same.
    """
    return Mish() if activation_fn is nn.Mish else activation_fn()


class SimNorm(nn.Module):
    """
    Simplicial normalization: a softmax over each group of the last dimension (arXiv 2310.16828, equation 5).

    It makes latents bounded and tends to make them sparse, which keeps long latent rollouts from drifting.

    :param group_size: Number of entries in a group. The last dimension of the input must be a multiple of it.
    """

    def __init__(self, group_size: int = 8):
        super().__init__()
        self.group_size = group_size

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Normalize each group.

        :param x: Tensor ``(..., Z)``.
        :return: Tensor ``(..., Z)``. Each group is non-negative and sums to one.
        """
        groups = at_least_float32(x).unflatten(-1, (-1, self.group_size))
        if x.device.type != "cpu" or th.compiler.is_compiling():
            return F.softmax(groups, dim=-1).flatten(-2)
        # On a CPU, torch's softmax over a short last dimension takes ten times as long as over any other.
        return F.softmax(groups.transpose(-1, -2), dim=-2).transpose(-1, -2).flatten(-2)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}"


class NormedLinear(nn.Linear):
    """
    Linear layer, LayerNorm and activation.

    :param in_features: Size of the last dimension of the input.
    :param out_features: Size of the last dimension of the output.
    :param activation: Activation module.
    """

    def __init__(self, in_features: int, out_features: int, activation: nn.Module):
        super().__init__(in_features, out_features)
        self.ln = nn.LayerNorm(out_features)
        self.act = activation

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Apply the three layers.

        :param x: Tensor ``(..., in_features)``.
        :return: Tensor ``(..., out_features)``.
        """
        return self.act(self.ln(super().forward(x)))


class MLP(nn.Sequential):
    """Stack of layers that act on each row independently. On a CPU, large batches are split into blocks of rows."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Apply all layers.

        :param x: Tensor ``(..., in_features)``.
        :return: Tensor ``(..., out_features)``.
        """
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
    Make a stack of :class:`NormedLinear` layers.

    :param in_features: Size of the input.
    :param hidden: Sizes of the hidden layers.
    :param out_features: Size of the output.
    :param activation_fn: Class of the activation of the hidden layers.
    :param output_activation: Activation of the output layer, which is a :class:`NormedLinear` then. None: the output
        layer is a plain ``Linear``.
    :return: The network, initialized as TD-MPC2 does: truncated normal weights and zero biases.
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
    One linear layer per ensemble member, evaluated as one batched matrix product.

    :param n_members: Number of members, N.
    :param in_features: Size of the input.
    :param out_features: Size of the output.
    """

    def __init__(self, n_members: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(th.empty(n_members, in_features, out_features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, out_features))
        nn.init.trunc_normal_(self.weight, std=INIT_STD)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Apply each member to its input.

        :param x: Tensor ``(N, B, in_features)``.
        :return: Tensor ``(N, B, out_features)``.
        """
        return th.baddbmm(self.bias, x, self.weight)

    def member(self, x: th.Tensor, n: int) -> th.Tensor:
        """
        Apply one member.

        :param x: Tensor ``(B, in_features)``.
        :param n: Index of the member.
        :return: Tensor ``(B, out_features)``.
        """
        return th.addmm(self.bias[n], x, self.weight[n])


class EnsembleLayerNorm(nn.Module):
    """
    One LayerNorm per ensemble member.

    :param n_members: Number of members, N.
    :param features: Size of the last dimension.
    """

    def __init__(self, n_members: int, features: int):
        super().__init__()
        self.features = features
        self.weight = nn.Parameter(th.ones(n_members, 1, features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, features))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        Apply each member to its input.

        :param x: Tensor ``(N, B, features)``.
        :return: Tensor ``(N, B, features)``.
        """
        return th.addcmul(self.bias, F.layer_norm(x, (self.features,)), self.weight)

    def member(self, x: th.Tensor, n: int) -> th.Tensor:
        """
        Apply one member.

        :param x: Tensor ``(B, features)``.
        :param n: Index of the member.
        :return: Tensor ``(B, features)``.
        """
        return F.layer_norm(x, (self.features,), self.weight[n, 0], self.bias[n, 0])


class EnsembleMLP(nn.Module):
    """
    N independent MLPs with the same input and one scalar output each.

    Hidden layers are a linear layer, LayerNorm and the activation. The weights of the output layers are zero at first,
    so that all predictions of a new ensemble are zero.

    :param n_members: Number of members, N.
    :param in_features: Size of the input.
    :param hidden: Sizes of the hidden layers.
    :param activation_fn: Class of the activation of the hidden layers.
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
        """
        Predict with all members.

        :param x: Tensor ``(..., in_features)``.
        :return: Predictions ``(N, ...)``.
        """
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
