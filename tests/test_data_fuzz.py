"""Data of any source and form is read as its clean form is, or it is refused in a sentence."""

import warnings
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari_sets import write
from random_env import TINY, RandomEnv
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_pwm import PWM, OfflineDataset
from sb3_pwm.data.types import Episode, SourceEpisode

SETTINGS = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SOURCES = ("minari", "minari of an environment", "buffer", "buffer of 2", "arrays", "episodes")
ENDS = ("terminated", "truncated", "both", "none")


class Form(NamedTuple):
    """What data looks like."""

    dtype: str
    """Type of observations and actions"""
    bounds: list
    """Lower and upper bound of each dimension of the actions"""
    episodes: list
    """For each episode its number of steps, its end, and the step within that terminates it too, if any"""
    dictionary: bool
    """Whether observations are a Dict"""
    lists: bool
    """Whether arrays are given as lists"""
    fault: str
    """What is wrong with the data, if anything"""
    seed: int


def forms(fault, longest=5):
    bound = st.sampled_from([(-1, 1), (-2, 2), (-1, 3), (0, 5), (2, 2), (0, 0)])
    episode = st.tuples(
        st.integers(1, longest), st.sampled_from([*ENDS[:3], *ENDS]), st.none() | st.integers(0, longest - 1)
    )
    return st.builds(
        Form,
        st.sampled_from(["float32", "float64", "int64"]),
        st.lists(bound, min_size=1, max_size=2),
        st.lists(episode, min_size=1, max_size=4),
        st.booleans(),
        st.booleans(),
        fault,
        st.integers(0, 2**16),
    )


class Raw(NamedTuple):
    """An episode as an environment has it."""

    observations: np.ndarray
    """The ``Box`` part of the observations, ``(T + 1, 2)``"""
    category: np.ndarray
    """The discrete part, ``(T + 1,)``"""
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


def raw_episodes(form):
    rng = np.random.default_rng(form.seed)
    low, high = np.array(form.bounds, form.dtype).T
    for number, (n_steps, end, within) in enumerate(form.episodes):
        last = np.arange(n_steps) == n_steps - 1
        actions = rng.uniform(low, high, (n_steps, len(low)))
        if form.dtype == "int64":
            actions = np.rint(actions)
        if form.fault == "outside" and number == 0:
            actions[0] = high + 1.0
        rewards = rng.normal(size=n_steps)
        if form.fault == "nan" and number == 0:
            rewards[-1] = np.nan
        yield Raw(
            rng.integers(-50, 50, (n_steps + 1, 2)).astype(form.dtype),
            rng.integers(0, 3, n_steps + 1),
            actions.astype(form.dtype),
            rewards,
            (last & (end in ("terminated", "both"))) | (np.arange(n_steps) == within),
            last & (end in ("truncated", "both")),
        )


def action_space(form):
    low, high = np.array(form.bounds, form.dtype).T
    if form.fault == "no bounds":
        return spaces.Box(-np.inf, np.inf, (len(low),), np.float64)
    return spaces.MultiDiscrete(high - low + 1) if form.fault == "discrete" else spaces.Box(low, high, dtype=form.dtype)


def observation_space(form):
    box = spaces.Box(-100, 100, (2,), form.dtype)
    return spaces.Dict(z=box, a=spaces.Discrete(3)) if form.dictionary else box


def observations_of(form, raw):
    return {"z": raw.observations, "a": raw.category} if form.dictionary else raw.observations


def flat(form, raw):
    return np.concatenate([raw.observations, np.eye(3)[raw.category]], 1) if form.dictionary else raw.observations


def scaled(form, raw):
    low, high = np.array(form.bounds, np.float64).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(high > low, (raw.actions - low) / (high - low) * 2.0 - 1.0, 0.0)


def clean(form, raw, clip=False):
    """The episodes that an episode is, worked out step by step."""
    observations, actions = flat(form, raw).astype(np.float32), scaled(form, raw)
    actions = np.clip(actions, -1.0, 1.0) if clip else actions
    first = 0
    for step in range(len(raw.rewards)):
        if raw.terminations[step] or raw.truncations[step] or step == len(raw.rewards) - 1:
            steps = slice(first, step + 1)
            yield Episode(
                observations[first : step + 2],
                actions[steps].astype(np.float32),
                raw.rewards[steps].astype(np.float32),
                bool(raw.terminations[step]),
            )
            first = step + 1


def has_end(raw):
    return bool(raw.terminations[-1] or raw.truncations[-1])


def given_as(form, values):
    return np.asarray(values).tolist() if form.lists else np.asarray(values)


def from_minari(form, raws, dataset_id, env=None):
    episodes = [
        dict(
            observations=observations_of(form, raw),
            actions=raw.actions,
            rewards=raw.rewards,
            terminations=raw.terminations,
            truncations=raw.truncations,
            infos=None,
        )
        for raw in raws
    ]
    spaces_of = dict(observation_space=observation_space(form), action_space=action_space(form))
    return OfflineDataset.from_minari(write(dataset_id, *episodes, env=env, **spaces_of))


def from_buffer(form, raws, n_envs):
    kind = DictReplayBuffer if form.dictionary else ReplayBuffer
    buffer = kind(400, observation_space(form), action_space(form), device="cpu", n_envs=n_envs)
    columns = [list(transitions(form, raws[env::n_envs])) for env in range(n_envs)]
    for row in range(max(map(len, columns))):
        # The shorter column goes on with an episode that has no end.
        each = [column[row] if row < len(column) else filler(form, row) for column in columns]
        before, after, actions, rewards, dones, infos = zip(*each, strict=True)
        buffer.add(joined(before), joined(after), np.stack(actions), np.array(rewards), np.array(dones), infos)
    return OfflineDataset.from_replay_buffer(buffer)


def transitions(form, raws):
    for raw in raws:
        for step in range(len(raw.rewards)):
            before, after = (row_of(form, raw, at) for at in (step, step + 1))
            truncated = bool(raw.truncations[step] and not raw.terminations[step])
            done = bool(raw.terminations[step] or raw.truncations[step])
            info = {"TimeLimit.truncated": truncated}
            yield before, after, scaled(form, raw)[step], raw.rewards[step], done, info


def row_of(form, raw, step):
    return {"z": raw.observations[step], "a": raw.category[step]} if form.dictionary else raw.observations[step]


def filler(form, row):
    zeros = {"z": np.full(2, row), "a": np.array(0)} if form.dictionary else np.full(2, row)
    return zeros, zeros, np.zeros(len(form.bounds)), 0.0, False, {}


def joined(rows):
    return (
        {key: np.stack([row[key] for row in rows]) for key in rows[0]} if isinstance(rows[0], dict) else np.stack(rows)
    )


def from_arrays(form, raws):
    parts = dict(
        observations=[flat(form, raw)[:-1] for raw in raws],
        next_observations=[flat(form, raw)[1:] for raw in raws],
        actions=[scaled(form, raw) for raw in raws],
        rewards=[raw.rewards for raw in raws],
        terminations=[raw.terminations for raw in raws],
        truncations=[raw.truncations for raw in raws],
    )
    return OfflineDataset.from_arrays(**{name: given_as(form, np.concatenate(part)) for name, part in parts.items()})


def from_episodes(form, raws):
    episodes = []
    for raw in raws:
        for observations, actions, rewards, terminated in clean(form, raw):
            one_dimensional = actions[:, 0] if len(form.bounds) == 1 else actions
            arrays = (observations.astype(form.dtype), one_dimensional, rewards)
            episodes.append(Episode(*(given_as(form, values) for values in arrays), terminated))
    return OfflineDataset.from_episodes([SourceEpisode("task", episode, f"e{n}") for n, episode in enumerate(episodes)])


def read(form, source, dataset_id):
    raws = list(raw_episodes(form))
    if source == "minari":
        return from_minari(form, raws, dataset_id)
    if source == "minari of an environment":
        return from_minari(form, raws, dataset_id, env=("Pendulum-v1", {}))
    if source.startswith("buffer"):
        return from_buffer(form, raws, 2 if source == "buffer of 2" else 1)
    return from_arrays(form, raws) if source == "arrays" else from_episodes(form, raws)


def expected_episodes(form, source):
    """The clean form of the data; None if it must be refused."""
    raws = list(raw_episodes(form))
    if form.fault in ("discrete", "no bounds") and source.startswith(("minari", "buffer")):
        return None
    if source.startswith("buffer") and form.dtype == "int64":
        return None  # SB3 stores scaled actions as integers then
    if source == "arrays" and not all(has_end(raw) for raw in raws[:-1]):
        return None
    if source == "buffer of 2":
        raws = [*raws[::2], *raws[1::2]]
    parts = []
    for raw in raws:
        episodes = list(clean(form, raw, clip=source.startswith("minari")))
        # An episode without an end is not complete in a buffer. The parts before it are.
        parts += episodes[:-1] if source.startswith("buffer") and not has_end(raw) else episodes
    good = all(np.isfinite(part.rewards).all() and np.abs(part.actions).max() <= 1.0001 for part in parts)
    return parts if parts and good else None


def check(form, source, dataset_id):
    expected = expected_episodes(form, source)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            dataset = read(form, source, dataset_id)
        except ValueError as error:
            message = str(error)
            assert expected is None, message
            assert "\n" not in message
            assert message.endswith(".")
            return "refused"
    assert expected is not None, form
    ours = [str(each.message) for each in warned if "outside the bounds" in str(each.message)]
    assert len(ours) == int(form.fault == "outside" and source.startswith("minari"))
    (data,) = dataset.data
    if source == "minari of an environment":
        assert data.name == "pendulum-v1"
    assert data.lengths.tolist() == [len(episode.rewards) for episode in expected]
    assert data.terminated.tolist() == [episode.terminated for episode in expected]
    for number, episode in enumerate(expected):
        for values, right in zip(data.episode(number)[:3], episode[:3], strict=True):
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, right, rtol=1e-6, atol=1e-6)
    return "read"


@pytest.mark.parametrize("source", SOURCES)
def test_data_is_read_as_its_clean_form_or_refused(source, minari_folder):
    outcomes = Counter()

    @settings(max_examples=60, **SETTINGS)
    @given(forms(st.sampled_from([*[""] * 6, "outside", "nan", "discrete", "no bounds"])))
    def run(form):
        outcomes[check(form, source, f"form/{outcomes.total()}-v0")] += 1

    run()
    assert outcomes["read"] >= 0.3 * outcomes.total() > 10, outcomes


@pytest.mark.parametrize("source", SOURCES)
def test_a_model_learns_the_same_from_it(source, minari_folder):
    """Two updates, offline, from the data and from its clean form."""

    def learned(form, dataset):
        env = RandomEnv(observation_space(form), action_space(form))
        env = FlattenObservation(env) if form.dictionary else env
        arguments = dict(batch_size=8, horizon=2, replay_critic_horizon=2, buffer_size=100, seed=0, device="cpu")
        model = PWM("MlpPolicy", env, dataset=dataset, offline=True, policy_kwargs=dict(TINY), **arguments)
        return th.cat([value.float().flatten() for value in model.learn(2).policy.state_dict().values()])

    count = Counter()

    @settings(max_examples=3, **SETTINGS)
    @given(forms(st.just("")))
    def run(form):
        dtype = "float64" if form.dtype == "int64" else form.dtype
        # Enough steps for a sequence
        form = form._replace(dtype=dtype, episodes=[(6, "truncated", None), *form.episodes, (5, "terminated", 2)])
        form = form._replace(episodes=[(n, "both" if end == "none" else end, at) for n, end, at in form.episodes])
        count["examples"] += 1
        dataset = read(form, source, f"learned/{count.total()}-v0")
        expected = OfflineDataset.from_episodes(
            [SourceEpisode("task", episode, f"{n}") for n, episode in enumerate(expected_episodes(form, source))]
        )
        np.testing.assert_allclose(learned(form, dataset), learned(form, expected), rtol=1e-4, atol=1e-5)

    run()
    assert count["examples"] == 3
