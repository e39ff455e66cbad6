"""Minari data sets as other programs write them."""

import warnings

import gymnasium
import numpy as np
from gymnasium import spaces

ANY = spaces.Box(-np.inf, np.inf, (2,), np.float64)
UNIT = spaces.Box(-1.0, 1.0, (1,))


def steps(n_steps=3, actions=None, observations=None, terminations=(), truncations=(), infos=None):
    """Fields of one episode. Flags are the numbers of the marked steps; by default, the last step is truncated."""
    if not terminations and not truncations:
        truncations = (n_steps - 1,)
    return dict(
        observations=np.arange(2.0 * (n_steps + 1)).reshape(-1, 2) if observations is None else observations,
        actions=np.zeros((n_steps, 1)) if actions is None else np.asarray(actions),
        rewards=np.arange(float(n_steps)),
        terminations=np.isin(np.arange(n_steps), terminations),
        truncations=np.isin(np.arange(n_steps), truncations),
        infos=infos,
    )


def write(dataset_id, *episodes, observation_space=ANY, action_space=UNIT, env=None, **metadata):
    """
    Write a data set into Minari's folder.

    :param env: Id and arguments of the environment, if it has one.
    :param metadata: Metadata to store beside Minari's own.
    :return: Id of the data set.
    """
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari would like an author, an address and a link
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            [EpisodeBuffer(id=number, **episode) for number, episode in enumerate(episodes or (steps(),))],
            env=None if env is None else gymnasium.make(env[0], **env[1]),
            observation_space=observation_space,
            action_space=action_space,
        )
    dataset.storage.update_metadata(metadata)
    return dataset_id
