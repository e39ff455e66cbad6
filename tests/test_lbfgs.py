"""L-BFGS in rounds of one sample each: known optima, curvature of one sample only, failures, and PWM with it."""

import io
import math
import subprocess
import sys
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import Logger
from test_offline import NETWORKS, SIZES, episodes
from test_pwm import Drift

from sb3_pwm import PWM, OfflineDataset, WorldModel, WorldModelConfig
from sb3_pwm.common.layers import frozen
from sb3_pwm.pwm import optimizers
from sb3_pwm.pwm.lbfgs import LBFGS


def history_of(optimizer):
    return optimizer.state.get(optimizer.param_groups[0]["params"][0], {})


# --- The optimizer --------------------------------------------------------------------------------------------------


def test_quadratic_is_solved_to_its_optimum():
    generator = th.Generator().manual_seed(0)
    root = th.randn(10, 10, generator=generator, dtype=th.float64)
    matrix, linear = root @ root.T + th.eye(10), th.randn(10, generator=generator, dtype=th.float64)
    first, second = (th.nn.Parameter(th.zeros(size, dtype=th.float64)) for size in (4, 6))
    optimizer = LBFGS([first, second], max_iter=60, tolerance_change=1e-14)

    def closure():
        x = th.cat([first, second])
        return 0.5 * x @ matrix @ x - linear @ x, "seen"

    result, grad_norm = optimizers.step(optimizer, closure, clip=1e-3)  # which Adam's gradient would be scaled to
    th.testing.assert_close(th.cat([first, second]).detach(), th.linalg.solve(matrix, linear), atol=1e-5, rtol=0)
    assert result == "seen"
    assert grad_norm < 1e-4
    assert optimizer.n_evaluations <= 45


def test_logistic_regression_is_solved_to_newtons_optimum():
    generator = th.Generator().manual_seed(0)
    inputs = th.randn(50, 4, generator=generator, dtype=th.float64)
    labels = (
        inputs @ th.tensor([1.0, -2.0, 0.0, 0.5], dtype=th.float64) + th.randn(50, generator=generator) > 0
    ).double()
    optimum = th.zeros(4, dtype=th.float64)
    for _ in range(20):
        p = th.sigmoid(inputs @ optimum)
        gradient = inputs.T @ (p - labels) / 50 + 0.01 * optimum
        hessian = inputs.T @ (inputs * (p * (1 - p))[:, None]) / 50 + 0.01 * th.eye(4)
        optimum -= th.linalg.solve(hessian, gradient)
    weights = th.nn.Parameter(th.zeros(4, dtype=th.float64))
    optimizer = LBFGS([weights], max_iter=30)

    def closure():
        loss = th.nn.functional.binary_cross_entropy_with_logits(inputs @ weights, labels)
        return loss + 0.005 * weights @ weights, None

    optimizer.minimize(closure)
    th.testing.assert_close(weights.detach(), optimum, atol=1e-4, rtol=0)
    assert optimizer.n_evaluations <= 25


def drifting_quadratic(parameter, curvature=4.0):
    """:return: Function that makes the closure of a sample: a quadratic with its optimum at the given point."""
    return lambda optimum: lambda: (0.5 * curvature * ((parameter - optimum) ** 2).sum(), None)


def test_no_pair_is_formed_of_two_samples():
    """All curvatures are 4, so that one pair of one sample is the whole Hessian: the next step is Newton's."""
    x = th.nn.Parameter(th.zeros(5, dtype=th.float64))
    sample = drifting_quadratic(x)
    optima = th.randn(3, 5, generator=th.Generator().manual_seed(0), dtype=th.float64)
    optimizer = LBFGS([x], max_iter=20, keep_history=True)
    optimizer.minimize(sample(optima[0]))
    n_pairs = len(history_of(optimizer)["old_dirs"])
    optimizer.param_groups[0]["max_iter"] = 1
    for optimum in optima[1:]:
        n_before = optimizer.n_evaluations
        optimizer.minimize(sample(optimum))
        th.testing.assert_close(x.detach(), optimum, atol=1e-6, rtol=0)
        assert optimizer.n_evaluations == n_before + 2  # the start, and the first step that was tried
        assert len(history_of(optimizer)["old_dirs"]) == n_pairs

    # torch's own optimizer forms the pair, and is led astray.
    y = th.nn.Parameter(th.zeros(5, dtype=th.float64))
    plain = th.optim.LBFGS([y], max_iter=20, line_search_fn="strong_wolfe")

    def backward(closure):
        plain.zero_grad()
        loss, _ = closure()
        loss.backward()
        return loss

    for optimum, max_iter in zip(optima, (20, 1, 1), strict=True):
        plain.param_groups[0]["max_iter"] = max_iter
        plain.step(partial(backward, drifting_quadratic(y)(optimum)))
    assert (y - optima[-1]).abs().max() > 0.01


def test_without_a_history_a_round_begins_with_the_gradient():
    x = th.nn.Parameter(th.zeros(2, dtype=th.float64))
    sample = drifting_quadratic(x)
    optimizer = LBFGS([x], lr=0.1, max_iter=1)

    def record(closure, tried):
        tried.append(x.detach().clone())
        return closure()

    for optimum in (th.tensor([3.0, 4.0]), th.tensor([0.0, 0.0])):
        before = x.detach().clone()
        gradient, tried = 4.0 * (before - optimum), []
        optimizer.minimize(partial(record, sample(optimum), tried))
        th.testing.assert_close(tried[1], before - 0.1 * min(1.0, 1.0 / gradient.abs().sum().item()) * gradient)
        assert not history_of(optimizer)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_beyond_the_finite_region_a_round_turns_back_and_three_failures_drop_the_history(what):
    x = th.nn.Parameter(th.zeros(1, dtype=th.float64))
    if what == "gradient":
        x.register_hook(lambda gradient: gradient * math.nan if x.item() > 1.0 else gradient)

    def sample(optimum):
        def closure():
            loss = (2.0 * (x - optimum) ** 2 + 0.1 * (x - optimum) ** 4).sum()
            return (loss * math.nan if what == "loss" and x.item() > 1.0 else loss), x.item()

        return closure

    optimizer = LBFGS([x], max_iter=12, keep_history=True)
    optimizer.minimize(sample(0.3))
    assert (optimizer.n_failures, x.item()) == (0, pytest.approx(0.3, abs=1e-3))
    for failures in (1, 2):
        assert history_of(optimizer)["old_dirs"]
        before = x.item()
        result, grad_norm = optimizer.minimize(sample(10.0))  # a step by the known curvature leaves the region
        assert optimizer.n_failures == failures
        assert before <= x.item() <= 1.0
        assert result == x.item()
        assert grad_norm == pytest.approx(4.0 * (10.0 - result) + 0.4 * (10.0 - result) ** 3)
    assert x.item() > 0.5
    optimizer.minimize(sample(0.4))  # not in a row
    assert (optimizer.n_failures, x.item()) == (2, pytest.approx(0.4, abs=1e-3))
    for _ in range(3):
        assert history_of(optimizer)["old_dirs"]
        optimizer.minimize(sample(10.0))
    assert optimizer.n_failures == 5
    assert not history_of(optimizer), "three in a row"
    optimizer.minimize(sample(0.4))
    assert (optimizer.n_failures, x.item()) == (5, pytest.approx(0.4, abs=1e-3))


def test_where_no_step_is_finite_the_parameters_are_restored():
    x = th.nn.Parameter(th.ones(3))
    optimizer = LBFGS([x])
    optimizer.minimize(lambda: ((x**2).sum() * (1.0 if th.equal(x, th.ones(3)) else math.nan), None))
    assert (optimizer.n_failures, x.tolist()) == (1, [1.0, 1.0, 1.0])
    assert optimizer.n_evaluations > 2


def test_a_line_search_that_finds_nothing_lower_is_a_failure():
    x = th.nn.Parameter(th.zeros(1))
    gradient_lies = lambda: (th.where(x == 0.0, -x, x.detach() ** 2 - x + x.detach()).sum(), None)  # noqa: E731
    optimizer = LBFGS([x], max_iter=5)
    optimizer.minimize(gradient_lies)
    assert (optimizer.n_failures, x.item()) == (1, 0.0)


def test_a_sample_that_is_not_finite_to_begin_with():
    x = th.nn.Parameter(th.zeros(1, dtype=th.float64))
    optimizer = LBFGS([x], max_iter=20)

    def sample(optimum, limit):
        return lambda: (2.0 * ((x - optimum) ** 2).sum() * (math.nan if x.item() > limit else 1.0), x.item())

    with pytest.raises(FloatingPointError):
        optimizer.minimize(sample(3.0, limit=-1.0))  # not finite at all, and there is no round to go back to
    assert x.item() == 0.0
    optimizer.minimize(sample(3.0, limit=math.inf))
    assert x.item() == pytest.approx(3.0)
    result, _ = optimizer.minimize(sample(3.0, limit=1.0))
    assert (x.item(), result, optimizer.n_failures) == (0.0, 0.0, 1)
    with pytest.raises(FloatingPointError):
        optimizer.minimize(sample(3.0, limit=-1.0))


def test_an_optimum_is_no_failure():
    x = th.nn.Parameter(th.zeros(3, dtype=th.float64))
    sample = drifting_quadratic(x)(th.zeros(3))
    optimizer = LBFGS([x])
    for _ in range(4):
        optimizer.minimize(sample)
    assert (optimizer.n_evaluations, optimizer.n_failures) == (4, 0)


def test_state_dictionary_goes_on_as_the_original():
    x = th.nn.Parameter(th.zeros(5))
    optimizer = LBFGS([x], max_iter=4, keep_history=True)
    weights = th.linspace(1.0, 9.0, 5)

    def sample(parameter, optimum):
        return lambda: ((weights * (parameter - optimum) ** 2).sum() + (parameter**4).sum(), None)

    optimizer.minimize(sample(x, 1.0))
    file = io.BytesIO()
    th.save(optimizer.state_dict(), file)
    file.seek(0)
    y = th.nn.Parameter(x.detach().clone())
    loaded = LBFGS([y])
    loaded.load_state_dict(th.load(file, weights_only=True))
    fresh = LBFGS([z := th.nn.Parameter(x.detach().clone())], max_iter=4)
    for candidate, parameter in ((optimizer, x), (loaded, y), (fresh, z)):
        candidate.minimize(sample(parameter, -1.0))
    assert th.equal(x, y)
    assert not th.equal(x, z), "the history must matter"
    assert loaded.n_evaluations == optimizer.n_evaluations > fresh.n_evaluations


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(lr=0.0), "lr must be a number above 0, got 0"),
        (dict(max_iter=0), "max_iter must be an integer of at least 1, got 0"),
        (dict(max_iter=2.5), "max_iter"),
        (dict(max_eval=1), r"max_eval \(if not None\) must be an integer of at least 2, got 1"),
        (dict(history_size=0), "history_size"),
        (dict(tolerance_grad=-1.0), "tolerance_grad"),
        (dict(tolerance_change="x"), "tolerance_change"),
        (dict(keep_history="yes"), "keep_history must be True or False, got 'yes'"),
    ],
)
def test_values_out_of_range_are_refused_by_pwm_too(arguments, message):
    with pytest.raises(ValueError, match=message):
        LBFGS([th.nn.Parameter(th.zeros(1))], **arguments)
    with pytest.raises(ValueError, match=message):
        online(policy_optimizer_kwargs=arguments)


# --- PWM with it ----------------------------------------------------------------------------------------------------


def online(**kwargs):
    defaults = dict(
        policy_optimizer="lbfgs",
        learning_starts=40,
        batch_size=32,
        seed=0,
        device="cpu",
        world_model=dict(latent_dim=16, mlp_dim=16, encoder_dim=16),
        policy_kwargs=dict(net_arch=dict(pi=[16], vf=[16])),
    )
    return PWM("MlpPolicy", Drift(terminates=True), **{**defaults, **kwargs})


@pytest.fixture(scope="module")
def dataset():
    return OfflineDataset.from_episodes(episodes("pendulum-v1", "Pendulum-v1", 6))


@pytest.fixture(scope="module")
def world_model(dataset):
    th.manual_seed(0)
    return WorldModel(WorldModelConfig(observation_dim=3, action_dim=1, tasks=dataset.tasks, **SIZES))


def offline(world_model, dataset, **kwargs):
    defaults = dict(policy_optimizer="lbfgs", batch_size=32, seed=0, device="cpu", offline=True)
    return PWM(
        "MlpPolicy", gymnasium.make("Pendulum-v1"), world_model=world_model, dataset=dataset,
        policy_kwargs=dict(NETWORKS), **{**defaults, **kwargs},
    )  # fmt: skip


def actor_closure(model, monkeypatch):
    """:return: The closure of the next update of the actor, which is not made."""
    closures = []
    original = optimizers.step

    def step(optimizer, closure, *args, **kwargs):
        if optimizer is model.policy.actor_optimizer:
            closures.append(closure)
        return original(optimizer, closure, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(optimizers, "step", step)
        model.train(1, model.batch_size)
    return closures[0]


@pytest.mark.parametrize("make", [online, offline])
def test_the_actors_loss_is_a_function_of_its_parameters_alone(make, world_model, dataset, monkeypatch):
    model = make() if make is online else offline(world_model, dataset)
    model.learn(60)
    closure = actor_closure(model, monkeypatch)

    def evaluate():
        with frozen(model.world_model):
            loss, _ = closure()
            return loss.detach(), th.autograd.grad(loss, list(model.actor.parameters()))

    (first, gradient), (second, again) = evaluate(), evaluate()
    assert th.equal(first, second)
    assert all(th.equal(one, other) for one, other in zip(gradient, again, strict=True))


def test_a_round_lowers_the_loss_of_its_sample_in_a_frozen_world_model(world_model, dataset, monkeypatch):
    model = offline(world_model, dataset).learn(5)
    values, optimizer = [], model.policy.actor_optimizer
    minimize = optimizer.minimize

    def recording(closure):
        values.append(closure()[0].item())
        result = minimize(closure)
        values.append(closure()[0].item())
        return result

    monkeypatch.setattr(optimizer, "minimize", recording)
    before = {name: value.clone() for name, value in model.world_model.named_parameters()}
    for _ in range(5):
        model.train(1, 32)
    assert all(after < start for start, after in zip(values[::2], values[1::2], strict=True))
    for name, value in model.world_model.named_parameters():
        assert th.equal(value, before[name]), name


def test_evaluations_and_failures_are_logged(world_model, dataset):
    model = offline(world_model, dataset, policy_optimizer_kwargs=dict(max_iter=4, max_eval=6, lr=0.5))
    model.set_logger(Logger(None, []))
    model.learn(30, log_interval=1_000)
    logged = model.logger.name_to_value
    assert 30 * 2 <= logged["train/actor_evaluations"] <= 30 * 6
    assert logged["train/line_search_failures"] <= 30
    assert math.isfinite(logged["train/actor_grad_norm"])
    # The learning rate is Adam's, and the length of a step is not a rate.
    assert "train/learning_rate" not in logged
    assert model.policy.actor_optimizer.param_groups[0]["lr"] == 0.5
    assert (
        "train/actor_evaluations"
        not in offline(world_model, dataset, policy_optimizer="adam").learn(2).logger.name_to_value
    )


def test_a_loss_that_is_not_finite_does_not_end_the_run(world_model, dataset, monkeypatch):
    """NaN from the second evaluation of a round on: every line search fails, and the other parts go on learning."""
    model = offline(world_model, dataset)
    minimize, imagine, calls = LBFGS.minimize, model._functions.imagine, []

    def counting(optimizer, closure):
        calls.clear()
        return minimize(optimizer, closure)

    def poisoned(*args):
        calls.append(1)
        rollout = imagine(*args)
        return rollout._replace(rewards=rollout.rewards * (1.0 if len(calls) == 1 else math.nan))

    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.set_logger(Logger(None, []))
    with monkeypatch.context() as patch:
        patch.setattr(LBFGS, "minimize", counting)
        patch.setattr(model._functions, "imagine", poisoned)
        model.learn(4, log_interval=1_000)
    assert model.logger.name_to_value["train/line_search_failures"] == 4
    changed = {name for name, value in model.policy.state_dict().items() if not th.equal(value, before[name])}
    assert not any(name.startswith("actor.") for name in changed if "normalization" not in name)
    assert any(name.startswith("critic") for name in changed)
    assert all(th.isfinite(value).all() for value in model.policy.state_dict().values())
    model.learn(5)
    assert model.policy.actor_optimizer.n_failures < 9
    assert any(not th.equal(value, before[f"actor.{name}"]) for name, value in model.actor.named_parameters())
    monkeypatch.setattr(
        model._functions, "imagine", lambda *args: imagine(*args)._replace(log_probs=th.tensor(math.nan))
    )
    with pytest.raises(ValueError, match=r"The gradient of the actor loss is not finite at step 1, update 9"):
        model.learn(1)


def test_a_saved_model_makes_the_same_next_update_in_a_new_process(world_model, dataset, tmp_path):
    model = offline(world_model, dataset, policy_optimizer_kwargs=dict(keep_history=True)).learn(6)
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    code = (
        "import sys, gymnasium, torch as th; from sb3_pwm import PWM; th.set_num_threads(1);"
        "folder, env = sys.argv[1], gymnasium.make('Pendulum-v1');"
        "model = PWM.load(f'{folder}/model.zip', env=env, device='cpu');"
        "model.load_replay_buffer(f'{folder}/buffer.pkl'); model._setup_learn(1); model.set_random_seed(3);"
        "model.train(1, 32); th.save(model.policy.state_dict(), f'{folder}/after.pt')"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    after = th.load(tmp_path / "after.pt", weights_only=True)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model._setup_learn(1)
    model.set_random_seed(3)
    model.train(1, 32)
    assert any(not th.equal(before[name], after[name]) for name in after if name.startswith("actor"))
    for name, value in model.policy.state_dict().items():
        assert th.equal(value, after[name]), name


def test_another_optimizer_at_load(world_model, dataset, tmp_path):
    offline(world_model, dataset, policy_optimizer="adam").learn(2).save(tmp_path / "adam.zip")
    options = dict(max_iter=2)
    model = PWM.load(
        tmp_path / "adam.zip",
        env=gymnasium.make("Pendulum-v1"),
        dataset=dataset,
        device="cpu",
        policy_optimizer="lbfgs",
        policy_optimizer_kwargs=options,
    )
    assert isinstance(model.policy.actor_optimizer, LBFGS)
    model.learn(2)
    model.save(tmp_path / "lbfgs.zip")
    # As rl-zoo3 resumes: with the arguments that the model has
    same = PWM.load(tmp_path / "lbfgs.zip", device="cpu", policy_optimizer="lbfgs", policy_optimizer_kwargs=options)
    assert same.policy.actor_optimizer.n_evaluations == model.policy.actor_optimizer.n_evaluations > 0
    assert same.policy.actor_optimizer.param_groups[0]["max_iter"] == 2
    other = PWM.load(tmp_path / "lbfgs.zip", device="cpu", policy_optimizer_kwargs=dict(max_iter=3))
    assert other.policy.actor_optimizer.param_groups[0]["max_iter"] == 3
    assert other.policy.actor_optimizer.n_evaluations == 0
    back = PWM.load(
        tmp_path / "lbfgs.zip",
        env=gymnasium.make("Pendulum-v1"),
        dataset=dataset,
        device="cpu",
        policy_optimizer="adam",
    )
    assert type(back.policy.actor_optimizer) is th.optim.Adam
    back.learn(2)
    with pytest.raises(ValueError, match=r"another policy_optimizer: leave 'policy\.actor_optimizer' out"):
        back.set_parameters(model.get_parameters())
    back.save(tmp_path / "back.zip")
    assert type(PWM.load(tmp_path / "back.zip", device="cpu").policy.actor_optimizer) is th.optim.Adam


def test_arguments_of_adam_are_the_actors_alone():
    model = online(policy_optimizer="adam", policy_optimizer_kwargs=dict(weight_decay=0.1), batch_size=8)
    assert model.policy.actor_optimizer.param_groups[0]["weight_decay"] == 0.1
    assert model.policy.actor_optimizer.param_groups[0]["betas"] == (0.7, 0.95)
    assert model.policy.critic_optimizer.param_groups[0]["weight_decay"] == 0.0
    model.learn(45)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(policy_optimizer="lbgfs"), 'policy_optimizer must be "adam" or "lbfgs", got \'lbgfs\''),
        (dict(policy_optimizer=None), "policy_optimizer"),
        (dict(policy_optimizer_kwargs=[1]), r"policy_optimizer_kwargs must be a dictionary, got \[1\]"),
        (
            dict(policy_optimizer_kwargs=dict(betas=(0, 0))),
            "'lbfgs' has no argument 'betas'; its arguments are lr, max_iter",
        ),
        (dict(policy_optimizer_kwargs=dict(line_search_fn=None)), "has no argument 'line_search_fn'"),
        (dict(policy_optimizer="adam", policy_optimizer_kwargs=dict(max_iter=3)), "'adam' has no argument 'max_iter'"),
        (dict(policy_optimizer="adam", policy_optimizer_kwargs=dict(lr=3)), "'adam' has no argument 'lr'"),
        (dict(batch_size=31), r"batch_size=31 is too small a sample for the line search .*: give 32 or more"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        online(**arguments)


def test_reaches_the_known_optimum_online():
    """On the linear-quadratic task the policy is near the Riccati gain."""
    gamma = 0.95
    gain = Drift.optimal_gain(gamma)
    model = online(
        gamma=gamma,
        learning_starts=300,
        batch_size=64,
        train_freq=4,  # an update makes six evaluations
        world_model_updates=4,
        n_critic_epochs=4,
        tau=0.08,
        critic_learning_rate="lin_2e-3",
        world_model=dict(latent_dim=32, mlp_dim=64, encoder_dim=64),
        policy_kwargs=dict(net_arch=dict(pi=[64], vf=[64])),
    )
    model.learn(1_200)
    for x in (-0.8, -0.4, 0.4, 0.8):
        action = model.predict(np.array([x], np.float32), deterministic=True)[0][0]
        assert action == pytest.approx(-gain * x, abs=0.35)
