"""
Learn to swing up a pendulum from images: from the last two, or from a Dict of the last one and the velocity.

The script evaluates the policy every 500 steps and saves the model. The return of a random policy is about -1,200, that
of a solved task about -150. It takes about four minutes on a CPU.

    python examples/pixels.py [--observations pixels|dict] [--steps 2500] [--out pixels]
"""

import argparse

import gymnasium as gym
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

from sb3_pwm import PWM  # registers Pendulum-pixels and Pendulum-dict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", choices=("pixels", "dict"), default="pixels", help="kind of observations")
    parser.add_argument("--steps", type=int, default=2_500, help="number of environment steps")
    parser.add_argument("--out", default="pixels", help="path of the model without its ending, .zip")
    args = parser.parse_args()

    env_id = f"Pendulum-{args.observations}"
    model = PWM(
        "CnnPolicy" if args.observations == "pixels" else "MultiInputPolicy",
        env_id,
        learning_starts=300,
        buffer_size=50_000,
        optimize_memory_usage=True,  # stores each image once
        seed=0,
    )
    evaluation = EvalCallback(Monitor(gym.make(env_id)), eval_freq=min(500, args.steps), n_eval_episodes=10)
    model.learn(args.steps, evaluation, progress_bar=True)
    model.save(args.out)
    print(f"Best evaluation {evaluation.best_mean_reward:.1f}, last {evaluation.last_mean_reward:.1f}: {args.out}.zip")


if __name__ == "__main__":
    main()
