"""Offline data sets: sampling, storage, sources, and bad data."""

import json
import os
import shutil
import sys
import types
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch as th
from minari_sets import steps, write
from random_env import TINY, RandomEnv
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl

from sb3_pwm import PWM, OfflineDataset
from sb3_pwm.data.readers.minari import read_metadata
from sb3_pwm.data.readers.minari_tasks import task_names
from sb3_pwm.data.types import Episode, SourceEpisode


def numbered(n_steps, first=0.0, observation_dim=2, action_dim=1, terminated=False):
    """An episode whose observations and rewards tell the number of the step, ``first + t``."""
    steps = first + np.arange(n_steps + 1, dtype=np.float32)
    observations = np.repeat(steps[:, None], observation_dim, axis=1)
    actions = np.repeat(steps[:-1, None] / 1e4, action_dim, axis=1)
    return Episode(observations, actions, steps[:-1] + 0.5, terminated)


def make(*episodes, storage=None):
    """A data set of pairs of task and episode."""
    return OfflineDataset.from_episodes(
        [SourceEpisode(task, episode, f"episode {n}") for n, (task, episode) in enumerate(episodes)], storage
    )


@pytest.fixture
def two_tasks():
    return make(
        ("walk", numbered(10, 0, 3, 2)),
        ("reach", numbered(4, 100, 2, 1, terminated=True)),
        ("walk", numbered(6, 200, 3, 2, terminated=True)),
        ("reach", numbered(2, 300, 2, 1)),
    )


# --- Sampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
def test_a_sequence_is_consecutive_steps_of_one_episode(two_tasks, tmp_path, stored):
    dataset = two_tasks
    if stored:
        dataset.save(tmp_path / "data")
        dataset = OfflineDataset.load(tmp_path / "data")
    assert (dataset.tasks, dataset.n_episodes, dataset.n_steps) == (("walk", "reach"), 4, 22)
    assert (dataset.observation_dim, dataset.action_dim) == (3, 2)
    batch = dataset.sample(500, 3, np.random.default_rng(0))
    assert batch.observations.shape == (4, 500, 3)
    assert batch.actions.shape == (3, 500, 2)
    observations, actions, rewards, terminations, mask = (part.numpy() for part in batch[:5])
    starts = observations[0, :, 0]
    assert set(starts) == {*range(8), 100, 101, *range(200, 204), 300}  # all sequences, and no others
    number = (starts // 100).astype(int)
    end = np.array([10, 104, 206, 302])[number]  # the last observation of the episode
    task = np.array([0, 1, 0, 1])[number]
    assert batch.task.tolist() == task.tolist()
    steps = starts + np.arange(4)[:, None]
    counts = steps[:-1] < end
    np.testing.assert_array_equal(mask, counts)
    np.testing.assert_array_equal(observations[..., 0], np.minimum(steps, end))  # the last one is repeated
    np.testing.assert_array_equal(rewards[counts], steps[:-1][counts] + 0.5)
    np.testing.assert_allclose(actions[..., 0][counts], steps[:-1][counts] / 1e4)
    terminated = np.array([False, True, True, False])[number] & (steps[:-1] == end - 1)
    np.testing.assert_array_equal(terminations[counts], terminated[counts])
    # The smaller task is padded with zeros.
    np.testing.assert_array_equal(observations[..., 2], np.where(task == 0, observations[..., 0], 0.0))
    np.testing.assert_array_equal(actions[..., 1], np.where(task == 0, actions[..., 0], 0.0))
    assert all(np.isfinite(part).all() for part in (observations, actions, rewards, terminations))


def test_sequences_are_uniform_or_tasks_are(two_tasks):
    rng = np.random.default_rng(0)
    by_size = two_tasks.sample(20_000, 3, rng)
    starts, counts = np.unique(by_size.observations[0, :, 0].numpy(), return_counts=True)
    assert len(starts) == 15
    assert np.abs(counts / 20_000 - 1 / 15).max() < 0.01
    by_task = two_tasks.sample(20_000, 3, rng, balance="task")
    assert float(by_task.task.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_ends_of_episodes_are_sampled_more_often_on_request():
    dataset = make(
        ("walk", numbered(100, 0, terminated=True)), ("walk", numbered(100, 200)),
        ("walk", numbered(5, 400, terminated=True)), ("swim", numbered(10, 600)),
    )  # fmt: skip
    batch = dataset.sample(40_000, 3, np.random.default_rng(0), "task", ends_fraction=0.5)
    starts = batch.observations[0, :, 0].numpy()
    counts = dict(zip(*np.unique(starts, return_counts=True), strict=True))
    assert sum(n for start, n in counts.items() if start >= 600) == pytest.approx(20_000, rel=0.05)
    assert set(counts) == {*range(100), *range(200, 298), *range(400, 405), *range(600, 608)}
    # Half of walk's 20,000 sequences are of all 98 + 98 + 3 starts. The other half is of both episodes that terminated:
    # each of the last 16 steps is as often the first, and the short episode has its first step for those it lacks.
    assert counts[50.0] == pytest.approx(10_000 / 199, rel=0.5)
    for start in (84.0, 90.0, 99.0, 404.0):
        assert counts[start] == pytest.approx(5_000 / 16 + 10_000 / 199 * (start not in (99.0, 404.0)), rel=0.2)
    assert counts[400.0] == pytest.approx(5_000 * 12 / 16 + 10_000 / 199, rel=0.1)
    extra = starts[batch.representative.numpy() == 0.0]
    assert len(extra) == pytest.approx(10_000, rel=0.05)
    assert set(extra) == {*range(84, 100), *range(400, 405)}
    assert dataset.sample(4, 3, np.random.default_rng(0)).representative is None
    last = starts == 99.0
    np.testing.assert_array_equal(batch.terminations[:, last].numpy().T, np.tile([1.0, 0.0, 0.0], (last.sum(), 1)))
    np.testing.assert_array_equal(batch.mask[:, last].numpy().T, np.tile([1.0, 0.0, 0.0], (last.sum(), 1)))
    with pytest.raises(ValueError, match="ends_fraction"):
        dataset.sample(4, 3, np.random.default_rng(0), ends_fraction=1.5)


def test_the_generator_decides_the_batch(two_tasks):
    first, again, other = (two_tasks.sample(8, 2, np.random.default_rng(seed)) for seed in (3, 3, 4))
    for one, two in zip(first[:5], again[:5], strict=True):
        assert th.equal(one, two)
    assert not th.equal(first.observations, other.observations)


def test_bad_arguments(two_tasks):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got 0"):
        two_tasks.sample(0, 3, rng)
    with pytest.raises(ValueError, match=r"horizon must be an integer of at least 1, got 2\.5"):
        two_tasks.sample(3, 2.5, rng)
    with pytest.raises(ValueError, match=r'balance must be "size" or "task", got \'episodes\''):
        two_tasks.sample(3, 3, rng, balance="episodes")
    with pytest.raises(ValueError, match="no task 'run'; its tasks are walk, reach"):
        two_tasks.task_data("run")
    with pytest.raises(ValueError, match="at least one task"):
        OfflineDataset([])
    with pytest.raises(ValueError, match="The tasks of a data set must be distinct, got walk, walk"):
        OfflineDataset([two_tasks.data[0]] * 2)
    with pytest.raises(ValueError, match="has no episode of walk"):
        OfflineDataset([two_tasks.data[0].subset(np.array([], np.int64))])


def test_split_is_by_episode_and_within_each_task():
    dataset = make(*[(task, numbered(3, 100 * n)) for n in range(20) for task in ("walk", "reach")])
    kept, held_out = dataset.split(0.25, seed=1)
    assert [len(task.lengths) for task in (*kept.data, *held_out.data)] == [15, 15, 5, 5]
    for k, h in zip(kept.data, held_out.data, strict=True):
        firsts = [{int(task.observations[row, 0]) for row in task.first} for task in (k, h)]
        assert firsts[0] | firsts[1] == {100 * n for n in range(20)}
        assert not firsts[0] & firsts[1]
    again = dataset.split(0.25, seed=1)[1]
    assert all((a.first == b.first).all() for a, b in zip(again.data, held_out.data, strict=True))
    with pytest.raises(ValueError, match="walk has a single episode"):
        make(("walk", numbered(3))).split()
    with pytest.raises(ValueError, match=r"validation_fraction must be a number above 0 and below 1, got 1\.0"):
        dataset.split(1.0)


def test_select(two_tasks):
    reach = two_tasks.select(["reach"])
    assert (reach.tasks, reach.n_steps, reach.observation_dim) == (("reach",), 6, 2)


# --- Storage --------------------------------------------------------------------------------------------------------


def test_stored_data_is_mapped_and_the_same(two_tasks, tmp_path):
    two_tasks.save(tmp_path / "data")
    opened = OfflineDataset.load(tmp_path / "data")
    assert not opened.data[0].observations.flags.owndata  # the memory belongs to the mapped file
    assert not opened.data[0].observations.flags.writeable
    for here, there in zip(two_tasks.data, opened.data, strict=True):
        for number in range(len(here.lengths)):
            for one, other in zip(here.episode(number), there.episode(number), strict=True):
                np.testing.assert_array_equal(one, other)
    rewards = [two_tasks.data[0].episode(number).rewards for number in range(len(two_tasks.data[0].lengths))]
    assert opened.data[0].returns.tolist() == pytest.approx([float(sum(part)) for part in rewards])
    copied = opened.in_memory()
    for mapped, copy in zip(opened.data, copied.data, strict=True):
        assert copy.observations.flags.owndata
        np.testing.assert_array_equal(copy.observations, mapped.observations)
        assert copy.episode(0).terminated == mapped.episode(0).terminated
    with pytest.raises(FileExistsError, match="is not empty"):
        two_tasks.save(tmp_path / "data")


def test_damaged_and_foreign_storage_is_named(two_tasks, tmp_path):
    two_tasks.save(tmp_path / "data")
    file = tmp_path / "data" / "001-actions.f32"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"001-actions\.f32 is missing or cut short: it has 28 of 32 bytes"):
        OfflineDataset.load(tmp_path / "data")
    index = tmp_path / "data" / "index.json"
    for content, message in (("{", "is damaged"), ('{"format": "zarr", "tasks": []}', "has the format 'zarr'")):
        index.write_text(content)
        with pytest.raises(ValueError, match=message):
            OfflineDataset.load(tmp_path / "data")


def test_an_interrupted_conversion_leaves_no_data_set(tmp_path):
    def episodes():
        yield SourceEpisode("walk", numbered(5), "episode 0")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OfflineDataset.from_episodes(episodes(), tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="no data set"):
        OfflineDataset.load(tmp_path / "data")


def test_a_stored_data_set_knows_its_sources(minari_folder, tmp_path):
    a, b = write("a-v0"), write("b-v0", steps(2))
    st = tmp_path / "stored"
    first = OfflineDataset.load([a, b], st)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The same data, also in another order and by its path
        for sources in ([a, b], [minari_folder / "b-v0", a], [minari_folder]):
            again = OfflineDataset.load(sources, st)
            assert (again.tasks, again.n_steps) == (first.tasks, first.n_steps)
    c = write("c-v0")
    with pytest.raises(ValueError, match=r"stored was made of other data, it also holds b-v0: give another folder"):
        OfflineDataset.load(a, st)
    with pytest.raises(ValueError, match=r"other data, it also holds b-v0; it lacks c-v0: give another"):
        OfflineDataset.load([a, c], st)
    with pytest.raises(
        ValueError, match=r"nothing-v0 does not exist, and .*stored was not made of it, but of a-v0, b-v0"
    ):
        OfflineDataset.load([a, "nothing-v0"], st)
    # Data that has been deleted since is known by its name; data that has changed is another.
    shutil.move(minari_folder / "b-v0", tmp_path / "b-v0")
    assert OfflineDataset.load([a, b], st).n_steps == first.n_steps
    write("b-v0", steps(2, actions=[[0.5], [0.5]]))
    with pytest.raises(ValueError, match=r"it holds a former state of b-v0: give another folder .* or delete this one"):
        OfflineDataset.load([a, b], st)
    shutil.rmtree(st)  # the remedy
    assert OfflineDataset.load([a, b], st).task_data("b").actions[0] == 0.5
    assert (
        OfflineDataset.from_minari(c, tmp_path / "direct").n_steps
        == OfflineDataset.load(c, tmp_path / "direct").n_steps
    )


def test_a_data_set_stored_from_tdmpc2_knows_its_files(tmp_path):
    (tmp_path / "chunks").mkdir()
    chunk = tmp_path / "chunks" / "chunk_0.pt"
    th.save(td_content(), chunk)
    for sources in (chunk, tmp_path / "chunks"):
        shutil.rmtree(tmp_path / "st", ignore_errors=True)
        data = OfflineDataset.from_tdmpc2(sources, storage=tmp_path / "st")
        assert OfflineDataset.load(chunk, tmp_path / "st").tasks == data.tasks
    content = td_content()
    content["reward"][1, 3] = 0.25
    th.save(content, chunk)
    with pytest.raises(ValueError, match=r"a former state of chunk_0\.pt"):
        OfflineDataset.load(chunk, tmp_path / "st")


def test_stored_data_of_older_versions(two_tasks, tmp_path):
    """Their index says neither what the data was made of, nor that its actions were checked."""
    two_tasks.save(tmp_path / "data")
    index = json.loads((tmp_path / "data" / "index.json").read_text())
    assert index.pop("checked") is True
    assert index.pop("sources") is None
    (tmp_path / "data" / "index.json").write_text(json.dumps(index))
    assert OfflineDataset.load(tmp_path / "data").n_steps == two_tasks.n_steps
    with pytest.warns(UserWarning, match="data does not say what it was made of, and is used as it is"):
        assert OfflineDataset.load("a-v0", tmp_path / "data").n_steps == two_tasks.n_steps
    file = tmp_path / "data" / "001-actions.f32"
    actions = np.fromfile(file, np.float32)
    actions[3] = -1.5
    actions.tofile(file)
    with pytest.raises(
        ValueError, match=r"actions in .*001-actions\.f32 must lie in \[-1, 1\], got 1\.5: make the data"
    ):
        OfflineDataset.load(tmp_path / "data")


# --- Sources --------------------------------------------------------------------------------------------------------


def test_load_tells_what_is_missing_and_what_does_not_go_together(two_tasks, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere"):
        OfflineDataset.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"it has no index\.json, and no Minari data set is in or below it\.$"):
        OfflineDataset.load(tmp_path)
    chunk = tmp_path / "chunk_0.pt"
    th.save(td_content(), chunk)
    assert OfflineDataset.load(chunk).tasks == OfflineDataset.from_tdmpc2(chunk).tasks
    with pytest.raises(FileNotFoundError, match=r"no index\.json.* For its TD-MPC2 files, give the \.pt files"):
        OfflineDataset.load(tmp_path)
    two_tasks.save(tmp_path / "data")
    assert OfflineDataset.load([tmp_path / "data"]).tasks == ("walk", "reach")
    with pytest.raises(ValueError, match="data is a stored data set, which cannot be loaded with other data"):
        OfflineDataset.load([chunk, tmp_path / "data"])
    with pytest.raises(ValueError, match=r"chunk_0\.pt is a file of TD-MPC2, which cannot be loaded with other data"):
        OfflineDataset.load([chunk, "mt30/walker-walk-v0"])


def arrays(*episodes):
    """Arguments of ``from_arrays`` for these episodes."""
    last = np.cumsum([len(episode.rewards) for episode in episodes]) - 1
    terminated = np.array([episode.terminated for episode in episodes])
    ends = {name: np.zeros(last[-1] + 1, bool) for name in ("terminations", "truncations")}
    ends["terminations"][last[terminated]] = ends["truncations"][last[~terminated]] = True
    return dict(
        observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        next_observations=np.concatenate([episode.observations[1:] for episode in episodes]),
        **ends,
    )


def assert_episodes_are(task, episodes):
    assert len(task.lengths) == len(episodes)
    for number, expected in enumerate(episodes):
        for actual, values in zip(task.episode(number), expected, strict=True):
            np.testing.assert_array_equal(actual, values)


EPISODES = (numbered(5, 0), numbered(1, 100, terminated=True), numbered(3, 200, terminated=True), numbered(4, 300))


def test_from_arrays(tmp_path):
    flat = arrays(*EPISODES)
    for storage in (None, tmp_path / "data"):
        dataset = OfflineDataset.from_arrays(**flat, task="walk", storage=storage)
        assert_episodes_are(dataset.task_data("walk"), EPISODES)
    assert_episodes_are(OfflineDataset.load(tmp_path / "data").task_data("walk"), EPISODES)
    # D4RL has flags as numbers, lists are arrays, and a recording can stop within an episode, which is truncated then.
    flat["truncations"][-1] = False
    flat = {name: (1.0 * values).tolist() for name, values in flat.items()}
    dataset = OfflineDataset.from_arrays(**flat)
    assert dataset.tasks == ("task",)
    assert_episodes_are(dataset.data[0], EPISODES)
    # A step that both arrays mark is a termination.
    flat["truncations"][5] = 1.0
    assert_episodes_are(OfflineDataset.from_arrays(**flat).data[0], EPISODES)


def test_from_arrays_without_next_observations():
    """Each episode is one step shorter, and an episode of one step has none left."""
    flat = arrays(numbered(5, 0), numbered(1, 100), numbered(3, 200))
    del flat["next_observations"]
    expected = [numbered(4, 0), numbered(2, 200)]
    assert_episodes_are(OfflineDataset.from_arrays(**flat).data[0], expected)
    flat["truncations"][:] = False
    episode = OfflineDataset.from_arrays(**flat).data[0].episode(0)
    np.testing.assert_array_equal(episode.observations, flat["observations"])
    assert not episode.terminated


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(observations=np.zeros((13, 2, 2))), r"observations must have the shape .*, got \(13, 2, 2\)"),
        (dict(rewards=np.zeros((13, 2))), r"rewards must have the shape \(steps,\), got \(13, 2\)"),
        (dict(actions=np.zeros((12, 1))), "actions has 12 rows, observations has 13: give one per step"),
        (dict(truncations=np.zeros(14)), "truncations has 14 rows, observations has 13"),
        (dict(truncations=np.arange(13)), "truncations must hold True and False, or 1 and 0"),
        (dict(actions=np.full((13, 1), -2.0)), r"steps 0 to 4 must lie in \[-1, 1\], got 2 at step 0: scale"),
        (dict(next_observations=np.zeros((13, 3))), r"next_observations has the shape \(13, 3\), observations has"),
        (dict(next_observations=None), "Step 5 terminates an episode.*: give next_observations"),
        (dict(truncations=np.zeros(13)), "The next observation of step 4 is not the observation of step 5"),
        (dict(rewards=np.full(13, np.inf)), "The rewards of the episode of steps 0 to 4 are NaN or infinite at step 0"),
    ],
)  # fmt: skip
def test_bad_arrays_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        OfflineDataset.from_arrays(**{**arrays(*EPISODES), **changes})


def test_an_observation_in_arrays_that_is_not_a_number_is_named():
    flat = arrays(*EPISODES)
    flat["observations"][3] = flat["next_observations"][2] = np.nan
    with pytest.raises(
        ValueError, match="The observations of the episode of steps 0 to 4 are NaN or infinite at step 3"
    ):
        OfflineDataset.from_arrays(**flat)


def test_arrays_without_an_episode_are_refused():
    for n_steps in (0, 1):
        flat = {name: values[:n_steps] for name, values in arrays(*EPISODES).items()}
        with pytest.raises(ValueError, match="The arrays hold no episode"):
            OfflineDataset.from_arrays(**{**flat, "next_observations": None})


def test_from_minari(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="needs Minari: pip install 'sb3-pwm[minari]'")
    from sb3_pwm.collect import collect
    from sb3_pwm.collect.behaviors import Behavior

    collect(["cup-spin", "walker-stand"], 1_000, tmp_path, [Behavior("random")], namespace="mt30")
    dataset = OfflineDataset.from_minari(tmp_path)
    assert dataset.tasks == ("cup-spin", "walker-stand")
    assert (dataset.n_episodes, dataset.n_steps) == (4, 2_000)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    expected = list(minari.load_dataset("mt30/cup-spin-v0").iterate_episodes())
    by_id = OfflineDataset.from_minari("mt30/cup-spin-v0", storage=tmp_path / "storage")
    for number, episode in enumerate(expected):
        read = by_id.task_data("cup-spin").episode(number)
        np.testing.assert_array_equal(read.observations, episode.observations)
        np.testing.assert_array_equal(read.actions, episode.actions)
        np.testing.assert_array_equal(read.rewards, episode.rewards.astype(np.float32))
        assert read.terminated is False
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        OfflineDataset.from_minari("mt30/nothing-v0")


def test_minari_actions_are_scaled_and_terminations_kept(minari_folder):
    """A data set of another program: another action range, another name."""
    space = gymnasium.spaces.Box(-2.0, 2.0, (1,))
    write("others/pendulum-v0", steps(2, [[-2.0], [1.0]], terminations=(1,)), action_space=space)
    episode = OfflineDataset.from_minari("others/pendulum-v0").task_data("pendulum").episode(0)
    assert episode.actions.tolist() == [[-1.0], [0.5]]
    assert episode.terminated is True


def test_minari_actions_with_equal_bounds(minari_folder):
    """There is nothing to choose, and the scaled action is zero."""
    space = gymnasium.spaces.Box(np.array([-2.0, 0.5, 0.0]), np.array([2.0, 0.5, 3e38]), dtype=np.float64)
    write("a-v0", steps(2, [[1.0, 0.5, 1.5e38], [2.0, 0.5, 0.0]]), action_space=space)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        episode = OfflineDataset.from_minari("a-v0").data[0].episode(0)
    np.testing.assert_allclose(episode.actions, [[0.5, 0.0, 0.0], [1.0, 0.0, -1.0]])
    write("b-v0", steps(1, [[1.0, np.nan, 0.0]]), action_space=space)
    with pytest.raises(ValueError, match=r"actions of episode 0 of .*b-v0 are NaN or infinite at step 0"):
        OfflineDataset.from_minari("b-v0")


def test_minari_actions_outside_their_bounds_are_clipped(minari_folder):
    space = gymnasium.spaces.Box(-2.0, np.array([4.0, -2.0], np.float32))
    actions = [[4.5, -2.0], [1.0, -1.75], [-2.0 - 1e-6, -2.0], [-2.0, -2.0]]
    write("a-v0", steps(4, actions), steps(1, [[-3.0, -3.0]]), action_space=space)
    with pytest.warns(UserWarning, match="actions of .*a-v0 lie outside") as warned:
        data = OfflineDataset.from_minari("a-v0").data[0]
    assert len(warned) == 1
    assert "3 of 5 actions" in str(warned[0].message)
    assert "by up to 1: they were clipped" in str(warned[0].message)
    np.testing.assert_allclose(data.episode(0).actions, [[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], atol=1e-7)
    assert data.episode(1).actions.tolist() == [[-1.0, 0.0]]
    write("b-v0", steps(1, [[np.inf, -2.0]]), action_space=space)
    with pytest.raises(ValueError, match=r"actions of episode 0 of .*b-v0 are NaN or infinite"):
        OfflineDataset.from_minari("b-v0")


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (gymnasium.spaces.Discrete(2), [0, 1, 1], r"of Discrete\(2\), but PWM learns continuous"),
        (gymnasium.spaces.MultiBinary(1), np.ones((3, 1), np.int8), r"of MultiBinary\(1\), but PWM"),
        (gymnasium.spaces.Box(-1.0, np.inf, (1,)), np.ones((3, 1)), r"without bounds.*OfflineDataset\.from_arrays"),
    ],
)
def test_minari_actions_that_cannot_be_scaled_are_refused(minari_folder, space, actions, message):
    write("a-v0", steps(3, actions), action_space=space)
    with pytest.raises(ValueError, match=f"a-v0 has actions {message}"):
        OfflineDataset.from_minari("a-v0")


def test_minari_tasks_have_different_names(minari_folder):
    pick = write("pick/human-v0"), write("pick/human-v1"), write("D4RL/pick/expert-v0")
    # Short names where they are clear; versions are one task, and levels are not if no environment says so.
    assert OfflineDataset.from_minari(pick).tasks == ("human", "expert")
    place = write("place/human-v0"), write("D4RL/place/expert-v0"), write("other/place/expert-v0")
    assert OfflineDataset.from_minari([pick[0], place[0]]).tasks == ("pick/human", "place/human")
    assert OfflineDataset.from_minari([place[0], pick[0], pick[1]]).tasks == ("place/human", "pick/human")
    assert OfflineDataset.from_minari([pick[2], *place[1:]]).tasks == (
        "pick/expert",
        "D4RL/place/expert",
        "other/place/expert",
    )
    # A name that another program has stored is kept.
    named = write("some/set-v0", task="human")
    assert OfflineDataset.from_minari([named, pick[0]]).tasks == ("human", "pick/human")


def test_minari_environments_and_their_arguments_are_tasks(minari_folder):
    space = gymnasium.spaces.Box(-2.0, 2.0, (1,))

    def written(name, **kwargs):
        return write(name, action_space=space, env=("Pendulum-v1", kwargs))

    earth, pictures = written("pen/human-v0"), written("pen/expert-v0", render_mode="rgb_array")
    moon, mars = written("moon/human-v0", g=1.6), written("mars/human-v0", g=3.7)
    also_moon = written("moon/expert-v0", g=1.6)
    # The environment says that the levels are one task. How its pictures are drawn makes no other task.
    assert OfflineDataset.from_minari([earth, pictures]).tasks == ("pendulum-v1",)
    assert OfflineDataset.from_minari(moon).tasks == ("pendulum-v1",)
    data = OfflineDataset.from_minari([earth, moon, mars, also_moon])
    assert data.tasks == ("pendulum-v1", "pendulum-v1(g=1.6)", "pendulum-v1(g=3.7)")
    assert [len(task.lengths) for task in data.data] == [1, 2, 1]


def test_minari_environments_with_long_arguments(minari_folder):
    space = gymnasium.spaces.Box(-2.0, 2.0, (1,))
    mazes = [write(f"maze/{name}-v0", action_space=space, task=None) for name in ("small", "large")]
    for name, dataset_id in zip(("small", "large"), mazes, strict=True):
        file = minari_folder / dataset_id / "data" / "metadata.json"
        spec = json.dumps({"id": "Maze-v0", "kwargs": {"maze_map": [[name] * 9] * 9}})
        file.write_text(json.dumps({**json.loads(file.read_text()), "env_spec": spec}))
    names = task_names([read_metadata(minari_folder / dataset_id) for dataset_id in mazes])
    assert names == ["maze-v0(maze/small)", "maze-v0(maze/large)"]


DICT = gymnasium.spaces.Dict(  # keywords keep their order, which is not that of the alphabet
    position=gymnasium.spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    goal=gymnasium.spaces.Dict(
        {"seen": gymnasium.spaces.MultiBinary(2), "place": gymnasium.spaces.Discrete(3, start=1)}
    ),
    mode=gymnasium.spaces.MultiDiscrete([2, 3]),
)


def dictionaries(n):
    """Observations of ``DICT``: as an array each, and flattened one by one."""
    DICT.seed(0)
    each = [DICT.sample() for _ in range(n)]
    stacked = dict(
        position=np.stack([one["position"] for one in each]),
        goal={key: np.stack([one["goal"][key] for one in each]) for key in ("seen", "place")},
        mode=np.stack([one["mode"] for one in each]),
    )
    return stacked, np.stack([gymnasium.spaces.flatten(DICT, one) for one in each]).astype(np.float32)


def test_minari_dictionaries_are_flattened_as_the_wrapper_does(minari_folder):
    observations, expected = dictionaries(4)
    write("a-v0", steps(3, observations=observations), observation_space=DICT)
    data = OfflineDataset.from_minari("a-v0")
    np.testing.assert_array_equal(data.data[0].episode(0).observations, expected)
    env = gymnasium.wrappers.FlattenObservation(RandomEnv(DICT, gymnasium.spaces.Box(-1.0, 1.0, (1,))))
    model = PWM("MlpPolicy", env, policy_kwargs=TINY, buffer_size=20)
    model.add_dataset(data)
    np.testing.assert_array_equal(model.replay_buffer.observations[:3, 0], expected[:3])


def test_replay_buffers_of_dictionaries_are_flattened():
    space = gymnasium.spaces.Dict(b=gymnasium.spaces.Box(-1, 1, (2,)), a=gymnasium.spaces.Discrete(3))
    buffer = DictReplayBuffer(10, space, gymnasium.spaces.Box(-2.0, 2.0, (1,)), device="cpu")
    flat = []
    for step in range(4):
        observations = [{"b": np.full((1, 2), each / 10), "a": np.array([each % 3])} for each in (step, step + 1)]
        buffer.add(*observations, np.full((1, 1), 0.5), np.zeros(1), np.array([step == 3]), [{}])
        flat.append(gymnasium.spaces.flatten(space, {"b": np.full(2, step / 10), "a": step % 3}))
    episode = OfflineDataset.from_replay_buffer(buffer).data[0].episode(0)
    np.testing.assert_allclose(episode.observations[:4], flat)


def test_one_hot_data_needs_the_wrapper(minari_folder):
    space = gymnasium.spaces.Discrete(4)
    write("a-v0", steps(3, observations=np.array([0, 3, 1, 2])), observation_space=space)
    data, env = OfflineDataset.from_minari("a-v0"), RandomEnv(space, gymnasium.spaces.Box(-1.0, 1.0, (1,)))
    np.testing.assert_array_equal(data.data[0].observations, np.eye(4)[[0, 3, 1, 2]])
    with pytest.raises(ValueError, match=r"observations of 4 .* environment of 1 and 1: .*FlattenObservation"):
        PWM("MlpPolicy", env, policy_kwargs=TINY, buffer_size=20).add_dataset(data)
    wrapped = gymnasium.wrappers.FlattenObservation(env)  # the remedy
    PWM("MlpPolicy", wrapped, policy_kwargs=TINY, buffer_size=20).add_dataset(data)


def test_minari_images_are_refused(minari_folder):
    pixels = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    write("a-v0", steps(3, observations=images), observation_space=pixels)
    with pytest.raises(ValueError, match=r"a-v0 has images of \(8, 8, 3\).*FilterObservation"):
        OfflineDataset.from_minari("a-v0")
    space = gymnasium.spaces.Dict(image=pixels, vector=gymnasium.spaces.Box(-1, 1, (2,)))
    write("b-v0", steps(3, observations={"image": images, "vector": np.ones((4, 2))}), observation_space=space)
    with pytest.raises(ValueError, match="b-v0 has images of"):
        OfflineDataset.from_minari("b-v0")
    # The remedy
    kept = gymnasium.wrappers.FilterObservation(RandomEnv(space), ["vector"])
    write("c-v0", steps(3, observations={"vector": np.ones((4, 2))}), observation_space=kept.observation_space)
    assert OfflineDataset.from_minari("c-v0").observation_dim == 2


def test_minari_data_sets_that_are_not_there_are_named_with_the_command(minari_folder):
    with pytest.raises(FileNotFoundError, match=r"There is no folder D4RL/pen/human-v2.*`minari download D4RL/pen/h"):
        OfflineDataset.from_minari("D4RL/pen/human-v2")
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere\.$"):
        OfflineDataset.from_minari(minari_folder / "nowhere")


def test_minari_episodes_end_where_they_terminate(minari_folder):
    write("a-v0", steps(6, terminations=(1,), truncations=(3, 5)), steps(2, terminations=(1,), truncations=(1,)))
    data = OfflineDataset.from_minari("a-v0").data[0]
    assert data.lengths.tolist() == [2, 2, 2, 2]
    # A step with both flags is a termination.
    assert data.terminated.tolist() == [True, False, False, True]
    assert data.episode(0).observations[:, 0].tolist() == [0.0, 2.0, 4.0]
    assert data.episode(1).observations[:, 0].tolist() == [4.0, 6.0, 8.0]
    assert data.episode(1).rewards.tolist() == [2.0, 3.0]


def test_from_replay_buffer(tmp_path):
    env = gymnasium.make("Pendulum-v1")
    buffer = ReplayBuffer(50, env.observation_space, env.action_space, device="cpu")
    for step in range(12):
        observation = np.full((1, 3), step, np.float32)
        info = {"TimeLimit.truncated": step == 8}
        done = np.array([step in (4, 8)])
        buffer.add(observation, observation + 1, np.full((1, 1), 0.1), np.array([float(step)]), done, [info])
    save_to_pkl(tmp_path / "buffer.pkl", buffer)
    for source in (buffer, tmp_path / "buffer.pkl"):
        data = OfflineDataset.from_replay_buffer(source, "pendulum").task_data("pendulum")
        assert data.lengths.tolist() == [5, 4]  # the episode of the last three steps is not complete
        assert data.terminated.tolist() == [True, False]
        assert data.episode(1).observations[:, 0].tolist() == [5.0, 6.0, 7.0, 8.0, 9.0]
    with pytest.raises(ValueError, match="the replay buffer holds 0 steps and no complete episode"):
        OfflineDataset.from_replay_buffer(ReplayBuffer(5, env.observation_space, env.action_space))


def filled_buffer(n_steps, reward=0.0):
    """A replay buffer of Pendulum-v1's spaces with one episode."""
    env = gymnasium.make("Pendulum-v1")
    buffer = ReplayBuffer(n_steps + 1, env.observation_space, env.action_space)
    for t in range(n_steps):
        observations = np.full((2, 1, 3), [[[t]], [[t + 1]]], np.float32)
        buffer.add(*observations, np.zeros((1, 1)), np.array([reward]), np.array([t == n_steps - 1]), [{}])
    return buffer


@pytest.mark.parametrize(
    ("source", "task"),
    [
        ("hopper.pkl", "hopper"),
        ("Hopper-v5=old/run_2.pkl", "Hopper-v5"),
        ("Hopper-v5=lr=0.1/buffer.pkl", "Hopper-v5"),
        ("./lr=0.1/buffer.pkl", "buffer"),
        ("buffer=2.pkl", "buffer=2"),
        ("logs/sac/Hopper-v5_1/replay_buffer.pkl", "Hopper-v5"),
        ("logs/sac/Hopper-v5_1/rl_model_replay_buffer_10000_steps.pkl", "Hopper-v5"),
        ("runs/my_env/replay_buffer.pkl", "my_env"),
    ],
)
def test_replay_buffers_are_loaded_by_the_name_of_their_task(source, task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path(source.removeprefix("Hopper-v5="))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_to_pkl(file, filled_buffer(5))
    for each in (source, [source], Path(source), [Path(source)]):
        assert OfflineDataset.load(each).tasks == (task,)


def test_several_replay_buffers_are_loaded_and_stored(two_tasks, tmp_path):
    files = [tmp_path / name for name in ("swing.pkl", "other.pkl", "more.pkl")]
    for number, file in enumerate(files):
        save_to_pkl(file, filled_buffer(5 + number, float(number)))
    sources = [files[0], f"lift={files[1]}", f"swing={files[2]}"]
    for _ in range(2):  # the second time from the storage
        data = OfflineDataset.load(sources, storage=tmp_path / "st")
        assert data.tasks == ("swing", "lift")
        assert data.task_data("swing").lengths.tolist() == [5, 7]
        assert data.task_data("lift").returns.tolist() == [6.0]
    with pytest.raises(
        ValueError, match=r"made of other data, it also holds lift=other\.pkl; it lacks swing=other\.pkl"
    ):
        OfflineDataset.load([files[0], f"swing={files[1]}", f"swing={files[2]}"], storage=tmp_path / "st")
    files[1].unlink()
    assert OfflineDataset.load(sources, storage=tmp_path / "st").tasks == ("swing", "lift")
    with pytest.raises(FileNotFoundError, match=r"There is no replay buffer .*other\.pkl"):
        OfflineDataset.load(sources)
    with pytest.raises(FileNotFoundError, match=r"There is no replay buffer .*other\.pkl"):
        OfflineDataset.load(sources, storage=tmp_path / "new")
    with pytest.raises(ValueError, match=r"swing\.pkl is a replay buffer, which cannot be loaded with other data"):
        OfflineDataset.load([files[0], "mt30/walker-walk-v0"])
    two_tasks.save(tmp_path / "data")
    with pytest.raises(ValueError, match="data is a stored data set, which cannot be loaded with other data"):
        OfflineDataset.load([files[0], tmp_path / "data"])


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(2),
        gymnasium.spaces.MultiDiscrete([2, 3]),
        gymnasium.spaces.MultiBinary(2),
        gymnasium.spaces.Box(-np.inf, np.inf, (1,)),
        gymnasium.spaces.Box(0.0, np.inf, (1,)),
    ],
)
def test_replay_buffers_of_other_actions_are_refused(space, tmp_path):
    buffer = ReplayBuffer(10, gymnasium.spaces.Box(-1, 1, (3,)), space, device="cpu")
    for step in range(4):
        row = np.full((1, 3), step / 10), np.full((1, 3), (step + 1) / 10)
        buffer.add(*row, space.sample(), np.zeros(1), np.array([step == 3]), [{}])
    save_to_pkl(tmp_path / "buffer.pkl", buffer)
    message = "without bounds.*from_arrays" if isinstance(space, gymnasium.spaces.Box) else "PWM learns continuous"
    for source, name in ((buffer, "the replay buffer"), (tmp_path / "buffer.pkl", "buffer.pkl")):
        with pytest.raises(ValueError, match=f"{name} has actions .*{message}"):
            OfflineDataset.from_replay_buffer(source)


def test_the_buffer_of_a_dqn_is_refused():
    dqn = DQN("MlpPolicy", "CartPole-v1", buffer_size=300, learning_starts=1_000, device="cpu").learn(250)
    with pytest.raises(ValueError, match=r"the replay buffer has actions of Discrete\(2\), but PWM learns continuous"):
        OfflineDataset.from_replay_buffer(dqn.replay_buffer)


def test_unscaled_actions_of_a_replay_buffer_are_refused():
    """SB3 stores scaled actions. A buffer that another program has filled may hold those of the environment."""
    buffer = ReplayBuffer(10, gymnasium.spaces.Box(-1, 1, (1,)), gymnasium.spaces.Box(-2, 2, (1,)), device="cpu")
    for step, action in enumerate((0.5, 1.0 + 1e-5, 1.8)):
        row = np.full((1, 1), step / 10), np.full((1, 1), (step + 1) / 10)
        buffer.add(*row, np.full((1, 1), action), np.zeros(1), np.array([True]), [{}])
    with pytest.raises(ValueError, match=r"episode 2 of the replay buffer must lie in \[-1, 1\], got 1\.8 at step 0"):
        OfflineDataset.from_replay_buffer(buffer)
    buffer.actions /= 2  # the remedy
    actions = np.concatenate([task.actions for task in OfflineDataset.from_replay_buffer(buffer).data])
    np.testing.assert_allclose(actions[[0, 2, 4], 0], [0.25, 0.5, 0.9], atol=1e-5)


@pytest.mark.parametrize("kind", [ReplayBuffer, NStepReplayBuffer])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_replay_buffers_of_several_environments_and_other_types(kind, dtype):
    """The rewards are those of one step, whatever the buffer samples."""
    spaces = gymnasium.spaces.Box(-9, 9, (1,), dtype), gymnasium.spaces.Box(-2, 2, (1,), dtype)
    buffer = kind(40, *spaces, device="cpu", n_envs=2)
    for step in range(12):
        observation = np.array([[step / 7], [-step / 7]])
        after = np.array([[(step + 1) / 7], [-(step + 1) / 7]])
        infos = [{}, {"TimeLimit.truncated": step == 8}]
        done = np.array([step == 4, step == 8])
        buffer.add(observation, after, np.array([[0.1], [-0.2]]), np.array([step, 2.0 * step]), done, infos)
    data = OfflineDataset.from_replay_buffer(buffer).data[0]
    assert (data.lengths.tolist(), data.terminated.tolist()) == ([5, 9], [True, False])
    np.testing.assert_allclose(data.episode(1).observations[:, 0], -np.arange(10) / 7, rtol=1e-6)
    np.testing.assert_allclose(data.episode(1).rewards, 2.0 * np.arange(9))
    assert data.observations.dtype == data.actions.dtype == np.float32


def td_file(path, content, monkeypatch, module="tensordict._td"):
    """Write a file as tensordict does, without tensordict."""

    class TensorDict:
        def __init__(self, content):
            self.content = content

        def __reduce__(self):
            return sys.modules["tensordict._reductions"]._make_td, (TensorDict, {"_tensordict": self.content})

    def _make_td(cls, state):
        raise AssertionError("executed")

    TensorDict.__module__, TensorDict.__qualname__ = module, "TensorDict"
    _make_td.__module__, _make_td.__qualname__ = "tensordict._reductions", "_make_td"
    modules = {"tensordict": {}, module: {"TensorDict": TensorDict}, "tensordict._reductions": {"_make_td": _make_td}}
    with monkeypatch.context() as context:
        for name, members in modules.items():
            fake = types.ModuleType(name)
            fake.__dict__.update(members)
            context.setitem(sys.modules, name, fake)
        th.save(TensorDict(content), path)
    return path


def td_content(n_episodes=3, n_rows=6, observation_dim=39, action_dim=6):
    generator = th.Generator().manual_seed(0)
    content = {
        "obs": th.randn(n_episodes, n_rows, observation_dim, generator=generator),
        "action": th.rand(n_episodes, n_rows, action_dim, generator=generator) * 2 - 1,
        "reward": th.rand(n_episodes, n_rows, generator=generator),
        "task": th.arange(n_episodes)[:, None].expand(n_episodes, n_rows).contiguous().int(),
    }
    content["action"][:, 0] = content["reward"][:, 0] = th.nan
    return content


@pytest.mark.parametrize("with_tensordict", [True, False])
def test_from_tdmpc2(tmp_path, monkeypatch, with_tensordict):
    content = td_content()
    path = tmp_path / "chunk_0.pt"
    if with_tensordict:
        td_file(path, content, monkeypatch)
    else:
        th.save(content, path)
    dataset = OfflineDataset.from_tdmpc2(path, tasks=("a", "b", "c"))
    assert dataset.tasks == ("a", "b", "c")
    for number, task in enumerate(dataset.tasks):
        episode = dataset.task_data(task).episode(0)
        np.testing.assert_array_equal(episode.observations, content["obs"][number])
        np.testing.assert_array_equal(episode.actions, content["action"][number, 1:])
        np.testing.assert_array_equal(episode.rewards, content["reward"][number, 1:])
        assert not episode.terminated


@pytest.mark.parametrize("padding", [0.0, th.nan])
@pytest.mark.parametrize("column", [False, True])
def test_terminations_of_tdmpc2(tmp_path, padding, column):
    """Row t says whether the step to observation t terminated the episode. What follows a termination is padding."""
    content = td_content()
    content["terminated"] = th.zeros(3, 6)
    content["terminated"][:, 0] = th.nan
    content["terminated"][0, 5] = 1.0  # in the last row
    content["terminated"][1, 3] = 1.0  # the third step
    for name in ("obs", "action", "reward"):
        content[name][1, 4:] = padding
    if column:
        content["terminated"] = content["terminated"].unsqueeze(-1)
    th.save(content, tmp_path / "chunk_0.pt")
    dataset = OfflineDataset.from_tdmpc2(tmp_path / "chunk_0.pt", tasks=("a", "b", "c"))
    assert [task.terminated.tolist() for task in dataset.data] == [[True], [True], [False]]
    assert [task.lengths.tolist() for task in dataset.data] == [[5], [3], [5]]
    assert dataset.has_terminations
    episode = dataset.task_data("b").episode(0)
    np.testing.assert_array_equal(episode.observations, content["obs"][1, :4])
    np.testing.assert_array_equal(episode.actions, content["action"][1, 1:4])
    np.testing.assert_array_equal(episode.rewards, content["reward"][1, 1:4])
    batch = dataset.sample(200, 1, np.random.default_rng(0))
    assert set(batch.rewards[batch.terminations > 0].tolist()) == {
        float(content["reward"][0, 5]), float(content["reward"][1, 3])
    }  # fmt: skip


def test_padding_of_tdmpc2_is_removed(tmp_path):
    content = td_content()
    content["obs"][..., 24:] = 0.0  # walker-stand, walker-walk and walker-run, the first three
    content["action"][:, 1:, 6:] = 0.0
    th.save(content, tmp_path / "chunk_0.pt")
    dataset = OfflineDataset.from_tdmpc2(tmp_path)
    assert dataset.tasks == ("walker-stand", "walker-walk", "walker-run")
    assert (dataset.observation_dim, dataset.action_dim) == (24, 6)


def test_bad_tdmpc2_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "chunk_0.pt"
    content = td_content()
    content["reward"][1, 3] = th.nan
    th.save(content, path)
    with pytest.raises(ValueError, match=r"rewards of episode 1 of .*chunk_0\.pt are NaN or infinite at step 2"):
        OfflineDataset.from_tdmpc2(path, tasks=("a", "b", "c"))
    th.save(td_content(), path)
    with pytest.raises(ValueError, match=r"episode 2 of .* has the task numbers \[2\]: .*task names \(2\)"):
        OfflineDataset.from_tdmpc2(path, tasks=("a", "b"))
    late = {**td_content(), "terminated": th.zeros(3, 6)}
    late["terminated"][1, 3] = 1.0
    th.save(late, path)
    with pytest.raises(
        ValueError, match=r"episode 1 of .* terminates in row 3 of 6, and rewards follow: split it there"
    ):
        OfflineDataset.from_tdmpc2(path, tasks=("a", "b", "c"))
    th.save({**td_content(), "terminated": th.zeros(3)}, path)
    with pytest.raises(ValueError, match="terminated must have a value for each row"):
        OfflineDataset.from_tdmpc2(path, tasks=("a", "b", "c"))
    content = td_content()
    content["action"][1, 2, 0] = -1.5
    th.save(content, path)
    with pytest.raises(ValueError, match=r"actions of episode 1 of .* must lie in \[-1, 1\], got 1\.5 at step 1"):
        OfflineDataset.from_tdmpc2(path, tasks=("a", "b", "c"))
    th.save({"obs": th.zeros(2, 3, 4)}, path)
    with pytest.raises(ValueError, match="must hold the tensors obs, action, reward, task"):
        OfflineDataset.from_tdmpc2(path)
    th.save({**td_content(), "reward": th.zeros(3, 5)}, path)
    with pytest.raises(ValueError, match="its tensors have the shapes"):
        OfflineDataset.from_tdmpc2(path)
    with pytest.raises(FileNotFoundError, match=r"chunk_9\.pt"):
        OfflineDataset.from_tdmpc2(tmp_path / "chunk_9.pt")

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    td_file(path, {**td_content(), "extra": Payload()}, monkeypatch)
    with pytest.raises(ValueError, match="holds more than plain tensors, and was not read"):
        OfflineDataset.from_tdmpc2(path)
    assert not (tmp_path / "harm").exists()


def test_parity_with_tdmpc2s_own_chunk():
    """A file that TD-MPC2 has written. It is not part of this repository."""
    folder = os.environ.get("SB3_PWM_REFERENCE_FILES")
    if not folder:
        pytest.skip("needs files of TD-MPC2: set SB3_PWM_REFERENCE_FILES to their folder")
    expected = np.load(Path(folder) / "tdmpc2_dataset_chunk.expected.npz")
    names = ("a", "b", "c")
    dataset = OfflineDataset.from_tdmpc2(Path(folder) / "tdmpc2_dataset_chunk.pt", tasks=names)
    counts = dict.fromkeys(names, 0)
    for row, number in enumerate(expected["task"]):
        task = names[number]
        episode = dataset.task_data(task).episode(counts[task])
        counts[task] += 1
        np.testing.assert_array_equal(episode.observations, expected["obs"][row])
        np.testing.assert_array_equal(episode.actions, expected["action"][row, 1:])
        np.testing.assert_array_equal(episode.rewards, expected["reward"][row, 1:])


# --- Bad episodes ---------------------------------------------------------------------------------------------------


def test_bad_episodes_are_named():
    good = numbered(4)
    with pytest.raises(ValueError, match="observations of 3 and actions of 1 numbers; earlier episodes of walk have 2"):
        make(("walk", good), ("walk", numbered(4, observation_dim=3)))
    with pytest.raises(ValueError, match="episode 0 is empty"):
        make(("walk", numbered(0)))
    with pytest.raises(ValueError, match="one observation more"):
        make(("walk", good._replace(observations=good.observations[:-1])))
    with pytest.raises(ValueError, match="from_episodes takes SourceEpisode"):
        OfflineDataset.from_episodes([good])
    for name, at in (("observations", 4), ("actions", 2), ("rewards", 0)):
        values = getattr(good, name).copy()
        values[at] = np.inf
        with pytest.raises(ValueError, match=f"The {name} of episode 0 are NaN or infinite at step {at}"):
            make(("walk", good._replace(**{name: values})))


def test_episodes_are_converted():
    """Lists, other types, one number per step, and actions that rounding has moved beyond the bounds."""
    expected = Episode(
        np.array([[0.0], [1.0], [2.0]], np.float32),
        np.array([[1.0], [-1.0]], np.float32),
        np.array([3.0, 4.0], np.float32),
        True,
    )
    for episode in (
        Episode([0, 1, 2], [1, -1], [3, 4], True),
        Episode([[0], [1], [2]], [[1], [-1]], [[3], [4]], np.bool_(True)),
        Episode(np.arange(3.0), np.array([1.00005, -1.00005]), np.array([3, 4], np.int8), np.array(1.0)),
        Episode([[0.0], [1.0], [2.0]], (1, -1), th.tensor([3.0, 4.0]), 1),
    ):
        data = make(("walk", episode)).data[0]
        assert_episodes_are(data, [expected])
        assert data.observations.dtype == data.actions.dtype == data.rewards.dtype == np.float32
        assert data.episode(0).terminated is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(observations=np.zeros((5, 8, 8, 3))),
            r"observations of episode 0 must have the shape .*, got \(5, 8, 8, 3",
        ),
        (
            dict(observations=[[0, 0], [1], [2, 2], [3, 3], [4, 4]]),
            "observations of episode 0 .* the same number of val",
        ),
        (dict(observations=np.full((5, 2), 1e300)), "observations of episode 0 are NaN or infinite at step 0"),
        (dict(actions=np.zeros((4, 0))), r"actions of episode 0 must have the shape .*, got \(4, 0\)"),
        (dict(actions=[None] * 4), "actions of episode 0 must be numbers, got values of the type object"),
        (
            dict(actions=np.full((4, 1), 2.0)),
            r"actions of episode 0 must lie in \[-1, 1\], got 2 at step 0: scale them",
        ),
        (dict(rewards=1.0), r"rewards of episode 0 must have the shape \(steps,\), got \(\)"),
        (dict(rewards=np.zeros((4, 2))), r"rewards of episode 0 must have the shape \(steps,\), got \(4, 2\)"),
        (dict(terminated=np.zeros(4, bool)), r"terminated of episode 0 must be True or False.*another episode"),
    ],
)
def test_episodes_that_cannot_be_converted_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(("walk", numbered(4)._replace(**changes)))
