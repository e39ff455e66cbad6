"""How far actions are from those of the data: the distance that the behavior term and the behavior head share."""

import torch as th

MIN_SPREAD = 0.01
"""Added to the spread of actions: nearer than this, imitation gains nothing"""


def distance(predicted: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    Distance ``|d| + d^2`` of actions, which is robust and yet pulls harder from farther away.

    Noise that was clipped at the bounds of the actions pulls the mean of a behavior's actions to the middle, and leaves
    their median where it was: the absolute distance finds the median. The square keeps rare states, as those that
    episodes begin in: the gradient of the absolute distance is no larger where a policy is far from the data, so that
    the many states where it is near outweigh them.

    :param predicted: Actions in [-1, 1], of any shape.
    :param actions: Actions of the data, of the same shape.
    :return: Distance of each number.
    """
    error = (predicted - actions).abs()
    return error + error**2


def log_spread(spread: th.Tensor) -> th.Tensor:
    """
    Negative log-likelihood of actions, up to a constant, with the spread that they have.

    The maximum-likelihood spread of a density ``exp(-distance / s) / s`` is the mean distance, and the likelihood with
    it the logarithm of the mean.

    :param spread: Mean distances, of any shape.
    :return: Their logarithms.
    """
    return (spread + MIN_SPREAD).log()
