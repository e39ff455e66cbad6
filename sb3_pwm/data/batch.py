"""The form in which sequences of experience travel through the package."""

from typing import NamedTuple

import torch as th


class SequenceBatch(NamedTuple):
    """
    B sequences of H consecutive steps, time first.

    ``observations[t + 1]`` is the true observation that step t led to, also at an episode's end. Steps after the
    episode's end have mask zero; what they hold is arbitrary but finite.
    """

    observations: th.Tensor
    """``(H + 1, B, *)``; a dictionary of such tensors where the environment's observations are one"""
    actions: th.Tensor
    """``(H, B, A)``, scaled to [-1, 1]"""
    rewards: th.Tensor
    """``(H, B)``, in the environment's units"""
    terminations: th.Tensor
    """``(H, B)``, one where the step ended the episode for good; a time limit's truncation is not a termination"""
    mask: th.Tensor
    """``(H, B)``, one for the steps of the sequence's first episode"""
    task: th.Tensor | None = None
    """``(B,)`` task indices, or None in single-task learning"""
