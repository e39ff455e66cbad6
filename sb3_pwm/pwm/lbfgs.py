"""L-BFGS for a loss over random samples: a sample is held for several iterations, then another one is drawn."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch as th

from sb3_pwm.common.checks import check_choice, check_number

T = TypeVar("T")

MAX_FAILURES = 3
"""Number of failed rounds in a row after which the history is dropped"""


class LBFGS(th.optim.LBFGS):
    """
    torch's L-BFGS with a strong-Wolfe line search, in rounds.

    A round (:meth:`minimize`) makes up to ``max_iter`` iterations on one sample. Both gradients of a curvature pair are
    therefore of the same sample (Bollapragada et al. 2018, arXiv 1802.05374): no pair joins the last gradient of a
    round and the first one of the next. Pairs without positive curvature are not stored.

    The state dictionary holds the history and the counters, so that a loaded optimizer goes on as the saved one.

    :param params: The parameters.
    :param lr: Step length that a line search tries first. The first one of a new history tries
        ``lr * min(1, 1 / |gradient|_1)``.
    :param max_iter: Largest number of iterations in a round.
    :param max_eval: Number of evaluations after which a round ends. None: a quarter more than ``max_iter``.
    :param history_size: Largest number of curvature pairs.
    :param tolerance_grad: A round ends if no entry of the gradient is larger.
    :param tolerance_change: A round ends if the loss changes by less, or no parameter by more.
    :param keep_history: Whether a round begins with the curvature pairs of the rounds before. It then descends further
        on its sample, and in extraction for Hopper-v5 less on fresh samples.
    :raises ValueError: If a number is out of range; the message names it.
    """

    _params: list[th.Tensor]

    def __init__(
        self,
        params: Iterable[th.Tensor],
        lr: float = 1.0,
        max_iter: int = 5,
        max_eval: int | None = None,
        history_size: int = 10,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        keep_history: bool = False,
    ):
        check_number("lr", lr, 0.0, above=True)
        check_number("max_iter", max_iter, 1, integer=True)
        check_number("history_size", history_size, 1, integer=True)
        if max_eval is not None:
            check_number("max_eval (if not None)", max_eval, 2, integer=True)
        check_number("tolerance_grad", tolerance_grad, 0.0)
        check_number("tolerance_change", tolerance_change, 0.0)
        check_choice("keep_history", keep_history, (True, False))
        super().__init__(params, lr, max_iter, max_eval, tolerance_grad, tolerance_change, history_size, "strong_wolfe")
        # In the group, whose entries a state dictionary holds.
        self.param_groups[0].update(keep_history=keep_history, n_evaluations=0, n_failures=0, n_failures_in_a_row=0)
        self._last_start: list[th.Tensor] | None = None

    @property
    def n_evaluations(self) -> int:
        """Number of evaluations of the loss and its gradient so far"""
        return int(self.param_groups[0]["n_evaluations"])

    @property
    def n_failures(self) -> int:
        """Number of failed rounds so far"""
        return int(self.param_groups[0]["n_failures"])

    def minimize(self, closure: Callable[[], tuple[th.Tensor, T]]) -> tuple[T, th.Tensor]:
        """
        Make a round of iterations on one sample. It ends at the parameters with the lowest loss that was evaluated.

        A round fails if a line search finds no lower loss, or meets a loss or gradient that is not finite. If the loss
        is not finite to begin with, the parameters go back to where the last round began. Three failed rounds in a row
        drop the history.

        :param closure: Evaluates the loss on the sample, see :func:`~sb3_pwm.pwm.optimizers.step`.
        :return: What the closure returned beside the lowest loss, and the norm of the gradient there (a scalar).
        :raises FloatingPointError: If the loss is not finite where the last round began either: then it is the sample
            that is not, and no step of this optimizer.
        """
        start, sample = _copy(self._params), _Sample(self._params, closure)
        try:
            self.step(sample.evaluate)
            # torch's line search returns a step of length zero if it finds no lower loss.
            failed = not sample.all_finite or (sample.n_evaluations > 1 and float(self._history["t"]) == 0.0)
        except FloatingPointError:
            if self._last_start is None:
                raise
            failed = True
            _restore(self._params, self._last_start)
            sample.evaluate()
        assert sample.lowest is not None
        _restore(self._params, sample.lowest.parameters)
        self._last_start = start
        self._end_round(sample.n_evaluations, failed)
        return sample.lowest.result, sample.lowest.grad_norm

    @property
    def _history(self) -> dict[str, Any]:
        """What torch keeps between steps"""
        history: dict[str, Any] = self.state[self._params[0]]
        return history

    def _end_round(self, n_evaluations: int, failed: bool) -> None:
        """Count, and leave a history from which no pair of two samples is formed."""
        group, history = self.param_groups[0], self._history
        group["n_evaluations"] += n_evaluations
        group["n_failures"] += int(failed)
        group["n_failures_in_a_row"] = group["n_failures_in_a_row"] + 1 if failed else 0
        if group["n_failures_in_a_row"] == MAX_FAILURES:
            group["n_failures_in_a_row"] = 0
            history.clear()
        # Cleared without pairs, too: torch scales only the first step of a new history.
        if not group["keep_history"] or not history.get("old_dirs"):
            history.clear()
        else:
            # torch's next step begins with a pair: the last step, and the change of the gradient since. It stores the
            # pair if their product is positive, which it is not for a step of length zero.
            history["t"] = 0.0


class _Evaluation(NamedTuple):
    loss: th.Tensor
    grad_norm: th.Tensor
    result: Any
    parameters: list[th.Tensor]


class _Sample(Generic[T]):
    """The loss on one sample, and what a round has seen of it."""

    def __init__(self, parameters: Sequence[th.Tensor], closure: Callable[[], tuple[th.Tensor, T]]):
        self.parameters = parameters
        self.closure = closure
        self.n_evaluations = 0
        self.all_finite = True
        self.lowest: _Evaluation | None = None

    def evaluate(self) -> th.Tensor:
        """
        Evaluate the loss and its gradient.

        :return: The loss; infinity instead of NaN, and wherever the gradient is not finite.
        :raises FloatingPointError: If the first loss, or its gradient, is not finite.
        """
        self.n_evaluations += 1
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        loss, result = self.closure()
        for parameter in trained:
            parameter.grad = None
        loss.backward(inputs=trained)
        grad_norm = th.nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        if not th.isfinite(loss + grad_norm):
            if self.lowest is None:
                raise FloatingPointError("The loss or its gradient is not finite.")
            self.all_finite = False
            # torch's line search takes NaN for a low loss. With these values it halves its interval.
            for parameter in trained:
                parameter.grad = th.full_like(parameter, math.nan)
            return th.full_like(loss, math.inf)
        if self.lowest is None or loss < self.lowest.loss:
            self.lowest = _Evaluation(loss.detach(), grad_norm, result, _copy(self.parameters))
        return loss


def _copy(parameters: Sequence[th.Tensor]) -> list[th.Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


@th.no_grad()
def _restore(parameters: Sequence[th.Tensor], values: Sequence[th.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
