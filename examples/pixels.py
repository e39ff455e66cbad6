"""
Learn to swing up a pendulum that is seen: from two pictures, or from one picture and the velocity in a Dict.

Prints an evaluation every 500 steps (a random policy scores about -1,200, a solved task about -150) and saves the
model. About four minutes on a CPU.

    python examples/pixels.py [--observations pixels|dict] [--steps 2500] [--out pixels]
"""

import argparse

import gymnasium as gym
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

from sb3_pwm import PWM  # registers Pendulum-pixels and Pendulum-dict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", choices=("pixels", "dict"), default="pixels")
    parser.add_argument("--steps", type=int, default=2_500, help="environment steps to learn for")
    parser.add_argument("--out", default="pixels", help="where to write <out>.zip")
    args = parser.parse_args()

    env_id = f"Pendulum-{args.observations}"
    model = PWM(
        "CnnPolicy" if args.observations == "pixels" else "MultiInputPolicy",
        env_id,
        learning_starts=300,
        buffer_size=50_000,
        optimize_memory_usage=True,  # every picture is stored once
        seed=0,
    )
    evaluation = EvalCallback(Monitor(gym.make(env_id)), eval_freq=min(500, args.steps), n_eval_episodes=10)
    model.learn(args.steps, evaluation, progress_bar=True)
    model.save(args.out)
    print(f"Best evaluation {evaluation.best_mean_reward:.1f}, last {evaluation.last_mean_reward:.1f}: {args.out}.zip")


if __name__ == "__main__":
    main()
