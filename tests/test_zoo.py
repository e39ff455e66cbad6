"""Stock rl-zoo3 with PWM: its commands, its start-up hook, and the search space."""

import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
import yaml
from moviepy import VideoFileClip
from scripts import run_module_here, run_script_here
from stable_baselines3.common.save_util import load_from_pkl
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_pwm import PWM, latest_checkpoint

TINY_POLICY = (
    "dict(world_model=dict(latent_dim=16,encoder_dim=16,mlp_dim=16),net_arch=dict(pi=[16],vf=[16]),n_critics=2)"
)
# Given on the command line, so that the tests do not depend on the values in pwm.yml
UPDATES = ("batch_size:8", "train_freq:1", "gradient_steps:1", "n_critic_epochs:1")
TINY = (*UPDATES, f"policy_kwargs:{TINY_POLICY}")


def environment(**variables):
    # The package chooses MUJOCO_GL. The plots of rl-zoo3 must not open a window.
    return {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", **variables}


def run(arguments, folder, *, succeeds=True, timeout=180, **variables):
    """Run Python with these arguments in a new process, and return standard output and standard error together."""
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    if succeeds is not None:
        assert (process.returncode == 0) == succeeds, f"exit code {process.returncode}\n{process.stdout}"
    return process.stdout


def run_script(script, folder, *arguments, **options):
    path = Path(folder, "script.py")
    path.write_text(textwrap.dedent(script))
    return run([path, *arguments], folder, **options)


def train(*arguments):
    return ["-m", "rl_zoo3.train", "--algo", "pwm", "--seed", "1", *arguments]


def run_here(arguments, folder):
    """Run ``python -m`` with these arguments in this process, which is faster than :func:`run`."""
    _, module, *rest = arguments
    return run_module_here(module, *rest, folder=folder)


@pytest.fixture(scope="module")
def dog_run(tmp_path_factory):
    """A folder in which ``rl_zoo3.train --algo pwm --env Dog-run`` was run."""
    folder = tmp_path_factory.mktemp("dog_run")
    arguments = ["--env", "Dog-run", "-n", "120", "--eval-freq", "100", "--eval-episodes", "1", "-tb", "tb"]
    arguments += ["--env-kwargs", "max_episode_steps:50"]  # enjoy and record_video read them from the run
    schedule = "critic_learning_rate:'lin_1e-3'"
    parameters = ["-params", "horizon:8", "learning_starts:100", "buffer_size:1000000", schedule, *TINY]
    output = run(train(*arguments, *parameters), folder)
    return folder, output


class TestDogRun:
    """Results of ``rl_zoo3.train --algo pwm --env Dog-run``, and the commands that read them."""

    def test_train_reads_the_packaged_hyperparameters_and_saves_a_model(self, dog_run):
        folder, output = dog_run
        assert "pwm.yml" in output
        assert "Eval num_timesteps=100" in output
        results = folder / "logs/pwm/Dog-run_1"
        models = [PWM.load(results / name, device="cpu") for name in ("Dog-run.zip", "best_model.zip")]
        assert [model.num_timesteps for model in models] == [120, 100]
        assert np.load(results / "evaluations.npz")["timesteps"].tolist() == [100]
        (evaluation,) = EventAccumulator(str(folder / "tb/Dog-run/PWM_1")).Reload().Scalars("eval/mean_reward")
        assert evaluation.step == 100

    def test_parameters_on_the_command_line_override_the_file(self, dog_run):
        folder, _ = dog_run
        config = yaml.load((folder / "logs/pwm/Dog-run_1/Dog-run/config.yml").read_text(), Loader=yaml.UnsafeLoader)
        assert config["horizon"] == 8
        model = PWM.load(folder / "logs/pwm/Dog-run_1/Dog-run.zip", device="cpu")
        assert model.horizon == 8
        # rl-zoo3's notation for linear decay, in an argument that rl-zoo3 does not know
        assert model.critic_lr_schedule(0.5) == pytest.approx(5e-4)

    def test_enjoy_reserves_no_replay_buffer(self, dog_run):
        """The replay buffer of Dog-run has 1.8 GB, and stock enjoy does not ask for a smaller one."""
        if not Path("/proc/self/status").exists():
            pytest.skip("needs /proc/self/status to measure the address space")
        folder, _ = dog_run
        output = run_script(
            """
            import sys
            from pathlib import Path

            import dm_control.suite
            import rl_zoo3.enjoy

            def megabytes(field):
                status = Path("/proc/self/status").read_text()
                return int(status.split(field + ":")[1].split()[0]) // 1024

            sys.argv = ["enjoy", "--algo", "pwm", "--env", "Dog-run", "-f", "logs", "--no-render", "-n", "60"]
            before = megabytes("VmSize")
            rl_zoo3.enjoy.enjoy()
            print("grew by", megabytes("VmPeak") - before)
            """,
            folder,
        )
        assert "Mean reward: " in output
        assert int(output.split("grew by ")[1]) < 900
        model = PWM.load(folder / "logs/pwm/Dog-run_1/Dog-run.zip", device="cpu")
        assert model.buffer_size == 1_000_000

    def test_enjoy_command(self, dog_run):
        folder, _ = dog_run
        arguments = ["--algo", "pwm", "--env", "Dog-run", "-f", "logs", "--no-render", "-n", "110", "--load-best"]
        output = run_here(["-m", "rl_zoo3.enjoy", *arguments], folder)
        assert "best_model" in output
        assert "2 Episodes" in output
        assert "Mean reward: " in output

    def test_record_video(self, dog_run):
        folder, _ = dog_run
        try:
            env = gym.make("Dog-run", render_mode="rgb_array")
            env.reset()
            env.render()
            env.close()
        except RuntimeError as error:
            pytest.skip(f"no headless rendering here: {error}")
        run_here(["-m", "rl_zoo3.record_video", "--algo", "pwm", "--env", "Dog-run", "-f", "logs", "-n", "5"], folder)
        (video,) = (folder / "logs/pwm/Dog-run_1/videos").glob("*.mp4")
        with VideoFileClip(str(video)) as clip:
            pictures = list(clip.iter_frames())
        assert len(pictures) >= 5
        assert all(picture.std() > 5 for picture in pictures)
        assert (pictures[0] != pictures[-1]).any()


def test_resume_continues_with_model_and_replay_buffer(tmp_path):
    arguments, parameters = ["--env", "Pendulum-v1", "--eval-freq", "-1"], ["-params", "learning_starts:100", *UPDATES]
    first = [f"policy_kwargs:{TINY_POLICY}", "buffer_size:500"]
    run_here(train(*arguments, "-n", "120", "--save-replay-buffer", *parameters, *first), tmp_path)
    saved = tmp_path / "logs/pwm/Pendulum-v1_1/Pendulum-v1.zip"
    assert load_from_pkl(saved.with_name("replay_buffer.pkl")).size() == 120
    output = run_here(train(*arguments, "-n", "115", "-i", saved, "-uuid", *parameters), tmp_path)
    assert "Loading pretrained agent" in output
    assert "Loading replay buffer" in output
    (resumed,) = (tmp_path / "logs/pwm").glob("Pendulum-v1_2_*/Pendulum-v1.zip")
    before, after = (PWM.load(path, device="cpu") for path in (saved, resumed))
    assert (before.n_updates, after.n_updates) == (20, 35)


@pytest.mark.parametrize("env", ["Pendulum-pixels", "Pendulum-dict"])
def test_images_and_dictionaries(tmp_path, env):
    tiny = TINY_POLICY.replace("dict(", "dict(features_extractor_kwargs=dict({}),", 1)
    tiny = tiny.replace("{}", "features_dim=8" if env == "Pendulum-pixels" else "cnn_output_dim=8")
    parameters = ["-params", "learning_starts:30", "buffer_size:200", *UPDATES, f"policy_kwargs:{tiny}"]
    output = run_here(train("--env", env, "-n", "45", "--eval-freq", "-1", *parameters), tmp_path)
    assert "pwm.yml" in output
    assert PWM.load(tmp_path / f"logs/pwm/{env}_1/{env}.zip", device="cpu").n_updates == 15
    enjoy = ["--algo", "pwm", "--env", env, "-f", "logs", "-n", "210", "--no-render"]
    assert "Mean reward: " in run_here(["-m", "rl_zoo3.enjoy", *enjoy], tmp_path)


def test_a_killed_run_goes_on_from_what_save_freq_has_kept(tmp_path):
    arguments = ["--env", "Pendulum-v1", "--eval-freq", "-1", "--save-freq", "25"]
    parameters = ["-params", "learning_starts:30", "normalize:True", *TINY]
    # Fewer steps than compile="auto" needs to compile, and more than the run makes before it is killed
    command = [sys.executable, *train(*arguments, "-n", "30000", *parameters)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=log, stderr=log)
        folder, deadline = tmp_path / "logs/pwm/Pendulum-v1_1", time.monotonic() + 120
        while not (folder / "rl_model_100_steps.zip").exists() and time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        process.kill()
        process.wait()
    newest = latest_checkpoint(folder)
    assert newest is not None
    assert newest.steps >= 100
    with pytest.warns(UserWarning, match="it was given the statistics of the saved model"):
        output = run_here(train(*arguments, "-n", "40", "-i", newest.model, *parameters), tmp_path)
    assert "Loading pretrained agent" in output
    statistics = pickle.loads((tmp_path / "logs/pwm/Pendulum-v1_2/Pendulum-v1/vecnormalize.pkl").read_bytes())
    assert statistics.obs_rms.count > newest.steps
    resumed = PWM.load(tmp_path / "logs/pwm/Pendulum-v1_2/Pendulum-v1.zip", device="cpu")
    before = PWM.load(newest.model, device="cpu")
    assert resumed.num_timesteps == 40  # rl-zoo3 counts from 0 again
    assert resumed.n_updates > before.n_updates > 0


def test_rl_zoo3_command_trains_with_subprocess_environments_and_plots(tmp_path, monkeypatch):
    # The console script calls this module. It is not on the PATH of every test runner.
    script = Path(sys.executable).with_name("rl_zoo3")
    command = [script] if script.exists() else ["-m", "rl_zoo3.cli"]
    arguments = ["--algo", "pwm", "--env", "Pendulum-v1", "-n", "420", "--vec-env", "subproc", "--eval-freq", "-1"]
    output = run([*command, "train", *arguments, "-params", "n_envs:2", "learning_starts:400", *TINY], tmp_path)
    assert "Using 2 environments" in output
    assert len(list((tmp_path / "logs/pwm/Pendulum-v1_1").glob("*.monitor.csv"))) == 2
    model = PWM.load(tmp_path / "logs/pwm/Pendulum-v1_1/Pendulum-v1.zip", device="cpu")
    assert model.n_updates == 10
    plots = ["-a", "pwm", "-e", "Pendulum", "-f", "logs", "-w", "1"]
    monkeypatch.setattr(plt, "show", lambda: None)
    run_here(["-m", "rl_zoo3.plots.plot_train", *plots], tmp_path)
    (curve,) = plt.gca().lines
    plt.close("all")
    assert curve.get_xdata().tolist() == [200, 400]  # an episode in each of the two environments
    assert (curve.get_ydata() < 0).all()


def test_environment_ids_are_known_in_worker_processes(tmp_path):
    output = run_script(
        """
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import SubprocVecEnv

        import sb3_pwm

        if __name__ == "__main__":
            for method in ("spawn", "forkserver"):
                start = dict(start_method=method)
                env = make_vec_env("Cartpole-swingup", vec_env_cls=SubprocVecEnv, vec_env_kwargs=start)
                print(method, env.reset().shape)
                env.close()
        """,
        tmp_path,
    )
    assert "spawn (1, 5)" in output
    assert "forkserver (1, 5)" in output


def test_two_workers_tune_one_study(tmp_path):
    database = tmp_path / "study.db"
    arguments = ["--env", "Pendulum-v1", "-n", "205", "-optimize", "--n-trials", "1", "--n-evaluations", "1"]
    study = ["--storage", f"sqlite:///{database}", "--study-name", "pendulum", "--eval-episodes", "1"]
    study += ["--no-optim-plots"]  # the plots open a browser
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, *train(*arguments, *study, "-f", "logs1")]
        worker = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        # Only one process can create the tables of a database, so the second worker waits for the study.
        deadline = time.monotonic() + 90
        while not has_study(database) and worker.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        run_here(train(*arguments, *study, "-f", "logs2"), tmp_path)
        assert worker.wait(timeout=180) == 0, (tmp_path / "log").read_text()

    trials = optuna.load_study(storage=f"sqlite:///{database}", study_name="pendulum").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    for name in ("horizon", "rho", "tau", "learning_rate", "critic_learning_rate", "world_model_learning_rate"):
        assert name in trials[0].params
    for number in (1, 2):
        assert list((tmp_path / f"logs{number}/pwm").glob("report_*.csv"))


def has_study(database):
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return bool(connection.execute("SELECT COUNT(*) FROM studies").fetchone()[0])
    except sqlite3.OperationalError:
        return False


def test_every_sampled_configuration_is_one_that_pwm_accepts():
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    env = gym.make("Pendulum-v1")
    for _ in range(8):
        trial = study.ask()
        sampled = HYPERPARAMS_SAMPLER["pwm"](trial, 1, 1, {})
        model = PWM("MlpPolicy", env, device="cpu", **sampled)
        assert 0.0 < model.gamma < 1.0
        assert model.phase.bc_coef == 0.0  # the sampled weight counts offline only
        # --trial-id converts the values in the database.
        assert HYPERPARAMS_CONVERTER["pwm"](trial.params) == sampled


def test_every_entry_of_the_hyperparameter_file_is_one_that_pwm_accepts():
    from sb3_pwm.zoo import HYPERPARAMS_FILE

    entries = yaml.safe_load(HYPERPARAMS_FILE.read_text())
    zoo_keys = {"n_timesteps", "policy", "n_envs", "normalize", "env_wrapper", "callback", "env_kwargs"}
    assert "default" in entries
    for env_id, entry in entries.items():
        assert env_id == "default" or env_id in gym.registry, env_id
        arguments = {key: value for key, value in entry.items() if key not in zoo_keys}
        if isinstance(arguments.get("policy_kwargs"), str):
            arguments["policy_kwargs"] = eval(arguments["policy_kwargs"], {"dict": dict, "nn": __import__("torch").nn})
        if isinstance(arguments.get("learning_rate"), str):  # rl-zoo3 converts this argument
            arguments["learning_rate"] = float(arguments["learning_rate"].removeprefix("lin_"))
        if isinstance(arguments.get("train_freq"), list):
            arguments["train_freq"] = tuple(arguments["train_freq"])
        seen = {"CnnPolicy": "Pendulum-pixels", "MultiInputPolicy": "Pendulum-dict"}
        PWM(entry["policy"], seen.get(entry["policy"], "Pendulum-v1"), device="cpu", **arguments)


def test_unknown_environment_is_answered_with_the_nearest_id(tmp_path):
    with pytest.raises(ValueError, match="Dog-rum not found in gym registry, you maybe meant Dog-run"):
        run_here(train("--env", "Dog-rum"), tmp_path)


CONTENTS = """
import inspect
import rl_zoo3.exp_manager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS

for registry in (ALGOS, HYPERPARAMS_SAMPLER, HYPERPARAMS_CONVERTER):
    print({name: value.__qualname__ for name, value in registry.items() if name != "pwm"})
manager = rl_zoo3.exp_manager.ExperimentManager
print(inspect.signature(manager.__init__), inspect.signature(manager.read_hyperparameters))
manager = manager(None, "sac", "Pendulum-v1", "logs")
print(manager.config, manager.read_hyperparameters())
"""

REGISTERED = """
import rl_zoo3.exp_manager, rl_zoo3.hyperparams_opt, rl_zoo3.utils
print(rl_zoo3.utils.ALGOS["pwm"], rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER["pwm"])
manager = rl_zoo3.exp_manager.ExperimentManager(None, "pwm", "Pendulum-v1", "logs")
manager.read_hyperparameters()
print(manager.config)
"""


def assert_registered(output):
    assert "sb3_pwm.pwm.pwm.PWM" in output
    assert output.strip().endswith("pwm.yml")


def test_off_switch_stock_algorithms_and_a_late_explicit_import(tmp_path):
    """Without the hook rl-zoo3 has no pwm. The hook changes nothing else. An explicit import adds pwm at any time."""
    script = f"""
import rl_zoo3.train, sys
{CONTENTS}
sys.argv = ["train", "--algo", "pwm"]
try:
    rl_zoo3.train.train()
except SystemExit as error:
    print("exit code", error.code)
import sb3_pwm.zoo
{REGISTERED}
"""
    output = run_script(script, tmp_path, SB3_PWM_ZOO_HOOK="0")
    contents, _, rest = output.partition("usage: ")
    assert "invalid choice: 'pwm'" in rest
    assert "exit code 2" in rest
    assert_registered(output)
    (tmp_path / "contents.py").write_text(CONTENTS)
    assert run_script_here(tmp_path / "contents.py", folder=tmp_path) == contents


def test_explicit_import_before_rl_zoo3(tmp_path):
    script = f"import sb3_pwm.zoo, rl_zoo3.train\n{REGISTERED}"
    assert_registered(run_script(script, tmp_path, SB3_PWM_ZOO_HOOK="0"))


def test_a_hyperparameter_file_of_the_user_goes_first(tmp_path, monkeypatch):
    from rl_zoo3.exp_manager import ExperimentManager

    monkeypatch.chdir(tmp_path)
    Path("own.yml").write_text("Pendulum-v1: {n_timesteps: 7, policy: MlpPolicy}")
    manager = ExperimentManager(None, "pwm", "Pendulum-v1", "logs", config="own.yml")
    assert manager.read_hyperparameters()[0]["n_timesteps"] == 7


def test_extended_modules_look_and_reload_like_any_other(tmp_path):
    output = run_script(
        """
        import importlib, importlib.util, inspect

        spec = importlib.util.find_spec("rl_zoo3.utils")
        import rl_zoo3.utils as utils

        assert type(utils.__loader__).__name__ == type(utils.__spec__.loader).__name__ == "SourceFileLoader"
        assert "ALGOS" in inspect.getsource(utils)
        algos = importlib.reload(utils).ALGOS
        assert algos is utils.ALGOS and "pwm" in algos and "sac" in algos
        print("fine")
        """,
        tmp_path,
    )
    assert output == "fine\n"


def test_rl_zoo3_in_a_zip_file_is_extended_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "zoo.zip", "w") as archive:
        archive.writestr("rl_zoo3/__init__.py", "from rl_zoo3.utils import ALGOS")
        archive.writestr("rl_zoo3/utils.py", "ALGOS = {'sac': object}")
    output = run(
        ["-c", "import rl_zoo3; print(rl_zoo3.__file__, sorted(rl_zoo3.ALGOS))"], tmp_path, PYTHONPATH="zoo.zip"
    )
    assert output.strip().endswith("['pwm', 'sac']")
    assert "zoo.zip" in output


class TestInterpreterStart:
    """The .pth file alone: it imports nothing large, and remains of sb3-pwm never break the start of Python."""

    @pytest.fixture
    def startup_file(self):
        return next(file for folder in sys.path if (file := Path(folder, "sb3_pwm_zoo.pth")).is_file())

    @pytest.fixture
    def site(self, tmp_path, startup_file):
        """A folder with an rl-zoo3 and the .pth file of an sb3-pwm that was removed."""
        shutil.copy(startup_file, tmp_path)
        (tmp_path / "rl_zoo3").mkdir()
        (tmp_path / "rl_zoo3/__init__.py").write_text("")
        (tmp_path / "rl_zoo3/utils.py").write_text("ALGOS = {'sac': object}")
        return tmp_path

    # -S leaves out the real site-packages.
    USE_ZOO = "import site; site.addsitedir('.'); import rl_zoo3.utils; print(sorted(rl_zoo3.utils.ALGOS))"

    def test_imports_nothing_of_weight(self, tmp_path):
        listing = (
            "import sys; print([m for m in ('torch', 'numpy', 'gymnasium', 'sb3_pwm', 'warnings') if m in sys.modules])"
        )
        with_hook, without = (run(["-c", listing], tmp_path, SB3_PWM_ZOO_HOOK=value) for value in "10")
        assert with_hook == without
        assert "torch" not in with_hook

    def test_half_removed_package_is_silent(self, site):
        assert run(["-S", "-c", self.USE_ZOO], site) == "['sac']\n"

    def test_remains_of_a_removed_package_are_silent(self, site):
        (site / "sb3_pwm/zoo/__pycache__").mkdir(parents=True)
        assert run(["-S", "-c", self.USE_ZOO], site) == "['sac']\n"

    def test_broken_package_is_reported_only_to_users_of_rl_zoo3(self, site):
        (site / "sb3_pwm").mkdir()
        (site / "sb3_pwm/__init__.py").write_text("raise RuntimeError('half an upgrade')")
        assert run(["-S", "-c", "import site; site.addsitedir('.'); import json"], site) == ""
        output = run(["-S", "-c", self.USE_ZOO], site)
        assert "rl-zoo3 has no pwm: RuntimeError: half an upgrade" in output
        assert output.endswith("['sac']\n")
