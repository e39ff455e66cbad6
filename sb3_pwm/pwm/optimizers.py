"""How parameters are stepped: one function for all optimizers, which evaluates the loss through a closure."""

from collections.abc import Callable
from typing import TypeVar

import torch as th

from sb3_pwm.pwm.lbfgs import LBFGS

T = TypeVar("T")


def step(
    optimizer: th.optim.Optimizer,
    closure: Callable[[], tuple[th.Tensor, T]],
    clip: float,
    check_finite: bool = True,
) -> tuple[T, th.Tensor]:
    """
    Make one step of an optimizer on its own parameters, or a round of :class:`~sb3_pwm.pwm.lbfgs.LBFGS`.

    :param optimizer: The optimizer. Its parameters that require no gradient are left as they are.
    :param closure: Evaluates the loss. Returns the loss (a scalar) and whatever else its caller needs of the
        evaluation. It must not change any state, so that it may be called several times on the same sample.
    :param clip: Largest norm of the gradient; a longer gradient is scaled to it. L-BFGS has a line search instead, and
        would take the scaling for curvature.
    :param check_finite: Whether to check the gradient before the parameters change. On a GPU the check waits for the
        device.
    :return: What the closure returned beside the loss, and the norm of the gradient before clipping (a scalar).
    :raises FloatingPointError: If the gradient is not finite; no parameter was changed. After steps of L-BFGS, see
        :meth:`LBFGS.minimize() <sb3_pwm.pwm.lbfgs.LBFGS.minimize>`.
    """
    if isinstance(optimizer, LBFGS):
        return optimizer.minimize(closure)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    loss, result = closure()
    optimizer.zero_grad()
    # Without `inputs` the frozen networks that the loss passes through would collect gradients too.
    loss.backward(inputs=parameters)
    norm = th.nn.utils.clip_grad_norm_(parameters, clip)
    if check_finite and not th.isfinite(norm):
        raise FloatingPointError("The gradient is not finite.")
    optimizer.step()
    return result, norm


def averaging_coefficient(tau: float, n_updates: int) -> float:
    """
    Polyak coefficient of an average of parameters that begins with untrained ones.

    :param tau: Coefficient after many updates, in (0, 1].
    :param n_updates: Number of earlier updates.
    :return: At least ``9 / (10 + n_updates)``, so that the average is over the last ninth of the updates, until that is
        longer than ``1 / tau``.
    """
    return max(tau, 9.0 / (10.0 + n_updates))
