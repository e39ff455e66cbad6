"""Judging a policy in the world model, and keeping the best."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from test_offline import episodes

from sb3_pwm import PWM, OfflineDataset, SequenceReplayBuffer, WorldModel, WorldModelConfig
from sb3_pwm.pwm import self_evaluation
from sb3_pwm.pwm.self_evaluation import N_EVALUATIONS, BestActor, Judgement, judge, strangeness


class ByHand:
    """A world model whose latents count: reward and latent grow by the action, which is 0.5, and half of them end."""

    task_index = None

    def __init__(self):
        self.world_model = self

    def actor_average(self, latents):
        return th.full_like(latents, np.arctanh(0.5)), None

    def reward(self, latents, actions, task):
        return (latents + actions).squeeze(-1)

    def next(self, latents, actions, task):
        return latents + actions

    def continuation(self, latents, task):
        return th.full((len(latents),), 0.5)


def test_judgement_by_hand():
    latents = th.tensor([[0.0], [1.0]])
    # Rewards 0.5, 1, 1.5 from the first, 1.5, 2, 2.5 from the second
    assert judge(ByHand(), latents, False, n_steps=3).mean_return == pytest.approx((3.0 + 6.0) / 2)
    weighted = (0.5 + 0.5 * 1.0 + 0.25 * 1.5 + 1.5 + 0.5 * 2.0 + 0.25 * 2.5) / 2
    assert judge(ByHand(), latents, True, n_steps=3).mean_return == pytest.approx(weighted)
    # Steps 0, 10 and 20
    assert judge(ByHand(), latents, False, n_steps=25).visited.flatten().tolist() == [0.0, 1.0, 5.0, 6.0, 10.0, 11.0]


def test_strangeness_by_hand():
    data = th.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 2.0], [4.0, 2.0], [9.0, 0.0]])
    # Nearest other states: 4, 2, 2, 2 and 5 away, with the state that is there twice left out
    visited = th.tensor([[0.0, 3.0], [7.0, -4.0], [1.0, 0.0]])  # 3, sqrt(20) and 1 from the data
    assert strangeness(visited, data) == pytest.approx(1.5)
    assert strangeness(data, data) == 0.0


@pytest.mark.parametrize(
    ("scores", "kept"),
    [((1.0, 10.0, 8.0), 2), ((1.0, 10.0, 7.0), 1), ((-20.0, -10.0, -12.0), 2), ((-20.0, -10.0, -13.0), 1)],
)
def test_the_last_actor_is_kept_if_it_is_about_as_good(scores, kept):
    best, actor = BestActor(), th.nn.Linear(1, 1)
    for number, score in enumerate(scores):
        th.nn.init.constant_(actor.weight, number)
        best.update(actor, score, number)
    assert best.is_better(scores[-1]) == (kept != 2)
    best.restore(actor)
    assert actor.weight.item() == 1  # the second


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(self_evaluation, "MIN_UPDATES", 1)
    data = OfflineDataset.from_episodes(episodes("pendulum-v1", "Pendulum-v1", 3))
    th.manual_seed(0)
    world_model = WorldModel(WorldModelConfig(3, 1, latent_dim=16, encoder_dim=16, mlp_dim=16))
    return PWM(
        "MlpPolicy", "Pendulum-v1", world_model=world_model, dataset=data, offline=True, batch_size=8, verbose=1,
        policy_kwargs=dict(net_arch=[16]), seed=0,
    )  # fmt: skip


@pytest.mark.parametrize("leaves_the_data", [False, True])
def test_offline_learning_goes_back_to_the_best_policy(model, monkeypatch, capsys, leaves_the_data):
    """
    The second of ten judgements is the best: its actor is the one that learning ends with.

    The last one stays if its rollouts went where no data are.
    """
    seen = []

    def judge(policy, latents, termination):
        assert latents.shape == (3, 16)  # one for each episode
        seen.append((model.n_updates, {name: x.clone() for name, x in policy.actor_average.state_dict().items()}))
        return Judgement(100.0 if len(seen) == 2 else 50.0, model._replay(50).latents + 100.0 * leaves_the_data)

    monkeypatch.setattr(self_evaluation, "judge", judge)
    model.learn(30)
    assert [number for number, _ in seen] == list(range(3, 31, 3))
    assert len(seen) == N_EVALUATIONS
    output = capsys.readouterr().out
    for name, value in model.policy.actor_average.state_dict().items():
        assert th.equal(value, seen[-1 if leaves_the_data else 1][1][name])
    # Learning goes on from what is kept
    for name, value in model.actor.state_dict().items():
        assert th.equal(value, seen[1][1][name]) == (not leaves_the_data)
    assert ("Kept the last policy" in output) == leaves_the_data
    assert ("Kept the policy after 6 updates" in output) == (not leaves_the_data)

    # The next call begins anew, and does not go back to a policy of the last one
    seen.clear()
    same = Judgement(10.0, th.zeros(3, 16))
    monkeypatch.setattr(self_evaluation, "judge", lambda *_: seen.append(model.n_updates) or same)
    model.learn(4)
    assert seen == [31, 32, 33, 34]
    assert "Kept" not in capsys.readouterr().out


def test_the_policy_is_judged_by_the_world_model(model, monkeypatch):
    model.learn(20)
    assert np.isfinite(model.logger.name_to_value["train/rollout_return"])
    monkeypatch.setattr(self_evaluation, "MIN_UPDATES", 3)
    model.learn(2)  # too short
    assert "train/rollout_return" not in model.logger.name_to_value
    model.keep_best = False
    before = {name: value.clone() for name, value in model.actor.state_dict().items()}
    model.learn(2)
    assert "train/rollout_return" not in model.logger.name_to_value
    assert any(not th.equal(value, before[name]) for name, value in model.actor.state_dict().items())


def test_first_observations():
    box = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    buffer = SequenceReplayBuffer(20, box, spaces.Box(-1.0, 1.0, (1,), np.float32), "cpu", n_envs=2)
    for step in range(14):  # episodes of five steps; the buffer forgets the first four
        observation = np.array([[step], [100.0 + step]], np.float32)
        dones = np.full(2, step % 5 == 4)
        buffer.add(observation, observation + 1, np.zeros((2, 1)), np.zeros(2), dones, [{}, {}])
    assert sorted(buffer.first_observations(99).flatten().tolist()) == [4.0, 5.0, 10.0, 104.0, 105.0, 110.0]
    assert buffer.first_observations(2).shape == (2, 1)
    assert th.equal(buffer.first_observations(2), buffer.first_observations(2))
