"""What `sb3-pwm describe` says of data sets, good ones and damaged ones."""

import json

import numpy as np
import pytest
from PIL import Image

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
