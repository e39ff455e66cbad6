"""The model to time, and its two updates as functions."""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import polyak_update
from torch import nn

from sb3_pwm import PWM, SequenceBatch
from sb3_pwm.common.metrics import Metrics

# Humanoid-run's dimensions, in the middle of DMControl's
OBSERVATION_DIM, ACTION_DIM = 67, 21
REPLAY_STEPS = 5_000
ACTIVATIONS = {"mish": nn.Mish, "silu": nn.SiLU}


class Blank(gymnasium.Env):
    """An environment that has spaces and nothing else."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)


def make_model(options: argparse.Namespace) -> PWM:
    """
    :param options: Options of ``speed.py updates``.
    :return: A model of the paper's networks, with a replay buffer full of random steps.
    """
    model = PWM(
        "MlpPolicy",
        Blank(),
        horizon=options.horizon,
        batch_size=options.batch,
        n_critic_epochs=options.n_critic_epochs,
        n_critic_minibatches=options.n_critic_minibatches,
        buffer_size=REPLAY_STEPS,
        ent_coef=0.01,
        seed=0,
        device=options.device,
        compile=options.compile,
        precision=options.precision,
        gradient_checkpointing=options.gradient_checkpointing,
        world_model=dict(size=options.size, normalize_observations=False),  # the reference has plain layers only
        policy_kwargs=dict(
            net_arch=dict(pi=[400, 200, 100], vf=[400, 200]), activation_fn=ACTIVATIONS[options.activation]
        ),
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    rng = np.random.default_rng(0)
    for step in range(REPLAY_STEPS):
        observation, following = rng.normal(size=(2, 1, OBSERVATION_DIM)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, ACTION_DIM)).astype(np.float32)
        ended = np.array([step % 500 == 499])
        infos = [{"TimeLimit.truncated": bool(ended[0])}]
        model.replay_buffer.add(observation, following, action, rng.normal(size=1), ended, infos)
    return model


class Updates:
    """
    The two updates in :meth:`PWM.train` as separate functions, both on one batch.

    :param model: The model.
    :param batch_size: Number of sequences in the batch.
    """

    def __init__(self, model: PWM, batch_size: int):
        self.model = model
        self.batch: SequenceBatch = model.policy.featurize(
            model.replay_buffer.sample_sequences(batch_size, model.horizon)
        )

    def compile(self) -> None:
        """Compile the functions that the model compiles before its first update."""
        self.model._functions.compile(self.model.horizon, self.model.device)

    def world_model(self) -> None:
        """Make a world-model update."""
        self.model._update_world_model(self.batch, self.model.phase, Metrics())

    def extraction(self) -> None:
        """Make an update of actor and critics."""
        model, phase, metrics = self.model, self.model.phase, Metrics()
        imagined = model._update_actor(self.batch, None, phase, metrics)
        model._update_critics(imagined, None, phase, metrics)
        polyak_update(model.critic.parameters(), model.critic_target.parameters(), model.tau)
