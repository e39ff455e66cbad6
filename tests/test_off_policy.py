"""The parts that PWM shares with SB3's off-policy algorithms: train_freq, noise, callbacks, logs and wrappers."""

import csv
import json
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from random_env import TINY, RandomEnv
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import HParam, configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecMonitor, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_pwm import PWM

SMALL = dict(policy_kwargs=TINY, learning_starts=15, batch_size=6, buffer_size=200, device="cpu", seed=0)


def make(env="Pendulum-v1", **kwargs):
    return PWM("MlpPolicy", env, **{**SMALL, **kwargs})


# --- when to update -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train_freq", "gradient_steps", "n_envs", "steps", "updates"),
    [
        # Updates begin once there are more steps than learning_starts=15.
        (4, 1, 1, 40, 7),  # after 16, 20, ..., 40
        ((4, "step"), 3, 1, 40, 21),
        (4, -1, 1, 40, 28),
        ((1, "episode"), 2, 1, 36, 4),  # episodes of 12 steps: after 24 and 36
        ((2, "episode"), -1, 1, 48, 48),
        (3, -1, 2, 36, 24),  # six steps in a round: after 18, 24, 30, 36
        (1, 0, 1, 40, 0),
    ],
)
def test_train_freq_and_gradient_steps(train_freq, gradient_steps, n_envs, steps, updates):
    env = make_vec_env(RandomEnv, n_envs, seed=0)
    model = make(env, train_freq=train_freq, gradient_steps=gradient_steps).learn(steps)
    assert model.num_timesteps == steps
    assert model.n_updates == updates
    assert model.logger.name_to_value.get("train/n_updates", 0) == updates


@pytest.mark.parametrize("train_freq", ["4", ("1", "episode"), "nonsense", (1, "close")])
def test_bad_train_freq(train_freq):
    with pytest.raises(ValueError, match="train_freq"):
        make(train_freq=train_freq)


def test_updates_begin_with_the_first_sequence():
    """With any learning_starts, the first update needs a sequence of horizon steps per environment."""
    model = make(make_vec_env(RandomEnv, 2, seed=0), learning_starts=0, horizon=5, gradient_steps=-1)
    model.learn(16)
    assert model.n_updates == 8  # from the fifth of eight steps on, two each
    model = make(learning_starts=0, replay_critic_coef=1.0, replay_critic_horizon=9).learn(12)
    assert model.n_updates == 4


def test_random_actions_until_learning_starts():
    model = make(learning_starts=50)
    calls = []
    predict = model.policy.predict
    model.policy.predict = lambda *args, **kwargs: calls.append(model.num_timesteps) or predict(*args, **kwargs)
    model.learn(60)
    assert calls == list(range(50, 60))


def test_time_steps_go_on_or_start_anew():
    model = make()
    assert model.learn(20).num_timesteps == 20
    assert model.learn(20, reset_num_timesteps=False).num_timesteps == 40
    assert model.learn(20).num_timesteps == 20
    assert model.replay_buffer.size() == 60


# --- noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_class", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_action_noise(noise_class, n_envs):
    env = make_vec_env(RandomEnv, n_envs, seed=0)
    noise = noise_class(np.zeros(2), 100.0 * np.ones(2))
    model = make(env, learning_starts=0, gradient_steps=0, action_noise=noise).learn(60)
    # With noise of this size nearly all actions are at the bounds
    actions = model.replay_buffer.actions[: model.replay_buffer.size()]
    assert np.mean(np.abs(actions) == 1.0) > 0.95
    assert isinstance(model.action_noise, VectorizedActionNoise) == (n_envs > 1)
    quiet = make(make_vec_env(RandomEnv, n_envs, seed=0), learning_starts=0, gradient_steps=0).learn(60)
    assert np.mean(np.abs(quiet.replay_buffer.actions[:30]) == 1.0) < 0.05


def test_noise_of_each_environment_is_its_own():
    noise = VectorizedActionNoise(OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2)), 3)
    model = make(make_vec_env(RandomEnv, 3, seed=0), action_noise=noise).learn(60)
    previous = np.stack([one.noise_prev for one in model.action_noise.noises])
    assert len(np.unique(previous[:, 0])) == 3


# --- what is refused ----------------------------------------------------------------------------------------------


def test_hindsight_is_refused():
    with pytest.raises(ValueError, match=r"hindsight relabels single transitions.*use SAC or TD3"):
        make(replay_buffer_class=HerReplayBuffer)
    with pytest.raises(ValueError, match="NStepReplayBuffer yields no sequences"):
        make(replay_buffer_class=NStepReplayBuffer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(use_sde=True), "without gSDE"),
        (dict(n_steps=3), "set td_lambda and horizon"),
        (dict(policy_delay=2), "set n_critic_epochs"),
        (dict(target_update_interval=2), "set tau"),
    ],
)
def test_arguments_of_other_algorithms(arguments, message):
    with pytest.raises(TypeError, match=f"PWM has no argument '{next(iter(arguments))}': .*{message}"):
        make(**arguments)


def test_mixing_the_apis_of_gym_and_of_vector_environments():
    with pytest.raises(ValueError, match="mixing Gym API"):
        make().predict(gym.make("Pendulum-v1").reset())


# --- callbacks ----------------------------------------------------------------------------------------------------


class Watch(BaseCallback):
    """Counts the calls, and stops training at one of them."""

    def __init__(self, stop_at=None, stop_with=False):
        super().__init__()
        self.stop_at, self.stop_with = stop_at, stop_with
        self.events = []

    def _on_training_start(self):
        self.events.append("training start")

    def _on_rollout_start(self):
        self.events.append("rollout start")

    def _on_step(self):
        self.events.append("step")
        assert self.model.get_env().observation_space.contains(self.locals["new_obs"][0])
        return self.stop_with if self.n_calls == self.stop_at else True

    def _on_rollout_end(self):
        self.events.append("rollout end")

    def _on_training_end(self):
        self.events.append("training end")


def test_order_of_calls():
    watch = Watch()
    make(train_freq=2).learn(4, watch)
    round_ = ["rollout start", "step", "step", "rollout end"]
    assert watch.events == ["training start", *round_, *round_, "training end"]


@pytest.mark.parametrize("stop_with", [False, np.bool_(0), th.tensor(0, dtype=th.bool)])
def test_a_callback_stops_training(stop_with):
    watch = Watch(stop_at=7, stop_with=stop_with)
    model = make().learn(50, watch)
    assert watch.n_calls == model.num_timesteps == 7


def test_callbacks_of_sb3(tmp_path):
    evaluation = EvalCallback(
        gym.make("Pendulum-v1", max_episode_steps=10),
        callback_on_new_best=StopTrainingOnRewardThreshold(reward_threshold=0.0),
        callback_after_eval=StopTrainingOnNoModelImprovement(max_no_improvement_evals=100),
        best_model_save_path=str(tmp_path / "best"),
        log_path=str(tmp_path / "log"),
        eval_freq=20,
        n_eval_episodes=2,
        warn=False,
    )
    checkpoints = CheckpointCallback(30, str(tmp_path / "checkpoints"))
    event = CheckpointCallback(1, str(tmp_path / "events"), name_prefix="event")
    every = EveryNTimesteps(25, callback=event)
    callbacks = CallbackList([checkpoints, evaluation, every, LogEveryNTimesteps(10), StopTrainingOnMaxEpisodes(100)])
    model = make().learn(60, callbacks)
    assert evaluation.last_mean_reward < 0.0
    assert np.load(tmp_path / "log" / "evaluations.npz")["timesteps"].tolist() == [20, 40, 60]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "rl_model_30_steps.zip",
        "rl_model_60_steps.zip",
    }
    assert {path.name for path in (tmp_path / "events").iterdir()} == {"event_25_steps.zip", "event_50_steps.zip"}
    assert PWM.load(tmp_path / "best" / "best_model").num_timesteps in (20, 40, 60)
    assert every.num_timesteps == model.num_timesteps == every.n_calls
    # learn() takes lists and functions too, and shows a progress bar
    assert model.learn(20, [Watch(), Watch()], progress_bar=True).num_timesteps == 20
    assert model.learn(20, lambda _locals, _globals: True).num_timesteps == 20


def test_stop_on_reward_threshold_and_on_episodes():
    env = make_vec_env(RandomEnv, 2, seed=0)
    best = StopTrainingOnRewardThreshold(reward_threshold=-1e9)
    callback = EvalCallback(Monitor(RandomEnv()), callback_on_new_best=best, eval_freq=5, n_eval_episodes=1)
    assert make(env).learn(500, callback).num_timesteps == 10
    episodes = StopTrainingOnMaxEpisodes(max_episodes=3)
    assert make(env).learn(500, episodes).num_timesteps == 3 * 12 * 2


# --- logs ---------------------------------------------------------------------------------------------------------


def test_statistics_window():
    model = make(RandomEnv(), stats_window_size=3).learn(80)
    assert model.ep_info_buffer.maxlen == 3
    assert len(model.ep_info_buffer) == 3


def test_a_progress_bar_and_verbose_output(capsys):
    make(RandomEnv(), verbose=1).learn(60, log_interval=1, progress_bar=True)
    out = capsys.readouterr().out
    for name in ("ep_len_mean", "ep_rew_mean", "actor_loss", "world_model_loss", "total_timesteps"):
        assert name in out
    assert re.search(r"Using cpu device", out)


def test_logger_of_every_format(tmp_path):
    model = make(RandomEnv())
    model.set_logger(configure(str(tmp_path), ["csv", "json", "log"]))
    model.learn(60, log_interval=1)
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert np.isfinite(float(rows[-1]["train/actor_loss"]))
    assert [int(row["time/total_timesteps"]) for row in rows] == [12, 24, 36, 48, 60]
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert lines[-1]["train/n_updates"] == model.n_updates - 1  # an episode's end is logged before the update
    assert "critic_loss" in (tmp_path / "log.txt").read_text()


class Hyperparameters(BaseCallback):
    def _on_training_start(self):
        values = HParam({"algorithm": type(self.model).__name__, "gamma": self.model.gamma}, {"rollout/ep_len_mean": 0})
        self.logger.record("hparams", values, exclude=("stdout", "log", "json", "csv"))

    def _on_step(self):
        return True


def test_tensorboard_folders(tmp_path):
    model = make(RandomEnv(), tensorboard_log=str(tmp_path))
    model.learn(30, Hyperparameters(), log_interval=1)
    model.learn(30, log_interval=1, reset_num_timesteps=False)
    assert [path.name for path in tmp_path.iterdir()] == ["PWM_1"]
    log = EventAccumulator(str(tmp_path / "PWM_1")).Reload()
    assert {"rollout/ep_rew_mean", "train/actor_loss", "train/ent_coef"} <= set(log.Tags()["scalars"])
    assert [event.step for event in log.Scalars("rollout/ep_len_mean")] == [12, 24, 36, 48, 60]
    assert "_hparams_/experiment" in log.PluginTagToContent("hparams")
    model.learn(30, tb_log_name="mine")
    model.learn(30, tb_log_name="mine")
    assert {path.name for path in tmp_path.iterdir()} == {"PWM_1", "mine_1", "mine_2"}


# --- wrappers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_reward", [False, True])
def test_updates_see_what_vec_normalize_gives_and_the_buffer_keeps_what_came(norm_reward):
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0), norm_reward=norm_reward, clip_obs=2.0)
    model = PWM("MlpPolicy", env, **SMALL).learn(60)
    raw = model.replay_buffer.observations[:30]
    assert np.abs(raw[..., 2]).max() > 2.0  # larger than clip_obs
    np.testing.assert_allclose(np.square(raw[..., :2]).sum(-1), 1.0, rtol=1e-4)  # cosine and sine are not normalized
    np.random.seed(0)
    batch = model.replay_buffer.sample_sequences(16, 3, env)
    assert batch.observations.abs().max() <= 2.0
    np.random.seed(0)
    plain = model.replay_buffer.sample_sequences(16, 3)
    np.testing.assert_allclose(batch.observations, env.normalize_obs(plain.observations.numpy()), rtol=1e-5, atol=1e-6)
    assert plain.rewards.abs().max() > 1.0
    np.testing.assert_array_equal(batch.rewards, plain.rewards)  # PWM has a scale of rewards of its own
    assert float(model.policy.reward_scale.value) == pytest.approx(plain.rewards.square().mean().sqrt().item(), rel=0.5)


def test_evaluation_environment_gets_the_statistics():
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    evaluation = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), training=False, norm_reward=False)
    env.reset()
    original = env.get_original_obs()
    PWM("MlpPolicy", env, **SMALL).learn(40, EvalCallback(evaluation, eval_freq=20, n_eval_episodes=1, warn=False))
    np.testing.assert_allclose(env.normalize_obs(original), evaluation.normalize_obs(original))


def test_monitors_and_nan_checks():
    env = VecMonitor(VecCheckNan(DummyVecEnv([RandomEnv, RandomEnv]), raise_exception=True))
    model = make(env).learn(60)
    assert len(model.ep_info_buffer) == 4
    assert make(RandomEnv()).get_env().envs[0].get_wrapper_attr("get_episode_rewards")() == []


# --- learning -----------------------------------------------------------------------------------------------------


def test_identity():
    """The best action is the observation. SB3 tests SAC in the same way with 400 steps, too few for some seeds."""
    env = IdentityEnvBox(eps=0.5)
    small = dict(world_model=dict(latent_dim=32, encoder_dim=64, mlp_dim=64), net_arch=[64, 64])
    model = PWM(
        "MlpPolicy", env, gamma=0.95, learning_rate=1e-3, batch_size=64, seed=0, device="cpu", policy_kwargs=small
    ).learn(1_000)
    evaluate_policy(model, env, n_eval_episodes=20, reward_threshold=90, warn=False)
