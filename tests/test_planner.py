"""Planning in the world model, on systems whose best actions are known, and as users of SB3 call it."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_env import TINY, RandomEnv, some
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed

from sb3_pwm import PWM, Planner, WorldModelConfig
from sb3_pwm.pwm.planner import fit_elites, improve_plan, open_loop_return

GAMMA = 0.95


class LinearQuadratic:
    """The system ``z' = A z + B a`` with the reward ``-z'Qz - R a^2``; the exact value of a state is ``-z'Pz``."""

    def __init__(self):
        self.a = th.tensor([[1.0, 0.1], [0.0, 1.0]])
        self.b = th.tensor([[0.0], [0.1]])
        self.q, self.r = th.diag(th.tensor([1.0, 0.1])), th.tensor([[0.05]])
        self.p = self.q
        for _ in range(300):  # the Riccati equation with a discount
            curvature = self.r + GAMMA * self.b.T @ self.p @ self.b
            self.gain = GAMMA * (self.b.T @ self.p @ self.a) / curvature  # (1, 2)
            self.p = self.q + GAMMA * self.a.T @ self.p @ (self.a - self.b @ self.gain)

    def next(self, latents, actions, task=None):
        return latents @ self.a.T + actions @ self.b.T

    def reward(self, latents, actions, task=None):
        return -quadratic(latents, self.q) - quadratic(actions, self.r)

    def value(self, latents):
        return -quadratic(latents, self.p)


def quadratic(x, matrix):
    return th.einsum("...i,ij,...j->...", x, matrix, x)


def idle(latents):
    """A policy that does nothing, with a standard deviation of 0.1."""
    zeros = th.zeros(*latents.shape[:-1], 1)
    return zeros, zeros + math.log(0.1)


def noises(horizon, n_policy, n_random, n_envs, action_dim=1, n_iterations=10):
    return (
        th.randn(horizon, n_policy, n_envs, action_dim),
        th.randn(n_iterations, horizon, n_random, n_envs, action_dim),
    )


def zeros(*shape):
    return th.zeros(*shape)


@pytest.mark.parametrize("horizon", [1, 3])
def test_plan_is_the_linear_quadratic_regulator(horizon):
    """With the exact value behind the horizon, the best actions are the regulator's, whatever the horizon is."""
    system = LinearQuadratic()
    start = th.tensor([[0.3, 0.0], [-0.2, 0.1], [0.0, 0.0]])
    plan = improve_plan(
        system, idle, system.value, start, zeros(horizon, 3, 1), *noises(horizon, 24, 488, 3), GAMMA,
        min_std=0.005,
    )  # fmt: skip
    latents = start
    for means in plan.means:
        best = -latents @ system.gain.T
        assert best.abs().max() < 1.0  # within the bounds of the actions
        th.testing.assert_close(means, best, atol=0.003, rtol=0.0)
        latents = system.next(latents, best)


def test_actions_stay_in_their_bounds():
    system = LinearQuadratic()
    start = th.tensor([[9.0, 0.0]])  # the regulator would take an action below -1
    assert (start @ system.gain.T).item() > 2.0
    plan = improve_plan(system, idle, system.value, start, zeros(3, 1, 1), *noises(3, 24, 488, 1), GAMMA)
    assert plan.means[0].item() == pytest.approx(-1.0, abs=0.01)
    assert plan.means.abs().max() <= 1.0


def test_elites_by_hand():
    actions = th.tensor([0.5, -1.0, 1.0]).view(1, 3, 1, 1)
    returns = th.tensor([[0.0], [-9.0], [2.0 * math.log(3.0)]])
    plan = fit_elites(actions, returns, 2, 0.5, 0.01, 2.0)  # weights 1/4 and 3/4; the second is no elite
    assert plan.means.item() == pytest.approx(0.25 * 0.5 + 0.75 * 1.0)
    assert plan.stds.item() == pytest.approx(math.sqrt(0.25 * 0.375**2 + 0.75 * 0.125**2))
    assert fit_elites(actions, returns, 2, 0.5, 0.3, 2.0).stds.item() == pytest.approx(0.3)
    assert fit_elites(actions, returns, 2, 0.5, 0.01, 0.2).stds.item() == pytest.approx(0.2)
    assert fit_elites(actions, returns, 2, 0.0, 0.01, 2.0).means.item() == pytest.approx(0.75)  # alike
    # Environments are fitted apart.
    two = fit_elites(actions.expand(1, 3, 2, 1), th.cat([returns, -returns], dim=1), 1, 0.5, 0.01, 2.0)
    assert two.means.flatten().tolist() == [1.0, -1.0]


class Needle:
    """Only actions near (0.9, ..., 0.9) have a reward. Random actions hardly ever are."""

    def next(self, latents, actions, task=None):
        return latents

    def reward(self, latents, actions, task=None):
        return ((actions - 0.9).abs() < 0.05).all(-1).float()


@pytest.mark.parametrize("n_policy", [0, 24])
def test_samples_of_the_policy_are_among_the_samples(n_policy):
    def policy(latents):
        means = th.full((*latents.shape[:-1], 10), math.atanh(0.9))
        return means, th.full_like(means, -5.0)

    plan = improve_plan(
        Needle(), policy, lambda latents: latents.sum(-1), zeros(1, 1), zeros(2, 1, 10),
        *noises(2, n_policy, 100, 1, 10, n_iterations=3), GAMMA, n_elites=10, temperature=100.0,
    )  # fmt: skip
    assert bool(((plan.means - 0.9).abs() < 0.05).all()) == (n_policy > 0)


class Cliff:
    """
    A positive action has the reward 1 and ends the episode, another has the reward 0.5. What the model imagines behind
    the end is a reward of 100 per step, and a value of 1000.
    """

    def next(self, latents, actions, task=None):
        return th.maximum(latents, (actions > 0.0).float())

    def reward(self, latents, actions, task=None):
        alive = 0.5 + 0.5 * (actions > 0.0).float()
        return th.where(latents > 0.0, 100.0, alive).squeeze(-1)

    def continuation(self, latents, task=None):
        return 1.0 - latents.squeeze(-1)

    def value(self, latents):
        return 10.0 + 990.0 * latents.squeeze(-1)


def test_nothing_counts_after_a_termination():
    cliff = Cliff()
    actions = th.tensor([[-0.5, -0.5, 0.5], [-0.5, 0.5, -0.5]]).unsqueeze(-1)  # two steps of three samples
    alive, over = 0.5, 1.0
    expected = [alive + GAMMA * alive + GAMMA**2 * 10.0, alive + GAMMA * over, over]
    returns = open_loop_return(cliff, cliff.value, zeros(3, 1), actions, GAMMA, termination=True)
    assert returns.tolist() == pytest.approx(expected)
    blind = open_loop_return(cliff, cliff.value, zeros(3, 1), actions, GAMMA)
    assert blind[2].item() == pytest.approx(over + GAMMA * 100.0 + GAMMA**2 * 1000.0)


@pytest.mark.parametrize("termination", [True, False])
def test_plan_avoids_a_termination(termination):
    cliff = Cliff()
    plan = improve_plan(
        cliff, idle, cliff.value, zeros(1, 1), zeros(3, 1, 1), *noises(3, 24, 100, 1), GAMMA, n_elites=10,
        termination=termination,
    )  # fmt: skip
    if termination:
        assert plan.means.max() < 0.0
    else:
        assert plan.means[0] > 0.0


# --- As users of SB3 call it ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    """A model of a task whose actions are in [-2, 1], with critics that are not constant."""
    model = PWM("MlpPolicy", RandomEnv(), learning_starts=20, batch_size=8, policy_kwargs=TINY, seed=0, device="cpu")
    return model.learn(60)


def small(model, **kwargs):
    return Planner(model, **{**dict(n_samples=40, n_policy_samples=4, n_elites=8, n_iterations=3), **kwargs})


def test_number_of_iterations_follows_the_action(model):
    assert Planner(model).n_iterations == 6
    many = PWM("MlpPolicy", RandomEnv(action_space=spaces.Box(-1, 1, (20,))), policy_kwargs=TINY, device="cpu")
    assert Planner(many).n_iterations == 8
    assert Planner(many, n_iterations=2).n_iterations == 2


def test_actions_are_those_of_a_plan_in_the_models_parts(model):
    planner, observations = small(model, horizon=2), some(model.observation_space, 3)
    set_random_seed(1)
    actions, (plans,) = planner.predict(observations, deterministic=True)
    set_random_seed(1)
    policy = model.policy
    with th.no_grad():
        latents = policy.encode(th.as_tensor(observations))
        plan = improve_plan(
            model.world_model, model.actor,
            lambda latents: model.critic_target(latents).min(0).values * policy.reward_scale.value,
            latents, zeros(2, 3, 2), *noises(2, 4, 36, 3, 2, n_iterations=3), model.gamma, n_elites=8,
        )  # fmt: skip
    assert plans.shape == (3, 2, 2)
    np.testing.assert_array_equal(plans, plan.means.transpose(0, 1))
    np.testing.assert_allclose(actions, 1.5 * plan.means[0] - 0.5, rtol=1e-6)  # from [-1, 1] to [-2, 1]


def test_same_actions_for_the_same_seed(model):
    planner, observations = small(model), some(model.observation_space, 3)
    for deterministic in (True, False):
        chosen = []
        for seed in (1, 1, 2):
            set_random_seed(seed)
            chosen.append(planner.predict(observations, deterministic=deterministic)[0])
        np.testing.assert_array_equal(chosen[0], chosen[1])
        assert (chosen[0] != chosen[2]).any()


def test_sampled_actions_vary_as_the_plan(model):
    """Elites that count alike, of samples between -1 and 1, leave the plan a wide distribution."""
    planner = small(model, temperature=0.0, n_iterations=1)
    observation = some(model.observation_space, 1)[0]
    apart = []
    for deterministic in (True, False):
        set_random_seed(3)
        apart.append(planner.predict(observation, deterministic=deterministic)[0])
        assert model.action_space.contains(apart[-1])
    assert np.abs(apart[0] - apart[1]).max() > 0.01


def test_plans_begin_at_the_last_ones_a_step_later(model):
    """If samples hardly differ from where they begin, so does the plan."""
    planner = small(model, n_policy_samples=0, min_std=0.0, max_std=1e-4)
    last = np.random.default_rng(0).uniform(-0.9, 0.9, (3, 3, 2)).astype(np.float32)
    observations = some(model.observation_space, 3)
    actions, (plans,) = planner.predict(observations, (last,), np.array([False, True, False]), deterministic=True)
    expected = np.concatenate([last[:, 1:], np.zeros((3, 1, 2))], axis=1)
    expected[1] = 0.0  # an episode begins
    np.testing.assert_allclose(plans, expected, atol=2e-3)
    np.testing.assert_allclose(actions, 1.5 * expected[:, 0] - 0.5, atol=3e-3)
    fresh = planner.predict(observations, deterministic=True)[1][0]
    np.testing.assert_allclose(fresh, np.zeros((3, 3, 2)), atol=2e-3)


def test_an_episodes_start_changes_no_other_plan(model):
    planner, observations = small(model), some(model.observation_space, 2)
    state = planner.predict(observations)[1]
    plans = []
    for starts in (np.array([False, False]), np.array([True, False])):
        set_random_seed(0)
        plans.append(planner.predict(observations, state, starts)[1][0])
    assert (plans[0][0] != plans[1][0]).any()
    np.testing.assert_allclose(plans[0][1], plans[1][1], atol=1e-6)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_evaluate_policy(model, n_envs):
    env = make_vec_env(RandomEnv, n_envs)  # asserts that actions are in the action space
    returns, lengths = evaluate_policy(small(model), env, n_eval_episodes=4, return_episode_rewards=True)
    assert lengths == [12] * 4
    assert np.isfinite(returns).all()


def test_every_kind_of_observation_and_action():
    image, vector = spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Box(-1.0, 1.0, (2,), np.float32)
    env = RandomEnv(spaces.Dict(image=image, vector=vector), spaces.Box(0, 9, (2, 1), np.int32))
    model = PWM("MultiInputPolicy", env, policy_kwargs=TINY, buffer_size=10, device="cpu")
    planner = small(model)
    action, state = planner.predict(some(env.observation_space, 2))
    assert action.shape == (2, 2, 1)
    assert action.dtype == np.int32
    planner.predict(some(env.observation_space, 2), state)
    assert env.action_space.contains(planner.predict({k: v[0] for k, v in some(env.observation_space, 1).items()})[0])


def test_plans_are_for_the_task_of_the_policy():
    config = WorldModelConfig(3, 4, latent_dim=16, encoder_dim=16, mlp_dim=16, tasks=("there", "back"))
    plans = []
    for task in config.tasks:
        model = PWM("MlpPolicy", RandomEnv(), world_model=config, task=task, seed=0, device="cpu", buffer_size=10)
        with th.no_grad():  # the same world model in both: only the task differs
            th.nn.init.normal_(model.world_model.reward_network[-1].weight)
            model.world_model.task_embedding.weight.copy_(th.eye(2, config.task_dim))
        set_random_seed(0)
        plans.append(small(model).predict(some(model.observation_space, 1), deterministic=True)[1][0])
    assert np.abs(plans[0] - plans[1]).max() > 0.01


def test_the_model_can_go_on_learning(model):
    n_updates = model.n_updates
    small(model).predict(some(model.observation_space, 1))
    assert model.learn(5, reset_num_timesteps=False).n_updates > n_updates


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(horizon=0), "horizon must be an integer of at least 1, got 0"),
        (dict(horizon=1.5), "horizon must be an integer"),
        (dict(n_samples=0), "n_samples must be an integer of at least 1"),
        (dict(n_policy_samples=-1), "n_policy_samples must be an integer of at least 0"),
        (dict(n_policy_samples=513), "n_policy_samples must be an integer of at least 0 and of at most 512"),
        (dict(n_elites=0), "n_elites must be an integer of at least 1"),
        (dict(n_samples=40), "n_elites must be an integer of at least 1 and of at most 40, got 64"),
        (dict(n_iterations=0), "n_iterations must be an integer of at least 1"),
        (dict(temperature=-0.5), "temperature must be a number of at least 0"),
        (dict(temperature=math.inf), "temperature must be a number of at least 0, got inf"),
        (dict(min_std=-0.1), "min_std must be a number of at least 0"),
        (dict(min_std=3.0), "min_std must be a number of at least 0 and of at most 2, got 3"),
        (dict(max_std=0.0), "max_std must be a number above 0"),
        (dict(max_std=math.nan), "max_std must be a number above 0, got nan"),
    ],
)
def test_arguments_out_of_range(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        Planner(model, **arguments)


def test_what_a_planner_refuses(model, tmp_path):
    with pytest.raises(ValueError, match="model must be a PWM"):
        Planner(model.policy)
    planner, observations = small(model), some(model.observation_space, 2)
    state = planner.predict(observations)[1]
    with pytest.raises(ValueError, match=r"plans of the shape \(1, 3, 2\), got \(2, 3, 2\)"):
        planner.predict(observations[:1], state)
    with pytest.raises(ValueError, match="NaN or infinite"):
        planner.predict(np.array([0.0, np.nan, 0.0], np.float32))
    with pytest.raises(ValueError, match="take the first of the two"):
        planner.predict((observations[0], {}))
    with pytest.raises(NotImplementedError, match=r"export model\.policy instead"):
        planner.export(tmp_path / "policy.onnx")
