"""
Learn to swing up and balance a pendulum, in about two minutes on a CPU.

The script evaluates the policy every 250 steps, and saves the learning curve and the model. The return of a random
policy is about -1,200, that of a solved task about -150.

    python examples/quickstart.py [--env Pendulum-v1] [--steps 2000] [--out quickstart]
"""

import argparse
from pathlib import Path

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_pwm import PWM


class PrintEvaluations(BaseCallback):
    """
    Evaluate the deterministic policy at regular intervals. Print the mean return and keep it.

    :param env: Environment to evaluate in.
    :param every: Number of steps between evaluations.
    """

    def __init__(self, env: gym.Env, every: int):
        super().__init__()
        self.env, self.every = env, every
        self.steps: list[int] = []
        self.scores: list[float] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % self.every == 0:
            score, _ = evaluate_policy(self.model, self.env, n_eval_episodes=10, warn=False)
            self.steps.append(self.num_timesteps)
            self.scores.append(float(score))
            print(f"step {self.num_timesteps:6d}   mean return of 10 episodes {score:9.1f}", flush=True)
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pendulum-v1", help="id of an environment with continuous actions")
    parser.add_argument("--steps", type=int, default=2000, help="number of environment steps")
    parser.add_argument("--out", default="quickstart", help="path of the files without their endings, .png and .zip")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    args = parser.parse_args()

    model = PWM("MlpPolicy", args.env, learning_starts=300, seed=args.seed)
    evaluations = PrintEvaluations(gym.make(args.env), every=min(250, args.steps))
    model.learn(args.steps, callback=evaluations)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    model.save(args.out)
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(evaluations.steps, evaluations.scores, marker="o")
    axes.set(xlabel="environment steps", ylabel="mean return of 10 episodes", title=f"PWM on {args.env}")
    axes.grid(alpha=0.3)
    figure.savefig(f"{args.out}.png", dpi=150)
    print(f"Curve: {args.out}.png   model: {args.out}.zip")


if __name__ == "__main__":
    main()
