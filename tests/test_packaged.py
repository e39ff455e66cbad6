"""World models that come with the package: by name, with their data."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch as th
from scripts import run_script_here
from test_offline import episodes

from sb3_pwm import PWM, OfflineDataset, WorldModel, WorldModelConfig
from sb3_pwm.cli import main
from sb3_pwm.common import packaged

TOOL = Path(__file__).resolve().parents[1] / "tools" / "package_world_model.py"
LIMIT = 12 * 2**20
"""Largest size of a packaged model, in bytes"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A world model of Pendulum-v1, its data, and the folder that the tool makes of both."""
    folder = tmp_path_factory.mktemp("packaged")
    dataset = OfflineDataset.from_episodes(episodes("pendulum-v1", "Pendulum-v1", 9))
    dataset.save(folder / "all")
    th.manual_seed(0)
    sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16, task_dim=4)
    world_model = WorldModel(WorldModelConfig(observation_dim=3, action_dim=1, tasks=("pendulum-v1",), **sizes))
    world_model.count_observations(th.randn(100, 3) * 3 + 1, 0)
    world_model.save(folder / "wm.safetensors")
    arguments = ["--world-model", folder / "wm.safetensors", "--dataset", folder / "all", "--megabytes", 0.005]
    output = run_script_here(TOOL, *arguments, "--out", folder / "pretrained" / "tiny", folder=folder)
    return world_model, dataset, folder / "pretrained", output


@pytest.fixture
def tiny(parts, monkeypatch):
    monkeypatch.setattr(packaged, "FOLDER", parts[2])
    return parts


def test_the_tool_keeps_the_model_and_episodes_from_worst_to_best(tiny):
    world_model, dataset, folder, output = tiny
    kept, all_returns = OfflineDataset.load("tiny").data[0], dataset.data[0].returns
    assert kept.observations.nbytes + kept.actions.nbytes + kept.rewards.nbytes <= 5000
    assert len(kept.lengths) >= 2
    assert (kept.returns.min(), kept.returns.max()) == (all_returns.min(), all_returns.max())
    assert np.isin(kept.returns, all_returns).all()
    assert f"pendulum-v1: {len(kept.lengths)} of {len(all_returns)} episodes" in output
    loaded = WorldModel.load("tiny")
    for name, value in world_model.state_dict().items():
        exact = name.startswith("statistics")
        th.testing.assert_close(loaded.state_dict()[name], value, rtol=0 if exact else 2**-8, atol=0)
    assert WorldModel.from_pretrained(folder / "tiny").config == world_model.config
    assert "| Tasks | 1: pendulum-v1 |" in (folder / "tiny" / "README.md").read_text()


def test_by_name_in_python_and_on_the_command_line(tiny, tmp_path, capsys):
    env = gymnasium.make("Pendulum-v1")
    model = PWM("MlpPolicy", env, world_model="tiny", dataset="tiny", offline=True, device="cpu").learn(3)
    assert model.world_model.config.latent_dim == 16
    arguments = ["--world-model", "tiny", "--dataset", "tiny", "--tasks", "Pendulum-v1", "--out", str(tmp_path)]
    arguments += ["--threads", "2"]
    main(["extract", *arguments, "--seeds", "0", "--updates", "2", "--eval-every", "2", "--eval-episodes", "1"])
    assert th.get_num_threads() == 1  # as before: what follows computes the same numbers
    assert "Pendulum-v1, seed 0: return" in capsys.readouterr().out.replace("pendulum", "Pendulum")
    assert PWM.load(next(tmp_path.glob("*/default-seed0.zip")), device="cpu").n_updates == 2
    main(["describe", "tiny", "--out", str(tmp_path / "table")])


def test_a_folder_of_that_name_comes_first(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    OfflineDataset.from_episodes(episodes("other", "Pendulum-v1", 2)).save("tiny")
    assert OfflineDataset.load("tiny").tasks == ("other",)


def test_unknown_names(tiny):
    with pytest.raises(ValueError, match=r"world_model='giant' is neither .* nor a model of the package \(tiny\)"):
        PWM("MlpPolicy", "Pendulum-v1", world_model="giant")
    with pytest.raises(FileNotFoundError, match="giant"):
        WorldModel.load("giant")
    with pytest.raises(FileNotFoundError, match="giant"):
        OfflineDataset.load("giant")


@pytest.mark.parametrize("name", packaged.packaged_names())
def test_what_comes_with_the_package(name):
    folder = packaged.FOLDER / name
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LIMIT
    world_model, dataset = WorldModel.load(name), OfflineDataset.load(name)
    assert set(dataset.tasks) == set(world_model.config.tasks)
    assert not world_model.tasks_without_statistics
    assert "[More Information Needed]" not in (folder / "README.md").read_text()
    batch = dataset.sample(64, 4, np.random.default_rng(0))
    latents = world_model.encode(batch.observations[0], batch.task)
    predicted = world_model.reward(latents, batch.actions[0], batch.task)
    assert float(((predicted - batch.rewards[0]) ** 2).mean()) < 0.2 * float(batch.rewards[0].var())
