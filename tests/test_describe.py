"""What `sb3-pwm describe` says of data sets, good ones and damaged ones."""

import json

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from minari_sets import steps, write
from PIL import Image

from sb3_pwm import OfflineDataset
from sb3_pwm.cli import main
from sb3_pwm.collect import collect
from sb3_pwm.collect.behaviors import Behavior
from sb3_pwm.data.readers.minari import find_datasets, open_dataset
from sb3_pwm.describe import describe, table

minari = pytest.importorskip("minari", reason="needs Minari: pip install 'sb3-pwm[minari]'")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    collect(["cup-spin", "walker-stand"], 1_500, folder, [Behavior("random")], namespace="mt30")
    return folder


@pytest.fixture
def copy(data, tmp_path):
    """A data set to damage."""
    folder = tmp_path / "cup-spin-v0"
    (folder / "data").mkdir(parents=True)
    for file in (data / "mt30" / "cup-spin-v0" / "data").iterdir():
        (folder / "data" / file.name).write_bytes(file.read_bytes())
    return folder


def test_command_shows_a_table_and_a_picture(data, tmp_path, capsys):
    main(["describe", str(data), "--out", str(tmp_path / "returns.png")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["mt30/cup-spin-v0", "mt30/walker-stand-v0"]
    episodes = list(open_dataset(data / "mt30" / "walker-stand-v0").iterate_episodes())
    returns = [sum(map(float, episode.rewards)) for episode in episodes]
    expected = [np.mean(returns), np.min(returns), np.quantile(returns, 0.1), np.median(returns)]
    assert lines[2].split()[1:5] == ["24", "6", "3", "1,500"]
    np.testing.assert_allclose([float(word) for word in lines[2].split()[5:9]], expected, atol=0.06)
    assert lines[3].split()[:5] == ["2", "data", "sets", "6", "3,000"]
    # Two histograms, and not of one color
    picture = np.asarray(Image.open(tmp_path / "returns.png").convert("RGB"))
    assert picture.shape[1] > picture.shape[0]
    blue = (picture[..., 2] > 150) & (picture[..., 0] < 80)
    half = picture.shape[1] // 2
    assert blue[:, :half].sum() > 200
    assert blue[:, half:].sum() > 200


def test_success_and_size(tmp_path):
    pytest.importorskip("metaworld", reason="needs Meta-World: pip install 'sb3-pwm[metaworld]'")
    mixture = [Behavior("expert"), Behavior("random", weight=3.0)]
    collect(["mw-drawer-close"], 800, tmp_path, mixture, namespace="mt80")
    (path,) = find_datasets(tmp_path)
    description = describe(path)
    assert description.success.shape == (8,)
    assert description.success.sum() >= 2
    assert description.size == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert f"{description.success.mean():.0%}" in table([description])
    assert description.behaviors == "random (6 episodes), expert (2 episodes)"


@pytest.mark.parametrize(
    ("infos", "expected"),
    [
        ((None, None, None), None),
        (({}, {"other": np.zeros(4)}, None), None),
        (({"success": np.array([0, 0, 1, 0])}, {}, {"success": np.zeros(4)}), [True, False]),
        (({"success": np.array([False, False, True, False])}, None, None), [True]),
        (({"success": {"left": np.ones(4)}}, {"nested": {"success": np.ones(4)}}, None), None),
        (({"success": ["no", "no", "no", "yes"]}, None, {"success": np.ones(4)}), [True]),
    ],
)
def test_infos_that_say_nothing_of_success(minari_folder, infos, expected):
    write("a-v0", *[steps(3, infos=info) for info in infos])
    description = describe(minari_folder / "a-v0")
    assert description.returns.tolist() == [3.0] * 3
    assert description.steps == 9
    assert (None if description.success is None else description.success.tolist()) == expected


def test_dictionaries_and_discrete_actions(minari_folder):
    space = spaces.Dict(a=spaces.Box(-1, 1, (2, 2)), b=spaces.Discrete(3))
    observations = {"a": np.zeros((4, 2, 2)), "b": np.zeros(4, int)}
    episode = steps(3, np.zeros(3, int), observations)
    write("a-v0", episode, observation_space=space, action_space=spaces.Discrete(5))
    description = describe(minari_folder / "a-v0")
    assert (description.observation_dim, description.action_dim, description.steps) == (7, 5, 3)


def test_data_of_other_kinds(minari_folder, tmp_path, capsys):
    write("pick/human-v0")
    chunk = {"obs": th.zeros(4, 6, 39), "action": th.zeros(4, 6, 6), "reward": th.ones(4, 6)}
    chunk = {**chunk, "task": th.tensor([0, 0, 1, 1])[:, None].expand(4, 6).contiguous()}
    th.save(chunk, tmp_path / "chunk_0.pt")
    OfflineDataset.from_tdmpc2(tmp_path / "chunk_0.pt").save(tmp_path / "stored")
    for source in ("chunk_0.pt", "stored"):
        main(["describe", str(tmp_path / source), "pick/human-v0", "--out", str(tmp_path / "returns.png")])
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines[1][:6] == ["walker-stand", "24", "6", "2", "10", "5.0"]
        assert lines[2][:6] == ["walker-walk", "24", "6", "2", "10", "5.0"]
        assert lines[3][:6] == ["pick/human-v0", "2", "1", "1", "3", "3.0"]
        assert lines[4][:5] == ["3", "data", "sets", "5", "23"]


def test_one_data_set_and_unfinished_ones(data, tmp_path):
    assert find_datasets(data / "mt30" / "cup-spin-v0") == [data / "mt30" / "cup-spin-v0"]
    hidden = tmp_path / ".collecting" / "mt30" / "x-v0" / "data"
    hidden.mkdir(parents=True)
    (hidden / "metadata.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="no Minari data set is in or below"):
        find_datasets(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        find_datasets(tmp_path / "nowhere")


def test_truncated_file_is_named(copy, capsys):
    file = copy / "data" / "main_data.hdf5"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(SystemExit) as error:
        main(["describe", str(copy), "--out", str(copy / "returns.png")])
    assert error.value.code == 2
    message = capsys.readouterr().err
    assert str(file) in message
    assert "damaged" in message
    assert not (copy / "returns.png").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.json", b'{"total_epi', r"metadata\.json cannot be read"),
        (
            "metadata.json",
            b'{"name": "another project"}',
            r"metadata\.json is not the metadata of a Minari data set: .*dataset_id",
        ),
        ("metadata.json", None, r"metadata\.json cannot be read"),
        ("main_data.hdf5", b"PK\x03\x04 a zip file", r"main_data\.hdf5 is damaged, or is not the file of a data set"),
        ("main_data.hdf5", None, r"main_data\.hdf5 is damaged, or is not the file of a data set"),
    ],
)
def test_foreign_and_missing_files_are_named(copy, name, content, message):
    file = copy / "data" / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    (path,) = find_datasets(copy)
    with pytest.raises(ValueError, match=message):
        describe(path)


def test_metadata_and_episodes_that_disagree_are_refused(copy):
    file = copy / "data" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "total_episodes": 7}))
    with pytest.raises(ValueError, match=r"holds 3 episodes, but its metadata\.json says 7"):
        describe(copy)


def test_a_reward_that_is_no_number_is_named(copy):
    import h5py

    with h5py.File(copy / "data" / "main_data.hdf5", "r+") as content:
        content["episode_1/rewards"][17] = np.nan
    with pytest.raises(ValueError, match=r"reward of step 17 of episode 1 of .*cup-spin-v0 is nan"):
        describe(copy)


def test_an_episode_that_is_missing_a_part_is_named(copy):
    import h5py

    with h5py.File(copy / "data" / "main_data.hdf5", "r+") as content:
        del content["episode_2/actions"]
    with pytest.raises(ValueError, match=r"Episode 2 of .*cup-spin-v0 cannot be read"):
        describe(copy)
