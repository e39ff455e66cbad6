"""The world model and its loss: shapes, tasks, masks, and the loss computed step by step."""

import math

import pytest
import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_pwm import SequenceBatch, WorldModel, WorldModelConfig
from sb3_pwm.common.layers import LONG_BATCH, EnsembleMLP, SimNorm
from sb3_pwm.pwm import optimizers
from sb3_pwm.world_model import world_model_loss
from sb3_pwm.world_model.losses import termination_loss

TINY = dict(observation_dim=5, action_dim=2, latent_dim=16, encoder_dim=12, mlp_dim=12)


def random_batch(horizon=3, batch=4, task=None):
    mask = th.ones(horizon, batch)
    mask[2:, 1] = 0.0  # the second sequence ends after two steps
    terminations = th.zeros(horizon, batch)
    terminations[1, 1] = 1.0
    return SequenceBatch(
        th.randn(horizon + 1, batch, 5),
        th.rand(horizon, batch, 2) * 2 - 1,
        3.0 * th.randn(horizon, batch),
        terminations,
        mask,
        task,
    )


def randomized(config):
    """A world model with output layers that are not zero."""
    th.manual_seed(0)
    model = WorldModel(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_simnorm_groups_are_distributions():
    z = SimNorm(8)(5 * th.randn(3, 4, 32))
    assert z.shape == (3, 4, 32)
    assert (z >= 0).all()
    th.testing.assert_close(z.unflatten(-1, (4, 8)).sum(-1), th.ones(3, 4, 4))


def test_simnorm_by_hand():
    z = SimNorm(2)(th.tensor([0.0, math.log(3.0), 1.0, 1.0]))
    th.testing.assert_close(z, th.tensor([0.25, 0.75, 0.5, 0.5]))


def test_simnorm_is_a_softmax_of_the_latents_without_it(tmp_path):
    with_it = randomized(WorldModelConfig(**TINY))
    without = WorldModel(WorldModelConfig(**TINY, simnorm_dim=0))
    without.load_state_dict(with_it.state_dict())  # the same parameters
    observations, actions = th.randn(3, 5), th.rand(3, 2)
    z = without.encode(observations)
    th.testing.assert_close(z.unflatten(-1, (2, 8)).softmax(-1).flatten(-2), with_it.encode(observations))
    # A latent is what the LayerNorm before SimNorm gives, at the scale that it has learned.
    norm = without.encoder[-1].ln
    th.testing.assert_close(((z - norm.bias) / norm.weight).mean(-1), th.zeros(3), atol=1e-5, rtol=0.0)
    without.save(tmp_path / "model.safetensors")
    loaded = WorldModel.load(tmp_path / "model.safetensors")
    assert loaded.config.simnorm_dim == 0
    assert th.equal(loaded.next(z, actions), without.next(z, actions))
    with th.autocast("cpu", dtype=th.bfloat16):
        assert loaded.next(loaded.encode(observations), actions).dtype == th.float32
    assert WorldModelConfig(**{**TINY, "latent_dim": 13}, simnorm_dim=0).latent_dim == 13


@pytest.mark.parametrize("rows", [5, LONG_BATCH])  # in one product, and member by member
def test_ensemble_members_equal_separate_networks(rows):
    ensemble = EnsembleMLP(3, 6, [8, 7], nn.SiLU)
    for parameter in ensemble.parameters():
        nn.init.normal_(parameter)
    x = th.randn(2, rows, 6)
    together = ensemble(x)
    assert together.shape == (3, 2, rows)
    linear_0, norm_0, _, linear_1, norm_1, _, output = ensemble.layers
    for i in range(3):
        y = x
        for linear, norm in ((linear_0, norm_0), (linear_1, norm_1)):
            y = y @ linear.weight[i] + linear.bias[i]
            y = F.silu(F.layer_norm(y, y.shape[-1:], norm.weight[i, 0], norm.bias[i, 0]))
        expected = (y @ output.weight[i] + output.bias[i]).squeeze(-1)
        th.testing.assert_close(together[i], expected, atol=1e-4, rtol=1e-4)
        # The gradient of a member does not depend on the other members.
        gradient, other = th.autograd.grad(together[i].sum(), (linear_0.weight, linear_1.bias), retain_graph=True)
        (expected_gradient,) = th.autograd.grad(expected.sum(), linear_0.weight, retain_graph=True)
        th.testing.assert_close(gradient, expected_gradient, atol=1e-3, rtol=1e-3)
        assert not other[(i + 1) % 3].any()


def test_ensemble_starts_at_zero():
    assert (EnsembleMLP(3, 6, [8], nn.SiLU)(th.randn(4, 6)) == 0).all()


@pytest.mark.parametrize("size", ["200K", "1M", "5M", "19M", "48M", "317M"])
def test_presets(size):
    config = WorldModelConfig.preset(size, observation_dim=24, action_dim=6)
    with th.device("meta"):
        count = sum(parameter.numel() for parameter in WorldModel(config).parameters())
    widths = (24, config.encoder_dim, config.mlp_dim, config.latent_dim, config.encoder_layers)
    assert count == by_hand(*widths, action_dim=6)


def test_behavior_loss_recomputed_step_by_step():
    model = randomized(WorldModelConfig(**TINY, behavior_head=True, tasks=("a", "b")))
    task = th.tensor([0, 1, 1, 0])
    batch = random_batch(task=task)
    loss = world_model_loss(model, batch, behavior_coef=0.5)
    without = world_model_loss(model, batch, behavior_coef=0.0)
    assert without.behavior == 0.0
    assert loss.total.item() == pytest.approx(without.total.item() + 0.5 * loss.behavior.item(), rel=1e-5)

    distances, counts = {0: 0.0, 1: 0.0}, {0: 0.0, 1: 0.0}
    for b in range(4):
        row = task[b].item()
        for t in range(3):
            z = model.encode(batch.observations[t, b], task[b])
            error = (model.behavior(z, task[b]) - batch.actions[t, b]).abs()
            distances[row] = distances[row] + batch.mask[t, b].item() * (error + error**2)
            counts[row] += batch.mask[t, b].item()
    expected = sum(counts[row] * (distances[row] / counts[row] + 0.01).log().mean() for row in (0, 1))
    assert loss.behavior.item() == pytest.approx((expected / sum(counts.values())).item(), rel=1e-4)


def test_sequences_drawn_for_the_ends_of_episodes_do_not_teach_the_behavior_head():
    model = randomized(WorldModelConfig(**TINY, behavior_head=True, tasks=("a", "b")))
    batch = random_batch(task=th.tensor([0, 1, 1, 0]))
    loss = world_model_loss(model, batch._replace(representative=th.tensor([1.0, 0.0, 1.0, 1.0])))
    kept = [0, 2, 3]
    parts = [part[:, kept] for part in batch[:5]]
    others = world_model_loss(model, SequenceBatch(*parts, batch.task[kept]))
    assert loss.behavior.item() == pytest.approx(others.behavior.item(), rel=1e-5)
    assert loss.dynamics == world_model_loss(model, batch).dynamics, "they teach everything else"


def test_behavior_head_shapes_the_latent_and_is_saved(tmp_path):
    model = randomized(WorldModelConfig(**TINY, behavior_head=True))
    batch = random_batch()
    world_model_loss(model, batch, dynamics_coef=0.0, reward_coef=0.0, termination_coef=0.0).total.backward()
    assert model.encoder[0].weight.grad.abs().sum() > 0.0
    model.save(tmp_path / "wm.safetensors")
    loaded = WorldModel.load(tmp_path / "wm.safetensors")
    latents = model.encode(batch.observations)
    assert loaded.behavior(latents).abs().max() <= 1.0
    th.testing.assert_close(loaded.behavior(latents), model.behavior(latents))
    with pytest.raises(RuntimeError, match="behavior_head=True"):
        randomized(WorldModelConfig(**TINY)).behavior(latents)


def by_hand(observation_dim, encoder_dim, mlp_dim, latent_dim, encoder_layers, action_dim):
    def normed(n_in, n_out):
        return n_in * n_out + 3 * n_out  # weight, bias, LayerNorm gain and offset

    encoder = normed(observation_dim, encoder_dim) + (encoder_layers - 2) * normed(encoder_dim, encoder_dim)
    encoder += normed(encoder_dim, latent_dim)
    trunk = normed(latent_dim + action_dim, mlp_dim) + normed(mlp_dim, mlp_dim)
    return encoder + trunk + normed(mlp_dim, latent_dim) + trunk + mlp_dim * 101 + 101


@pytest.mark.parametrize("reward_head", ["two_hot", "scalar"])
def test_loss_recomputed_step_by_step(reward_head):
    model = randomized(WorldModelConfig(**TINY, termination=True, reward_head=reward_head))
    batch, rho = random_batch(), 0.8
    loss = world_model_loss(model, batch, rho=rho, dynamics_coef=20.0, reward_coef=0.1, termination_coef=1.0)

    dynamics = reward = termination = 0.0
    for b in range(4):
        z = model.encode(batch.observations[0, b])
        for t in range(3):
            weight = rho**t * batch.mask[t, b].item() / 3 / 4
            logits = model.reward_logits(z, batch.actions[t, b])
            if reward_head == "scalar":
                reward += weight * (logits.item() - batch.rewards[t, b].item()) ** 2
            else:
                position = (
                    math.copysign(math.log1p(abs(batch.rewards[t, b].item())), batch.rewards[t, b].item()) + 10
                ) / 0.2
                below = math.floor(position)
                log_p = F.log_softmax(logits, -1)
                share = position - below
                reward -= weight * ((1 - share) * log_p[below].item() + share * log_p[below + 1].item())
            z = model.next(z, batch.actions[t, b])
            target = model.encode(batch.observations[t + 1, b])
            dynamics += weight * (z - target).pow(2).mean().item()
            p = th.sigmoid(model.termination_logits(z)).item()
            termination -= weight * math.log(p if batch.terminations[t, b] else 1 - p)
    assert loss.dynamics.item() == pytest.approx(dynamics, rel=1e-4)
    assert loss.reward.item() == pytest.approx(reward, rel=1e-3)
    assert loss.termination.item() == pytest.approx(termination, rel=1e-4)
    assert loss.total.item() == pytest.approx(20 * dynamics + 0.1 * reward + termination, rel=1e-3)


def test_steps_after_the_episode_do_not_count():
    model = randomized(WorldModelConfig(**TINY, termination=True))
    batch = random_batch()
    loss = world_model_loss(model, batch).total
    batch.observations[3, 1] += 100.0
    batch.rewards[2, 1] = -50.0
    batch.actions[2, 1] = 1.0
    batch.terminations[2, 1] = 1.0
    th.testing.assert_close(world_model_loss(model, batch).total, loss)
    batch.rewards[1, 1] += 1.0  # the last real step does count
    assert world_model_loss(model, batch).total != loss


def test_no_gradient_through_the_target():
    model = randomized(WorldModelConfig(**TINY))
    batch = random_batch()
    observations = batch.observations.clone().requires_grad_()
    world_model_loss(model, batch._replace(observations=observations)).total.backward()
    assert observations.grad[0].abs().sum() > 0
    assert observations.grad[1:].abs().sum() == 0


def test_continuation():
    model = randomized(WorldModelConfig(**TINY, termination=True))
    z = model.encode(th.randn(7, 5))
    th.testing.assert_close(model.continuation(z), 1 - th.sigmoid(model.termination_logits(z)))
    endless = WorldModel(WorldModelConfig(**TINY))
    assert (endless.continuation(z) == 1).all()
    with pytest.raises(RuntimeError, match=r"termination=True"):
        endless.termination_logits(z)


def test_multi_task():
    model = randomized(WorldModelConfig(**TINY, tasks=("walk", "run"), task_dim=4))
    observations = th.randn(2, 5)
    by_name, by_index = model.encode(observations, "run"), model.encode(observations, 1)
    th.testing.assert_close(by_name, by_index)
    th.testing.assert_close(by_name, model.encode(observations, th.tensor([1, 1])))
    assert not th.allclose(by_name, model.encode(observations, "walk"))
    assert model.next(by_name.expand(3, 2, 16), th.zeros(3, 2, 2), th.tensor([0, 1])).shape == (3, 2, 16)
    loss = world_model_loss(model, random_batch(task=th.tensor([0, 1, 1, 0])))
    assert th.isfinite(loss.total)
    with pytest.raises(ValueError, match=r"needs a task"):
        model.encode(observations)
    with pytest.raises(ValueError, match=r"The world model has no task 'swim'; its tasks are walk, run\."):
        model.encode(observations, "swim")
    with pytest.raises(ValueError, match=r"no task number 2"):
        model.encode(observations, 2)
    with pytest.raises(ValueError, match=r"single-task"):
        WorldModel(WorldModelConfig(**TINY)).encode(observations, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(latent_dim=12), r"latent_dim \(12\) must be a multiple of simnorm_dim \(8\)"),
        (dict(simnorm_dim=-1), "simnorm_dim must be an integer of at least 0, got -1"),
        (dict(encoder_layers=1), "encoder_layers must be an integer of at least 2, got 1"),
        (dict(reward_head="huber"), 'reward_head must be "two_hot" or "scalar", got \'huber\''),
        (dict(activation="swish"), 'activation must be "mish", .* or "tanh", got \'swish\''),
        (dict(num_bins=1), "num_bins must be an integer of at least 2, got 1"),
        (dict(mlp_dim=0), "mlp_dim must be an integer of at least 1, got 0"),
        (dict(action_dim=2.0), r"action_dim must be an integer of at least 1, got 2\.0"),
        (dict(bin_low=10.0), r"bin_high must be a number above 10, got 10\.0"),
        (dict(tasks=("walk", "walk")), "tasks must be distinct, got walk, walk"),
    ],
)
def test_bad_config(fields, message):
    with pytest.raises(ValueError, match=message):
        WorldModelConfig(**{**TINY, **fields})


def test_unknown_presets_and_fields():
    with pytest.raises(ValueError, match=r'size of a world model must be "200K", .* or "317M", got \'2M\''):
        WorldModelConfig.preset("2M", observation_dim=3, action_dim=1)
    with pytest.raises(ValueError, match="A world model has no field 'latent_dims': did you mean 'latent_dim'"):
        WorldModelConfig.resolve(dict(latent_dims=3), observation_dim=3, action_dim=1)
    with pytest.raises(ValueError, match="A world model has no field 'x': its fields are size, observation_dim, "):
        WorldModelConfig.resolve(dict(x=3), observation_dim=3, action_dim=1)


def test_a_configuration_can_be_a_name_or_fields():
    sizes = dict(observation_dim=3, action_dim=1)
    assert WorldModelConfig.resolve("1M", **sizes) == WorldModelConfig.preset("1M", **sizes)
    config = WorldModelConfig.resolve(dict(size="1M", mlp_dim=64), activation="silu", mlp_dim=32, **sizes)
    assert config == WorldModelConfig.preset("1M", mlp_dim=64, activation="silu", **sizes)
    assert WorldModelConfig.resolve({}, **sizes) == WorldModelConfig.preset("200K", **sizes)
    assert WorldModelConfig.resolve(config) is config


def test_narrower_observations_and_actions_are_padded():
    model = randomized(WorldModelConfig(**TINY))
    observations, actions = th.randn(4, 3), th.rand(4, 1)
    padded = F.pad(observations, (0, 2)), F.pad(actions, (0, 1))
    latents = model.encode(observations)
    assert th.equal(latents, model.encode(padded[0]))
    assert th.equal(model.next(latents, actions), model.next(latents, padded[1]))
    assert th.equal(model.reward(latents, actions), model.reward(latents, padded[1]))
    with pytest.raises(ValueError, match="takes observations of 5 numbers, got 6"):
        model.encode(th.randn(4, 6))
    with pytest.raises(ValueError, match="takes actions of 2 numbers, got 3"):
        model.next(latents, th.rand(4, 3))


def test_a_new_task_changes_nothing_for_the_others(tmp_path):
    model = randomized(WorldModelConfig(**TINY, tasks=("walk", "run")))
    observations = th.randn(4, 5)
    before = [model.encode(observations, task) for task in ("walk", "run")]
    assert model.add_task("jump", like="run") == 2
    assert model.config.tasks == ("walk", "run", "jump")
    for task, expected in zip(("walk", "run", "jump"), (*before, before[1]), strict=True):
        th.testing.assert_close(model.encode(observations, task), expected)
    # The new embedding is trained and saved as the others are.
    model.encode(observations, "jump").sum().backward()
    gradient = model.task_embedding.weight.grad
    assert gradient[2].abs().sum() > 0
    assert gradient[:2].abs().sum() == 0
    model.save(tmp_path / "model.safetensors")
    th.testing.assert_close(WorldModel.load(tmp_path / "model.safetensors").encode(observations, 2), before[1])
    assert model.add_task("hop") == 3
    mean = model.task_embedding.weight[:3].mean(0)
    th.testing.assert_close(model.task_embedding.weight[3], mean)
    with pytest.raises(ValueError, match="has a task 'hop' already"):
        model.add_task("hop")
    with pytest.raises(ValueError, match="no task 'swim'"):
        model.add_task("dive", like="swim")
    with pytest.raises(ValueError, match="single-task"):
        WorldModel(WorldModelConfig(**TINY)).add_task("walk")


@pytest.mark.parametrize("tasks", [(), ("walk", "run")])
def test_a_termination_head_is_added_and_learns_alone(tmp_path, tasks):
    model, task = randomized(WorldModelConfig(**TINY, tasks=tasks)), th.tensor([0, 1, 0, 1]) if tasks else None
    model.encode(th.randn(4, 5), task)  # a lookup scales embeddings to norm 1
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.add_termination_head()
    assert model.has_new_termination_head
    batch = random_batch(task=task)
    latents = model.encode(batch.observations, task)
    th.testing.assert_close(model.continuation(latents, task), th.full((4, 4), 1 / (1 + math.exp(-5.0))))
    # The loss is the termination part of the whole model's.
    expected = world_model_loss(model, batch, rho=0.9).termination
    model.requires_grad_(False)
    model.termination_network.requires_grad_(True)
    loss = termination_loss(model, batch, rho=0.9)
    th.testing.assert_close(loss, expected)
    optimizers.step(th.optim.Adam(model.parameters(), 1e-2), lambda: (termination_loss(model, batch),) * 2, clip=10.0)
    assert termination_loss(model, batch, rho=0.9) < loss
    assert not model.has_new_termination_head
    assert all(th.equal(value, model.state_dict()[name]) for name, value in before.items())
    model.save(tmp_path / "model.safetensors")
    loaded = WorldModel.load(tmp_path / "model.safetensors")
    assert loaded.config.termination
    assert th.equal(loaded.continuation(latents, task), model.continuation(latents, task))
    with pytest.raises(ValueError, match="has a termination head already"):
        model.add_termination_head()


def test_learns_a_linear_system():
    """On a stable linear system, both losses fall far below their first values."""
    th.manual_seed(0)
    model = WorldModel(WorldModelConfig(**TINY))
    optimizer = th.optim.Adam(model.parameters(), lr=3e-3)
    drift, push = 0.9 * th.eye(5), 0.3 * th.randn(2, 5)
    first = last = None
    for _ in range(120):
        observations, actions = [th.randn(64, 5)], th.rand(3, 64, 2) * 2 - 1
        for t in range(3):
            observations.append(observations[-1] @ drift + actions[t] @ push)
        stacked = th.stack(observations)
        rewards, ones = stacked[:-1, :, 0], th.ones(3, 64)
        loss = world_model_loss(model, SequenceBatch(stacked, actions, rewards, 0 * ones, ones))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        first = loss if first is None else first
        last = loss
    assert last.reward < 0.6 * first.reward
    assert last.dynamics < 0.1 * first.dynamics
