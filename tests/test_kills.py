"""Training that is killed at any moment goes on from its last checkpoint, with SB3's CheckpointCallback."""

import random
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from sb3_pwm import PWM, latest_checkpoint

MODEL = re.compile(r"run_(\d+)_steps\.zip")

TRAIN = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    from stable_baselines3.common.callbacks import CheckpointCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    from sb3_pwm import PWM, latest_checkpoint

    folder = Path(sys.argv[1])
    checkpoint = latest_checkpoint(folder, "run", save_replay_buffer=True, save_vecnormalize=True)
    env = make_vec_env("Pendulum-v1", seed=0)
    if checkpoint:
        env = VecNormalize.load(checkpoint.vec_normalize, env)
        model = PWM.load(checkpoint.model, env, device="cpu")
        model.load_replay_buffer(checkpoint.replay_buffer)
        assert model.num_timesteps == checkpoint.steps
        n_stored = model.replay_buffer.size()
        print("resumed", checkpoint.steps, n_stored, int(env.obs_rms.count), model.n_updates, flush=True)
    else:
        tiny = dict(world_model=dict(latent_dim=16, encoder_dim=16, mlp_dim=16), net_arch=dict(pi=[16], vf=[16]))
        # compile="auto" would compile for this number of steps, which takes more than a minute.
        model = PWM("MlpPolicy", VecNormalize(env), learning_starts=20, batch_size=8, buffer_size=20_000, seed=0,
                    device="cpu", compile=False, policy_kwargs=tiny)
        print("begun", flush=True)
    # Checkpoints are so frequent that many kills interrupt one.
    callback = CheckpointCallback(5, folder, "run", save_replay_buffer=True, save_vecnormalize=True)
    model.learn(1_000_000, callback, reset_num_timesteps=not checkpoint)
    """
)


def newest_model(folder):
    """Steps of the newest model file. The file may be incomplete: this check must be fast."""
    return max((int(match[1]) for path in folder.iterdir() if (match := MODEL.fullmatch(path.name))), default=0)


def last_steps(folder):
    checkpoint = latest_checkpoint(folder, "run", save_replay_buffer=True, save_vecnormalize=True)
    return checkpoint.steps if checkpoint else 0


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_and_resumed(tmp_path, n_kills):
    rng = random.Random(0)
    last, resumed = 0, []
    for _ in range(n_kills):
        log = tmp_path / "log.txt"
        with log.open("w") as stream:
            process = subprocess.Popen([sys.executable, "-c", TRAIN, str(tmp_path)], stdout=stream, stderr=stream)
            deadline = time.monotonic() + 120
            # Wait for two more checkpoints, so that the first of them is complete. Then kill at a random moment.
            wanted = max(last, 25) + 10
            while newest_model(tmp_path) < wanted and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, 0.5))
            assert process.poll() is None, log.read_text()
            process.send_signal(signal.SIGKILL)
            process.wait()
        if last:
            steps, n_stored, n_seen, n_updates = map(int, log.read_text().split("resumed ")[1].split()[:4])
            assert steps == last  # the newest checkpoint
            # SB3 calls back before it stores the step, so each resume loses one step.
            runs = len(resumed) + 1
            assert n_stored == steps - runs
            assert n_seen >= steps  # counts the observations of resets too
            assert steps - 20 - 2 * runs <= n_updates <= steps - 20
            resumed.append(steps)
        last = last_steps(tmp_path)
        for path in tmp_path.glob("run_*"):  # unfinished files, and all checkpoints but the newest two
            if path.suffix in (".zip", ".pkl") and int(re.findall(r"\d+", path.name)[0]) < last - 5:
                path.unlink()
    assert len(resumed) == n_kills - 1
    assert resumed == sorted(set(resumed))
    model = PWM.load(tmp_path / f"run_{last}_steps.zip", device="cpu")
    assert model.num_timesteps == last
