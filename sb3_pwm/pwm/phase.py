"""The phases of learning: online, offline, and online after offline. One object says what an update does in each."""

import dataclasses
import math

ONLINE, OFFLINE, OFFLINE_TO_ONLINE = "online", "offline", "offline_to_online"

DEFAULT_BC_COEF = 1.0
"""Weight of the behavior term near the data, if it is ``"auto"``"""


@dataclasses.dataclass(frozen=True)
class Phase:
    """
    What an update does in the phase that a model is in.

    :param name: :data:`ONLINE`, :data:`OFFLINE` or :data:`OFFLINE_TO_ONLINE`.
    :param n_world_model_updates: Number of world-model updates per update of the actor; 0 if it is frozen.
    :param replay_critic_coef: Weight of the critics' loss on replayed sequences.
    :param bc_coef: Weight of the behavior term in the actor's loss.
    :param replay_critic_expectile: Expectile of replayed targets that the critics learn.
    :param discounted_fraction: Fraction of replayed sequences that are drawn by the discount of their first step.
    :param imagined_critic_coef: Weight of the critics' loss on imagined rollouts.
    :param new_fraction: Fraction of replayed sequences that are drawn from the steps after offline learning.
    :param lr_scale: Factor of all learning rates.
    :param actor_tau: Polyak coefficient of the average of the actor, which acts deterministically.
    """

    name: str
    n_world_model_updates: int
    replay_critic_coef: float
    bc_coef: float
    replay_critic_expectile: float
    discounted_fraction: float
    imagined_critic_coef: float
    new_fraction: float
    lr_scale: float
    actor_tau: float

    @property
    def trains_world_model(self) -> bool:
        """Whether the world model is updated."""
        return self.n_world_model_updates > 0

    @property
    def replays(self) -> bool:
        """Whether an update needs replayed sequences beside those that imagined rollouts start from."""
        return self.replay_critic_coef > 0.0 or self.bc_coef > 0.0


def current_phase(
    offline: bool,
    learned_offline: bool,
    pretrained: bool,
    world_model_updates: int | str,
    replay_critic_coef: float | str,
    bc_coef: float | str,
    replay_critic_expectile: float | str = "auto",
    discounted_fraction: float | str = "auto",
    imagined_critic_coef: float | str = "auto",
    new_fraction: float | str = "auto",
    lr_scale: float | str = "auto",
    actor_tau: float | str = "auto",
) -> Phase:
    """
    Resolve the arguments that are ``"auto"``. A number counts in every phase.

    :param offline: Whether the model learns offline.
    :param learned_offline: Whether it has learned offline before.
    :param pretrained: Whether its world model was pretrained.
    :param world_model_updates: Argument of :class:`~sb3_pwm.PWM`. ``"auto"``: 0 offline with a pretrained world model,
        else 1.
    :param replay_critic_coef: Argument of :class:`~sb3_pwm.PWM`. ``"auto"``: 1 offline and after it, else 0.
    :param bc_coef: Argument of :class:`~sb3_pwm.PWM`. ``"auto"``: 1 offline and after it, else 0; ``"auto_2.5"``: 2.5
        instead of 1. Without the behavior term, a policy that was learned offline is lost within hundreds of online
        updates (docs/experiments.md).
    :param replay_critic_expectile: Argument of :class:`~sb3_pwm.PWM`. ``"auto"``: 0.7 offline and after it, else 0.5.
    :param discounted_fraction: Argument of :class:`~sb3_pwm.PWM`. ``"auto"``: 0.5 offline and after it, else 0.
    :param imagined_critic_coef: Argument of :class:`~sb3_pwm.PWM`. ``"auto"``: 0 offline and after it, else 1; 1 too
        if ``replay_critic_coef`` is 0.
    :param new_fraction: Argument of :class:`~sb3_pwm.PWM`. ``"auto"``: 0.5 online after offline learning, else 0.
    :param lr_scale: Argument of :class:`~sb3_pwm.PWM`. ``"auto"``: 0.1 online after offline learning, else 1.
    :param actor_tau: Argument of :class:`~sb3_pwm.PWM`. ``"auto"``: 0.005 offline and after it, else 1.
    :return: The phase.
    """
    name = OFFLINE if offline else OFFLINE_TO_ONLINE if learned_offline else ONLINE
    near_data = 0.0 if name == ONLINE else 1.0
    bc_weight, bc_automatic = parse_bc_coef(bc_coef)
    replayed = _resolve(replay_critic_coef, near_data)
    return Phase(
        name,
        int(_resolve(world_model_updates, 0 if offline and pretrained else 1)),
        replayed,
        bc_weight * near_data if bc_automatic else bc_weight,
        _resolve(replay_critic_expectile, 0.7 if near_data else 0.5),
        _resolve(discounted_fraction, 0.5 * near_data),
        # Critics learn from one of the two at least.
        _resolve(imagined_critic_coef, 0.0 if near_data and replayed > 0.0 else 1.0),
        _resolve(new_fraction, 0.5 if name == OFFLINE_TO_ONLINE else 0.0),
        _resolve(lr_scale, 0.1 if name == OFFLINE_TO_ONLINE else 1.0),
        _resolve(actor_tau, 0.005 if near_data else 1.0),
    )


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
