"""Published scores of online learning: means over seeds at fixed numbers of environment steps."""

from __future__ import annotations

import functools
from pathlib import Path

import pandas as pd

from sb3_pwm.tasks import env_id

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
SCORES = REFERENCE / "online_anchors.csv"
"""Mean, standard deviation and seeds of each method, task and step, and the file that each row is from.
online_anchors_methods.csv, beside it, says what a step means in each method."""

DRAWN = {"TD-MPC2": "tdmpc2", "SimbaV2": "simbaV2_utd2", "SAC": "sac(tdmpc2repo)", "DreamerV3": "dreamerv3(tdmpc2repo)"}
"""Methods that the pictures show, by the name that they show. SAC's scores are those released with TD-MPC2, since the
others have two seeds on Walker-walk."""

DMC21 = tuple(
    env_id(task)
    for task in (
        *("acrobot-swingup", "cup-catch", "cartpole-balance", "cartpole-balance-sparse", "cartpole-swingup"),
        *("cartpole-swingup-sparse", "cheetah-run", "finger-spin", "finger-turn-easy", "finger-turn-hard"),
        *("fish-swim", "hopper-stand", "hopper-hop", "pendulum-swingup", "quadruped-walk", "quadruped-run"),
        *("reacher-easy", "reacher-hard", "walker-stand", "walker-walk", "walker-run"),
    )
)
"""The tasks of DMControl that the field compares on, without dog and humanoid"""


def published_name(env: str) -> str:
    """
    :param env: Environment id.
    :return: Name of the task in the published scores. Gymnasium's MuJoCo tasks were published as version 4.
    """
    if env.endswith("-v5"):
        return f"{env[:-1]}4"
    return "ball-in-cup-catch" if env == "Cup-catch" else env.lower()


@functools.cache
def published_scores() -> pd.DataFrame:
    """:return: The published scores."""
    return pd.read_csv(SCORES)


def published_means(env: str, env_steps: int) -> pd.Series:
    """
    :param env: Environment id.
    :param env_steps: Number of environment steps.
    :return: Published mean returns at this step, by method. Empty if there are none.
    """
    scores = published_scores()
    rows = scores[(scores["task"] == published_name(env)) & (scores["env_steps"] == env_steps)]
    return rows.set_index("method")["mean"]
