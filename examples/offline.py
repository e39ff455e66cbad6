"""
One world model for two tasks, from what earlier SB3 runs have left behind, and a policy for each task from it.

Trains SB3's SAC on two tasks for a few thousand steps and keeps their replay buffers, pretrains a world model on both,
then extracts a policy for each task in the world model alone: no environment is stepped but for evaluation. Takes about
six minutes on a CPU, prints what it finds, and draws it.

    python examples/offline.py [--sac-steps 5000] [--pretraining-steps 3000] [--updates 2000] [--out offline]
"""

import argparse
from pathlib import Path

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import sb3_pwm  # registers Cartpole-swingup, Walker-walk, ...
from sb3_pwm.pretrain import PretrainConfig, pretrain

TASKS = ("Pendulum-v1", "Cartpole-swingup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sac-steps", type=int, default=5000, help="steps of each run that makes data")
    parser.add_argument("--pretraining-steps", type=int, default=3000, help="updates of the world model")
    parser.add_argument("--updates", type=int, default=2000, help="updates of each policy")
    parser.add_argument("--evaluations", type=int, default=8, help="evaluations of each policy on the way")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of each evaluation")
    parser.add_argument("--out", type=Path, default=Path("offline"), help="folder of what it writes")
    args = parser.parse_args()
    if args.sac_steps < 1000:
        parser.error("--sac-steps must be at least 1000: two episodes of Cartpole-swingup.")
    args.out.mkdir(parents=True, exist_ok=True)

    # The data: any replay buffer of SB3 will do
    parts, sac_returns = [], []
    for task in TASKS:
        sac = SAC("MlpPolicy", task, learning_starts=500, seed=0)
        sac.learn(args.sac_steps, progress_bar=True)
        sac_returns.append(evaluate_policy(sac, Monitor(gym.make(task)), args.episodes)[0])
        parts.append(sb3_pwm.OfflineDataset.from_replay_buffer(sac.replay_buffer, task))
    dataset = sb3_pwm.OfflineDataset([data for part in parts for data in part.data])
    print(dataset)

    # The world model, of both tasks
    config = sb3_pwm.WorldModelConfig.preset(
        "200K",
        observation_dim=dataset.observation_dim,
        action_dim=dataset.action_dim,
        tasks=dataset.tasks,
        activation="silu",
    )
    pretraining = PretrainConfig(steps=args.pretraining_steps, batch_size=128, horizon=4, learning_rate=1e-3)
    (args.out / "world_model.safetensors").unlink(missing_ok=True)
    pretrain(dataset, config, args.out / "world_model.safetensors", pretraining)

    # A policy for each
    figure, axes = plt.subplots(1, len(TASKS), figsize=(5 * len(TASKS), 4), layout="constrained")
    for axis, task, sac_return in zip(axes, TASKS, sac_returns, strict=True):
        model = sb3_pwm.PWM(
            "MlpPolicy",
            task,
            world_model=args.out / "world_model.safetensors",
            dataset=dataset,
            offline=True,
            bc_coef=0.3,  # less than by default: these runs have tried much, good and bad
            policy_kwargs=dict(net_arch=dict(pi=[128, 128], vf=[128, 128])),
            seed=0,
        )
        evaluation = EvalCallback(
            Monitor(gym.make(task)),
            n_eval_episodes=args.episodes,
            eval_freq=max(args.updates // args.evaluations, 1),
            log_path=str(args.out / task),
            best_model_save_path=str(args.out / task),
            verbose=0,
        )
        model.learn(args.updates, callback=evaluation, progress_bar=True)
        model.save(args.out / task / "model")

        returns = dataset.task_data(task).returns
        results = np.load(args.out / task / "evaluations.npz")
        scores = results["results"].mean(axis=1)
        print(
            f"{task}: data {np.mean(returns):.0f} on average, {np.max(returns):.0f} at best; the SAC that made it "
            f"{sac_return:.0f}; policy from the world model {scores[-1]:.0f} after {args.updates} updates"
        )
        axis.plot(results["timesteps"], scores, marker="o", label="PWM, in the world model")
        axis.axhline(sac_return, color="tab:orange", label="SAC that made the data")
        axis.axhline(np.mean(returns), color="gray", linestyle="--", label="mean of the data's episodes")
        axis.set(title=task, xlabel="updates", ylabel=f"return of {args.episodes} episodes")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(args.out / "returns.png", dpi=150)
    print(f"Written: {args.out / 'returns.png'}, the world model and its pictures, and a model for each task.")


if __name__ == "__main__":
    main()
