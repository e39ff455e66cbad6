"""An environment with any observation and action space."""

from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

# Arguments of a policy with very small networks
TINY: dict[str, Any] = dict(world_model=dict(latent_dim=16, encoder_dim=16, mlp_dim=16), net_arch=dict(pi=[8], vf=[8]))
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
ACTIONS = spaces.Box(-2.0, 1.0, (2,), np.float32)


class RandomEnv(gymnasium.Env):
    """Random observations and rewards. Episodes terminate or are truncated after ``length`` steps."""

    def __init__(self, observation_space=VECTOR, action_space=ACTIONS, length=12, terminates=False):
        self.observation_space, self.action_space = deepcopy(observation_space), deepcopy(action_space)
        self.observation_space.seed(0)
        self.length, self.terminates = length, terminates
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype)), action
        self.steps += 1
        ended = self.steps >= self.length
        reward = float(self.np_random.normal())
        return self.observation_space.sample(), reward, ended and self.terminates, ended and not self.terminates, {}


def some(space, n):
    """A batch of ``n`` random observations of a space, the same at each call."""
    space = deepcopy(space)
    space.seed(0)
    if isinstance(space, spaces.Dict):
        return {key: some(entry, n) for key, entry in space.spaces.items()}
    return np.stack([np.asarray(space.sample()) for _ in range(n)])
