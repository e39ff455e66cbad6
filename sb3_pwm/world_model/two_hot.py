"""Regression of scalars as classification: two-hot vectors over bins in symlog space (arXiv 2301.04104)."""

import torch as th
import torch.nn.functional as F


def symlog(x: th.Tensor) -> th.Tensor:
    """
    Compute ``sign(x) log(1 + |x|)``, which compresses large values and is nearly the identity around zero.

    :param x: Tensor of any shape.
    :return: Tensor of the same shape.
    """
    return th.sign(x) * th.log1p(x.abs())


def symexp(x: th.Tensor) -> th.Tensor:
    """
    Compute ``sign(x) (exp(|x|) - 1)``, the inverse of :func:`symlog`.

    :param x: Tensor of any shape.
    :return: Tensor of the same shape.
    """
    return th.sign(x) * th.expm1(x.abs())


def two_hot(x: th.Tensor, num_bins: int, low: float, high: float) -> th.Tensor:
    """
    Encode scalars as two-hot vectors: weights of the two bins next to the symlog of the scalar, zero elsewhere.

    The weights are such that the expected bin center is the symlog of the scalar.

    :param x: Scalars ``(...)``, clipped to ``symexp(low)`` and ``symexp(high)``.
    :param num_bins: Number of bins, evenly spaced over ``[low, high]``.
    :param low: Center of the first bin, in symlog units.
    :param high: Center of the last bin, in symlog units.
    :return: Two-hot vectors ``(..., num_bins)``. Entries are non-negative and sum to one over the last dimension.
    """
    position = (symlog(x).clamp(low, high) - low) * ((num_bins - 1) / (high - low))
    # The weight of a bin is one minus its distance in bin widths, which is negative for all but the two nearest bins.
    bins = th.arange(num_bins, device=x.device, dtype=position.dtype)
    return (1.0 - (position.unsqueeze(-1) - bins).abs()).clamp(min=0.0)


def two_hot_decode(logits: th.Tensor, low: float, high: float) -> th.Tensor:
    """
    Decode categorical distributions over the bins to scalars.

    :param logits: Unnormalized log-probabilities ``(..., num_bins)``.
    :param low: Center of the first bin, in symlog units.
    :param high: Center of the last bin, in symlog units.
    :return: Scalars ``(...)``: symexp of the expected bin center.
    """
    bins = th.linspace(low, high, logits.shape[-1], device=logits.device, dtype=logits.dtype)
    # Not a matrix product, which autocast would compute in half precision.
    return symexp((F.softmax(logits, dim=-1) * bins).sum(-1))


def two_hot_cross_entropy(logits: th.Tensor, x: th.Tensor, low: float, high: float) -> th.Tensor:
    """
    Compute the cross-entropy between predicted distributions and the two-hot vectors of targets.

    :param logits: Unnormalized log-probabilities ``(..., num_bins)``.
    :param x: Target scalars ``(...)``.
    :param low: Center of the first bin, in symlog units.
    :param high: Center of the last bin, in symlog units.
    :return: Cross-entropy ``(...)``.
    """
    target = two_hot(x, logits.shape[-1], low, high)
    return -(target * F.log_softmax(logits, dim=-1)).sum(-1)
