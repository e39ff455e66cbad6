"""Planning in the world model of a policy: MPPI, as TD-MPC2 plans (arXiv 2310.16828, section 3.2)."""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_pwm.common.checks import check_number
from sb3_pwm.pwm.imagination import Dynamics, Policy, imagine, imagined_outcomes
from sb3_pwm.pwm.losses import imagined_return
from sb3_pwm.pwm.pwm import PWM
from sb3_pwm.world_model.rollout import rollout

Value = Callable[[th.Tensor], th.Tensor]
"""Function of latents ``(..., Z)`` that returns their values ``(...)``, in the units of the rewards"""


class Plan(NamedTuple):
    """Normal distributions of the next H actions in each of B environments, time first."""

    means: th.Tensor
    """``(H, B, A)`` in [-1, 1]"""
    stds: th.Tensor
    """``(H, B, A)``"""


def open_loop_return(
    dynamics: Dynamics,
    value: Value,
    latents: th.Tensor,
    actions: th.Tensor,
    gamma: float,
    task: th.Tensor | None = None,
    termination: bool = False,
) -> th.Tensor:
    """
    Predict the returns of action sequences, with the value of the last latents.

    :param dynamics: The world model.
    :param value: Function that estimates the value of latents.
    :param latents: Start latents ``(..., Z)``.
    :param actions: Actions ``(H, ..., A)`` in [-1, 1].
    :param gamma: Discount factor.
    :param task: Task indices of a multi-task model, of a shape that broadcasts to ``(...)``.
    :param termination: Whether the termination head is used. If not, every step continues.
    :return: Returns ``(...)``, in the units of the rewards.
    """
    trajectory = rollout(dynamics.next, latents, actions, task)
    rewards, continues = imagined_outcomes(dynamics, trajectory, actions, task, termination)
    return imagined_return(rewards, continues, value(trajectory[-1]), gamma)


def fit_elites(
    actions: th.Tensor, returns: th.Tensor, n_elites: int, temperature: float, min_std: float, max_std: float
) -> Plan:
    """
    Fit the plan to the best samples. The weight of a sample is ``exp(temperature * return)``, as in TD-MPC2.

    :param actions: Sampled actions ``(H, N, B, A)`` in [-1, 1].
    :param returns: Predicted returns ``(N, B)``.
    :param n_elites: Number of samples that the plan is fitted to.
    :param temperature: Temperature, in one over the units of the rewards.
    :param min_std: Smallest standard deviation.
    :param max_std: Largest standard deviation.
    :return: The plan.
    """
    best = returns.topk(n_elites, dim=0)  # (E, B)
    weights = th.softmax(temperature * best.values, dim=0).unsqueeze(-1)  # (E, B, 1)
    elites = actions.take_along_dim(best.indices[None, :, :, None], dim=1)  # (H, E, B, A)
    means = (weights * elites).sum(1)
    variances = (weights * (elites - means.unsqueeze(1)) ** 2).sum(1)
    return Plan(means, variances.sqrt().clamp(min_std, max_std))


def improve_plan(
    dynamics: Dynamics,
    policy: Policy,
    value: Value,
    latents: th.Tensor,
    means: th.Tensor,
    policy_noise: th.Tensor,
    noise: th.Tensor,
    gamma: float,
    n_elites: int = 64,
    temperature: float = 0.5,
    min_std: float = 0.05,
    max_std: float = 2.0,
    task: th.Tensor | None = None,
    termination: bool = False,
) -> Plan:
    """
    Plan by MPPI: sample action sequences, keep those of the largest predicted returns, fit the plan to them, repeat.

    The samples of the policy are the same in every iteration. The others are drawn from the plan of the last iteration,
    and clipped to [-1, 1].

    :param dynamics: The world model, or what takes its place.
    :param policy: The policy, see :data:`~sb3_pwm.pwm.imagination.Policy`.
    :param value: Function that estimates the value of the last latents.
    :param latents: Latents ``(B, Z)`` to plan from.
    :param means: Means ``(H, B, A)`` of the first iteration, whose standard deviation is ``max_std``.
    :param policy_noise: Standard normal noise ``(H, P, B, A)`` of the policy's P samples. P may be 0.
    :param noise: Standard normal noise ``(I, H, N, B, A)`` of the other N samples in each of I iterations.
    :param gamma: Discount factor.
    :param n_elites: Number of samples that the plan is fitted to, at most P + N.
    :param temperature: Temperature, see :func:`fit_elites`.
    :param min_std: Smallest standard deviation.
    :param max_std: Largest standard deviation.
    :param task: Task index of a multi-task model, a scalar tensor.
    :param termination: Whether the termination head is used. If not, every step continues.
    :return: The plan after the last iteration.
    """

    def repeat(n_samples: int) -> th.Tensor:
        return latents.expand(n_samples, *latents.shape)

    guided = imagine(dynamics, policy, repeat(policy_noise.shape[1]), policy_noise, task, termination)
    guided_returns = imagined_return(guided.rewards, guided.continues, value(guided.latents[-1]), gamma)  # (P, B)
    plan, start = Plan(means, th.full_like(means, max_std)), repeat(noise.shape[2])
    for iteration_noise in noise:
        sampled = (plan.means.unsqueeze(1) + plan.stds.unsqueeze(1) * iteration_noise).clamp(-1.0, 1.0)
        sampled_returns = open_loop_return(dynamics, value, start, sampled, gamma, task, termination)  # (N, B)
        actions, returns = th.cat([guided.actions, sampled], dim=1), th.cat([guided_returns, sampled_returns])
        plan = fit_elites(actions, returns, n_elites, temperature, min_std, max_std)
    return plan


class Planner:
    """
    Plan in the world model of a :class:`~sb3_pwm.PWM` model at each decision, instead of asking its policy.

    Paper: TD-MPC2, https://arxiv.org/abs/2310.16828. The arguments have the values of its table of hyperparameters. A
    plan of ``horizon`` actions is found by sampling (MPPI) around the plan of the last decision, shifted by a step. Its
    first action is taken. What is maximized is what PWM's policy maximizes: the predicted return with the smallest
    value of the target critics behind the last step. TD-MPC2 has the mean value of two Q-functions there.

    :meth:`predict` has the signature of SB3's policies and algorithms, so that ``evaluate_policy`` takes a planner. The
    plans are in the ``state`` that it takes and returns. The model can go on learning: a planner holds no copy of it.

    :param model: The model. Its policy owns the world model, the actor and the critics.
    :param horizon: Number of planned actions, H.
    :param n_samples: Number of sampled plans in an iteration.
    :param n_policy_samples: Number of them that the policy makes. The others are drawn from the last iteration's plan.
    :param n_elites: Number of the best samples, which the plan is fitted to.
    :param n_iterations: Number of iterations. None: 6, and 8 if actions have 20 dimensions or more, as in TD-MPC2.
    :param temperature: Factor of the predicted returns in the exponent of the weights of the elites, in one over the
        units of the rewards. With 0 all elites count alike.
    :param min_std: Smallest standard deviation of the samples. Actions are scaled to [-1, 1].
    :param max_std: Largest standard deviation, with which every decision begins. Samples are clipped to [-1, 1].
    :raises ValueError: If an argument is out of range; the message names it.
    """

    def __init__(
        self,
        model: PWM,
        horizon: int = 3,
        n_samples: int = 512,
        n_policy_samples: int = 24,
        n_elites: int = 64,
        n_iterations: int | None = None,
        temperature: float = 0.5,
        min_std: float = 0.05,
        max_std: float = 2.0,
    ):
        if not isinstance(model, PWM):
            raise ValueError(f"model must be a PWM, whose world model and critics a planner needs, got {model!r}.")
        check_number("horizon", horizon, 1, integer=True)
        check_number("n_samples", n_samples, 1, integer=True)
        check_number("n_policy_samples", n_policy_samples, 0, n_samples, integer=True)
        check_number("n_elites", n_elites, 1, n_samples, integer=True)
        if n_iterations is None:
            n_iterations = 8 if get_action_dim(model.action_space) >= 20 else 6
        check_number("n_iterations", n_iterations, 1, integer=True)
        check_number("temperature", temperature, 0.0)
        check_number("max_std", max_std, 0.0, above=True)
        check_number("min_std", min_std, 0.0, max_std)
        self.model = model
        self.horizon = horizon
        self.n_samples = n_samples
        self.n_policy_samples = n_policy_samples
        self.n_elites = n_elites
        self.n_iterations = n_iterations
        self.temperature = temperature
        self.min_std = min_std
        self.max_std = max_std

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        Choose actions by planning. torch's generator draws the samples: seed it for the same actions again.

        :param observation: One observation, or a batch with one of each environment.
        :param state: What the last call returned, for the same environments. None: plans begin at zero.
        :param episode_start: Whether an episode begins, ``(B,)``. The plan of such an environment begins at zero.
        :param deterministic: Whether to take the mean of the plan's first action instead of a sample.
        :return: The actions, and a tuple with the plans ``(B, H, A)``, which the next call takes as ``state``.
        :raises ValueError: If an observation is NaN or infinite, or ``state`` is not of these environments.
        """
        policy = self.model.policy
        policy.set_training_mode(False)
        observations, is_batch = policy.obs_to_tensor(observation)
        with th.no_grad():
            latents = policy.encode(observations)
            warm_start = self._warm_start(len(latents), state, episode_start)
            plan = self._plan(latents, th.as_tensor(warm_start, device=latents.device).transpose(0, 1))
            actions = plan.means[0]
            if not deterministic:
                actions = (actions + plan.stds[0] * th.randn_like(actions)).clamp(-1.0, 1.0)
        unscaled = policy.unscale_action(actions.cpu().numpy().reshape(-1, *policy.action_space.shape))  # type: ignore[misc]
        return unscaled if is_batch else unscaled[0], (plan.means.transpose(0, 1).cpu().numpy(),)

    def _warm_start(
        self, n_envs: int, state: tuple[np.ndarray, ...] | None, episode_start: np.ndarray | None
    ) -> NDArray[np.float32]:
        """:return: Last plans ``(B, H, A)``, shifted by a step; zero where there is none."""
        plans = np.zeros((n_envs, self.horizon, get_action_dim(self.model.action_space)), np.float32)
        if state is not None:
            (last,) = state
            if last.shape != plans.shape:
                raise ValueError(
                    f"state must be what predict() returned for the same environments, with plans of the shape "
                    f"{plans.shape}, got {last.shape}."
                )
            plans[:, :-1] = last[:, 1:]
        if episode_start is not None:
            plans[np.asarray(episode_start, bool)] = 0.0
        return plans

    def _plan(self, latents: th.Tensor, means: th.Tensor) -> Plan:
        """:return: Plan from latents ``(B, Z)``, with random samples around means ``(H, B, A)``."""
        policy, n_policy = self.model.policy, self.n_policy_samples
        shape, device = means.shape, latents.device
        return improve_plan(
            policy.world_model,
            policy.actor,
            lambda last: policy.critic_target(last).amin(0) * policy.reward_scale.value,
            latents,
            means,
            th.randn(shape[0], n_policy, *shape[1:], device=device),
            th.randn(self.n_iterations, shape[0], self.n_samples - n_policy, *shape[1:], device=device),
            self.model.gamma,
            self.n_elites,
            self.temperature,
            self.min_std,
            self.max_std,
            None if policy.task_index is None else th.tensor(policy.task_index, device=device),
            self.model.uses_termination,
        )

    def export(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: an exported file holds one pass through networks, and a planner searches."""
        raise NotImplementedError("A planner cannot be exported, since it searches: export model.policy instead.")
