"""Files of world models."""

import pytest
import torch as th
from safetensors import safe_open
from safetensors.torch import save_file

from sb3_pwm import WorldModel, WorldModelConfig
from sb3_pwm.world_model.checkpoint import CONFIG_KEY

CONFIG = WorldModelConfig(
    observation_dim=5, action_dim=2, latent_dim=16, encoder_dim=12, mlp_dim=12, termination=True, tasks=("walk", "run")
)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "new folder" / "model.safetensors"
    model = WorldModel(CONFIG)
    model.save(path)
    return model, path


def test_round_trip(saved):
    model, path = saved
    loaded = WorldModel.load(path)
    assert loaded.config == CONFIG
    observations, actions = th.randn(3, 5), th.rand(3, 2)
    z = model.encode(observations, "run")
    th.testing.assert_close(loaded.encode(observations, "run"), z)
    th.testing.assert_close(loaded.next(z, actions, 1), model.next(z, actions, 1))
    th.testing.assert_close(loaded.reward(z, actions, 1), model.reward(z, actions, 1))
    th.testing.assert_close(loaded.continuation(z, 1), model.continuation(z, 1))
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_truncated_file(saved):
    _, path = saved
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged, or is no safetensors file"):
        WorldModel.load(path)


def test_foreign_files(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": th.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"other.safetensors holds no world model configuration"):
        WorldModel.load(path)
    path.write_bytes(b"a pickle, for all one knows")
    with pytest.raises(ValueError, match=r"is no safetensors file"):
        WorldModel.load(path)
    with pytest.raises(FileNotFoundError, match=r"nothing.safetensors"):
        WorldModel.load(tmp_path / "nothing.safetensors")
    for content, reason in (("{", "that is not JSON"), ("[]", "that is not a dictionary")):
        save_file({"weight": th.zeros(3)}, path, {CONFIG_KEY: content})
        with pytest.raises(ValueError, match=f"holds a world model configuration {reason}"):
            WorldModel.load(path)


def test_a_file_stores_the_names_of_its_tasks(saved):
    _, path = saved
    with pytest.raises(ValueError, match=r"model\.safetensors stores the names of the tasks: leave tasks out"):
        WorldModel.load(path, tasks=["walk", "run"])


def test_tensors_that_do_not_fit_the_configuration(saved, tmp_path):
    model, path = saved
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    tensors = {name: value for name, value in model.state_dict().items() if "encoder" not in name}
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=r"(?s)does not fit its configuration.*encoder"):
        WorldModel.load(path)


def test_failed_save_keeps_the_old_file(saved, monkeypatch):
    model, path = saved
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_file_is_as_readable_as_any_other(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    path = tmp_path / "model.safetensors"
    WorldModel(WorldModelConfig(observation_dim=3, action_dim=1, latent_dim=8)).save(path)
    assert path.stat().st_mode == ordinary.stat().st_mode
