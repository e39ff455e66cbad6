"""
Resume a run that was killed, from its last checkpoint: model, replay buffer and statistics of the observations.

Interrupt the script at any moment, with Ctrl-C or with SIGKILL, and give the same command again.

    python examples/resume.py [--env Pendulum-v1] [--steps 3000] [--every 500] [--out checkpoints]
"""

import argparse

from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm import PWM, latest_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1", help="id of an environment with continuous actions")
    parser.add_argument("--steps", type=int, default=3_000, help="total number of environment steps")
    parser.add_argument("--every", type=int, default=500, help="number of steps between checkpoints")
    parser.add_argument("--out", default="checkpoints", help="folder of the checkpoints")
    args = parser.parse_args()

    kept = dict(save_replay_buffer=True, save_vecnormalize=True)
    env = make_vec_env(args.env, seed=0)
    checkpoint = latest_checkpoint(args.out, **kept)
    if checkpoint is None:
        model = PWM("MlpPolicy", VecNormalize(env, norm_reward=False), learning_starts=300, seed=0)
        print("A new run")
    else:
        env = VecNormalize.load(str(checkpoint.vec_normalize), env)
        model = PWM.load(checkpoint.model, env)
        model.load_replay_buffer(checkpoint.replay_buffer)
        print(f"Going on after step {checkpoint.steps}, with {model.replay_buffer.size()} steps to replay")
    if model.num_timesteps < args.steps:
        # With reset_num_timesteps=False, learn() takes the number of further steps.
        left = args.steps - model.num_timesteps
        callback = CheckpointCallback(args.every, args.out, **kept)
        model.learn(left, callback, reset_num_timesteps=False, progress_bar=True)
    print(f"{model.num_timesteps} steps, {model.n_updates} updates")


if __name__ == "__main__":
    main()
