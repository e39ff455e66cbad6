"""Discrete regression of scalars: two-hot vectors over evenly spaced bins in symlog space (arXiv 2301.04104)."""

import torch as th
import torch.nn.functional as F


def symlog(x: th.Tensor) -> th.Tensor:
    """``sign(x) log(1 + |x|)``, elementwise: compresses large magnitudes and is the identity near zero."""
    return th.sign(x) * th.log1p(x.abs())


def symexp(x: th.Tensor) -> th.Tensor:
    """``sign(x) (exp(|x|) - 1)``, elementwise: the inverse of :func:`symlog`."""
    return th.sign(x) * th.expm1(x.abs())


def two_hot(x: th.Tensor, num_bins: int, low: float, high: float) -> th.Tensor:
    """
    Spread each scalar over the two bins around its symlog, in proportion to how near they are.

    :param x: ``(...)`` scalars in their own units; beyond ``symexp(low)`` and ``symexp(high)`` they count as the edge.
    :param num_bins: Number of bins, evenly spaced over ``[low, high]``.
    :param low: Center of the first bin, in symlog units.
    :param high: Center of the last bin, in symlog units.
    :return: ``(..., num_bins)``, non-negative, sum one over the last dimension.
    """
    position = (symlog(x).clamp(low, high) - low) * ((num_bins - 1) / (high - low))
    # Distance to each bin in bin widths: a triangular kernel of width one is exactly the two-hot vector.
    bins = th.arange(num_bins, device=x.device, dtype=position.dtype)
    return (1.0 - (position.unsqueeze(-1) - bins).abs()).clamp(min=0.0)


def two_hot_decode(logits: th.Tensor, low: float, high: float) -> th.Tensor:
    """
    The scalar that a categorical distribution over the bins stands for.

    :param logits: ``(..., num_bins)`` unnormalized log-probabilities.
    :param low: Center of the first bin, in symlog units.
    :param high: Center of the last bin, in symlog units.
    :return: ``(...)``, in the scalar's own units: symexp of the expected bin center.
    """
    bins = th.linspace(low, high, logits.shape[-1], device=logits.device, dtype=logits.dtype)
    # Not a matrix product, which autocast would take in half precision
    return symexp((F.softmax(logits, dim=-1) * bins).sum(-1))


def two_hot_cross_entropy(logits: th.Tensor, x: th.Tensor, low: float, high: float) -> th.Tensor:
    """
    Cross-entropy between the two-hot encoding of ``x`` and the predicted distribution.

    :param logits: ``(..., num_bins)``.
    :param x: ``(...)`` target scalars in their own units.
    :param low: Center of the first bin, in symlog units.
    :param high: Center of the last bin, in symlog units.
    :return: ``(...)``, at least zero.
    """
    target = two_hot(x, logits.shape[-1], low, high)
    return -(target * F.log_softmax(logits, dim=-1)).sum(-1)
