"""Extraction from a pretrained world model through stock rl-zoo3: train, enjoy, tune."""

import pickle
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch as th
import yaml
from test_offline import episodes
from test_zoo import TINY, run_here, train

from sb3_pwm import PWM, OfflineDataset, WorldModel, WorldModelConfig

SHORT = ["--env-kwargs", "max_episode_steps:50"]
TASK = "Cheetah-run"  # pwm.yml asks for VecNormalize here, which a pretrained world model refuses


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """A folder with a world model, data and the results of ``rl_zoo3.train -conf``, and the output of this command."""
    folder = tmp_path_factory.mktemp("offline")
    parts = [*episodes("cheetah-run", TASK, 5, 60), *episodes("walker-walk", "Walker-walk", 3, 60)]
    dataset = OfflineDataset.from_episodes(parts)
    dataset.save(folder / "data")
    th.manual_seed(0)
    sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16, task_dim=4)
    dimensions = dict(observation_dim=dataset.observation_dim, action_dim=dataset.action_dim)
    WorldModel(WorldModelConfig(tasks=dataset.tasks, **dimensions, **sizes)).save(folder / "wm.safetensors")
    entry = dict(policy="MlpPolicy", n_timesteps=60, world_model="wm.safetensors", dataset="data", offline=True)
    entry |= dict(batch_size=8, policy_kwargs="dict(net_arch=dict(pi=[16], vf=[16]))")
    (folder / "offline.yml").write_text(yaml.safe_dump({TASK: entry}))
    arguments = ["--env", TASK, "-conf", "offline.yml", "--eval-freq", "20", "--eval-episodes", "1", *SHORT]
    return folder, run_here(train(*arguments), folder)


class TestExtraction:
    """Policies extracted from one world model."""

    def test_train_from_a_configuration_file(self, extracted):
        folder, output = extracted
        assert "Eval num_timesteps=40" in output
        results = folder / "logs/pwm" / f"{TASK}_1"
        assert np.load(results / "evaluations.npz")["timesteps"].tolist() == [20, 40, 60]
        model = PWM.load(results / f"{TASK}.zip", device="cpu")
        assert model.policy.task == "cheetah-run"
        assert model.n_updates == 60
        # Only the evaluations stepped an environment.
        assert len((results / "0.monitor.csv").read_text().splitlines()) == 2

    def test_enjoy_needs_neither_world_model_nor_data(self, extracted):
        folder, _ = extracted
        hidden = [(folder / name, folder / f"{name}.hidden") for name in ("wm.safetensors", "data")]
        for path, away in hidden:
            path.rename(away)
        try:
            arguments = ["--algo", "pwm", "--env", TASK, "-f", "logs", "--no-render", "-n", "60", "--load-best"]
            assert "Mean reward: " in run_here(["-m", "rl_zoo3.enjoy", *arguments], folder)
        finally:
            for path, away in hidden:
                away.rename(path)

    def test_optimize(self, extracted):
        folder, _ = extracted
        study = ["--storage", "sqlite:///study.db", "--study-name", "offline", "--no-optim-plots"]
        arguments = ["--env", TASK, "-conf", "offline.yml", "-n", "40", "-optimize", "--n-trials", "2", *SHORT]
        with pytest.warns(
            UserWarning, match="world_model takes the place of the one in policy_kwargs"
        ):  # a sampled preset
            run_here(train(*arguments, "--n-evaluations", "2", "--eval-episodes", "1", *study), folder)
        trials = optuna.load_study(storage=f"sqlite:///{folder}/study.db", study_name="offline").trials
        assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
        assert {"bc_coef", "bc_temperature", "horizon"} <= set(trials[0].params)
        assert all(np.isfinite(trial.value) for trial in trials)

    def test_the_configuration_file_of_the_repository(self, extracted):
        folder, _ = extracted
        shipped = Path(__file__).resolve().parent.parent / "hyperparams" / "pwm-offline.yml"
        small = ("batch_size:8", "policy_kwargs:dict(net_arch=dict(pi=[16],vf=[16]))")
        arguments = ["--env", "Walker-walk", "-n", "20", "--eval-freq", "-1", "-conf", shipped, "-params", *small]
        run_here(train(*arguments), folder)
        model = PWM.load(folder / "logs/pwm/Walker-walk_1/Walker-walk.zip", device="cpu")
        assert (model.policy.task, model.n_updates) == ("walker-walk", 20)
        assert len(model.world_model.config.tasks) == 7

    def test_parameters_on_the_command_line(self, extracted):
        """With the packaged pwm.yml. A pretrained world model takes observations as they are."""
        folder, _ = extracted
        offline = ("world_model:'wm.safetensors'", "dataset:'data'", "offline:True", "batch_size:8")
        arguments = ["--env", TASK, "-n", "10", "--eval-freq", "-1", "-f", "other", "-params", *offline]
        with pytest.raises(ValueError, match=r"leave VecNormalize out.* .with rl-zoo3: -params normalize:False"):
            run_here(train(*arguments, "normalize:True"), folder)
        run_here(train(*arguments), folder)
        model = PWM.load(folder / "other/pwm" / f"{TASK}_2" / f"{TASK}.zip", device="cpu")
        assert (model.n_updates, model.world_model.config.latent_dim, model.pretrained) == (10, 16, True)

    def test_normalized_observations(self, extracted):
        """With data alone, a VecNormalize takes the statistics of the data, and enjoy and ``-i`` find them."""
        folder, _ = extracted
        small = ("dataset:'data'", "offline:True", "batch_size:8", "normalize:True", *TINY)
        arguments = ["--env", TASK, "-f", "data_alone", *SHORT, "-params", *small]
        with pytest.warns(UserWarning, match="VecNormalize is frozen"):
            run_here(train(*arguments, "-n", "20", "--eval-freq", "10", "--eval-episodes", "1"), folder)
        results = folder / "data_alone/pwm" / f"{TASK}_1"
        statistics = pickle.loads((results / TASK / "vecnormalize.pkl").read_bytes())
        data = OfflineDataset.load(folder / "data").task_data("cheetah-run")
        observations = np.concatenate([data.episode(number).observations[:-1] for number in range(5)])
        np.testing.assert_allclose(statistics.obs_rms.mean, observations.mean(0), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(statistics.obs_rms.var, observations.var(0), rtol=1e-3)
        assert not statistics.training
        # Online learning from there
        online = [part.replace("offline:True", "offline:False") for part in arguments]
        run_here(train(*online, "-n", "20", "--eval-freq", "-1", "-i", results / f"{TASK}.zip"), folder)
        later = pickle.loads((folder / "data_alone/pwm" / f"{TASK}_2" / TASK / "vecnormalize.pkl").read_bytes())
        np.testing.assert_array_equal(later.obs_rms.mean, statistics.obs_rms.mean)
