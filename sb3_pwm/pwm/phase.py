"""The phases of learning: online, offline, and online after offline. One object says what an update does in each."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

ONLINE, OFFLINE, OFFLINE_TO_ONLINE = "online", "offline", "offline_to_online"

DEFAULT_BC_COEF = 1.0
"""Weight of the behavior term near the data, if it is ``"auto"``"""


class Automatic(NamedTuple):
    """What ``"auto"`` stands for in each phase."""

    online: float
    offline: float
    offline_to_online: float


AUTOMATIC = {
    "replay_critic_coef": Automatic(0.0, 1.0, 1.0),
    "replay_critic_expectile": Automatic(0.5, 0.7, 0.7),
    "discounted_fraction": Automatic(0.0, 0.5, 0.5),
    "new_fraction": Automatic(0.0, 0.0, 0.5),
    "lr_scale": Automatic(1.0, 1.0, 0.1),
    "actor_tau": Automatic(1.0, 0.005, 0.005),
}
"""Arguments of :class:`~sb3_pwm.PWM` whose ``"auto"`` depends on the phase alone"""

LARGEST_DROPOUT, FEW_STEPS, MANY_STEPS = 0.3, 10_000, 30_000
"""See :func:`automatic_dropout`."""

PHASE_ARGUMENTS = (*AUTOMATIC, "world_model_updates", "bc_coef", "bc_dropout", "imagined_critic_coef", "learning_rate")
"""Arguments of :class:`~sb3_pwm.PWM` that :func:`current_phase` reads"""


@dataclasses.dataclass(frozen=True)
class Phase:
    """
    What an update does in the phase that a model is in.

    :param name: :data:`ONLINE`, :data:`OFFLINE` or :data:`OFFLINE_TO_ONLINE`.
    :param n_world_model_updates: Number of world-model updates per update of the actor; 0 if it is frozen.
    :param replay_critic_coef: Weight of the critics' loss on replayed sequences.
    :param bc_coef: Weight of the behavior term in the actor's loss.
    :param bc_dropout: Dropout of the actor's hidden layers in the behavior term.
    :param replay_critic_expectile: Expectile of replayed targets that the critics learn.
    :param discounted_fraction: Fraction of replayed sequences that are drawn by the discount of their first step.
    :param imagined_critic_coef: Weight of the critics' loss on imagined rollouts.
    :param new_fraction: Fraction of replayed sequences that are drawn from the steps after offline learning.
    :param lr_scale: Factor of all learning rates.
    :param actor_tau: Polyak coefficient of the average of the actor, which acts deterministically.
    :param decays_learning_rate: Whether the learning rate of the actor falls linearly to zero.
    """

    name: str
    n_world_model_updates: int
    replay_critic_coef: float
    bc_coef: float
    bc_dropout: float
    replay_critic_expectile: float
    discounted_fraction: float
    imagined_critic_coef: float
    new_fraction: float
    lr_scale: float
    actor_tau: float
    decays_learning_rate: bool

    @property
    def trains_world_model(self) -> bool:
        """Whether the world model is updated."""
        return self.n_world_model_updates > 0

    @property
    def counts_latents(self) -> bool:
        """Whether the statistics that latents are normalized with follow the replayed ones."""
        return self.name != ONLINE

    @property
    def replays(self) -> bool:
        """Whether an update needs replayed sequences beside those that imagined rollouts start from."""
        return self.replay_critic_coef > 0.0 or self.bc_coef > 0.0


def current_phase(
    arguments: Mapping[str, Any], offline: bool, learned_offline: bool, pretrained: bool, n_steps: int
) -> Phase:
    """
    Resolve the arguments that are ``"auto"``. A number counts in every phase.

    Near the data, which is offline and online afterwards, critics and policy learn from it. Without the behavior term,
    a policy that was learned offline is lost within hundreds of online updates (docs/experiments.md).

    :param arguments: Values of :data:`PHASE_ARGUMENTS`, by name.
    :param offline: Whether the model learns offline.
    :param learned_offline: Whether it has learned offline before.
    :param pretrained: Whether its world model was pretrained.
    :param n_steps: Number of steps of data.
    :return: The phase.
    """
    name = OFFLINE if offline else OFFLINE_TO_ONLINE if learned_offline else ONLINE
    resolved = {key: _resolve(arguments[key], getattr(automatic, name)) for key, automatic in AUTOMATIC.items()}
    bc_coef, bc_is_automatic = parse_bc_coef(arguments["bc_coef"])
    # Critics learn from one of the two at least.
    imagined_critic_coef = 0.0 if name != ONLINE and resolved["replay_critic_coef"] > 0.0 else 1.0
    return Phase(
        name,
        n_world_model_updates=int(_resolve(arguments["world_model_updates"], 0 if offline and pretrained else 1)),
        bc_coef=0.0 if bc_is_automatic and name == ONLINE else bc_coef,
        bc_dropout=_resolve(arguments["bc_dropout"], 0.0 if name == ONLINE else automatic_dropout(n_steps)),
        imagined_critic_coef=_resolve(arguments["imagined_critic_coef"], imagined_critic_coef),
        decays_learning_rate=name == OFFLINE and arguments["learning_rate"] == "auto",
        **resolved,
    )


def automatic_dropout(n_steps: int) -> float:
    """
    Find out how much the imitation of data is to be regularized.

    The actor learns few steps by heart, and then acts worse in states between them. Many steps it does not even fit as
    well as it could, and dropout would only make it less precise (docs/experiments.md).

    :param n_steps: Number of steps of data.
    :return: Dropout: :data:`LARGEST_DROPOUT` for few steps, falling linearly to 0 for many (:data:`FEW_STEPS`,
        :data:`MANY_STEPS`).
    """
    return LARGEST_DROPOUT * min(max((MANY_STEPS - n_steps) / (MANY_STEPS - FEW_STEPS), 0.0), 1.0)


def _resolve(argument: float | str, automatic: float) -> float:
    """:return: The argument, or what ``"auto"`` stands for."""
    return automatic if argument == "auto" else float(argument)


def parse_bc_coef(bc_coef: float | str) -> tuple[float, bool]:
    """
    Read the argument ``bc_coef``.

    :param bc_coef: A number, ``"auto"``, or ``"auto_<number>"``.
    :return: Weight of the behavior term, and whether it is zero in online learning.
    :raises ValueError: If the argument has another form.
    """
    automatic = isinstance(bc_coef, str) and (bc_coef == "auto" or bc_coef.startswith("auto_"))
    text = str(bc_coef).removeprefix("auto").removeprefix("_") if automatic else bc_coef
    try:
        weight = DEFAULT_BC_COEF if bc_coef == "auto" else float(text)
    except (TypeError, ValueError):
        weight = -1.0
    if (isinstance(bc_coef, str) and not automatic) or not 0.0 <= weight < math.inf:
        raise ValueError(f'bc_coef (if not "auto" or "auto_<number>") must be a number of at least 0, got {bc_coef!r}.')
    return weight, automatic
