"""
Pretrain one world model on the replay buffers of two SB3 runs, and extract a policy for each of the two tasks.

SB3's SAC learns each task for a few thousand steps. Its replay buffers are the data of the world model. Each policy is
then learned in the world model: the environment is stepped for evaluation only. The script prints and draws the
returns. It takes about six minutes on a CPU.

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

import sb3_pwm  # registers Cartpole-swingup
from sb3_pwm.pretrain import PretrainConfig, pretrain

TASKS = ("Pendulum-v1", "Cartpole-swingup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sac-steps", type=int, default=5000, help="number of environment steps of each SAC run")
    parser.add_argument("--pretraining-steps", type=int, default=3000, help="number of updates of the world model")
    parser.add_argument("--updates", type=int, default=2000, help="number of updates of each policy")
    parser.add_argument("--evaluations", type=int, default=8, help="number of evaluations of each policy")
    parser.add_argument("--episodes", type=int, default=10, help="number of episodes of an evaluation")
    parser.add_argument("--out", type=Path, default=Path("offline"), help="folder of the models and pictures")
    args = parser.parse_args()
    if args.sac_steps < 1000:
        parser.error(f"--sac-steps must be at least 1000, two episodes of Cartpole-swingup, got {args.sac_steps}.")
    args.out.mkdir(parents=True, exist_ok=True)

    # The data: the replay buffer of any off-policy algorithm of SB3
    parts, sac_returns = [], []
    for task in TASKS:
        sac = SAC("MlpPolicy", task, learning_starts=500, seed=0)
        sac.learn(args.sac_steps, progress_bar=True)
        sac_returns.append(evaluate_policy(sac, Monitor(gym.make(task)), args.episodes)[0])
        parts.append(sb3_pwm.OfflineDataset.from_replay_buffer(sac.replay_buffer, task))
    dataset = sb3_pwm.OfflineDataset([data for part in parts for data in part.data])
    print(dataset)

    # One world model for both tasks
    config = sb3_pwm.WorldModelConfig.preset(
        "200K",
        observation_dim=dataset.observation_dim,
        action_dim=dataset.action_dim,
        tasks=dataset.tasks,
        activation="silu",
        behavior_head=True,
    )
    pretraining = PretrainConfig(steps=args.pretraining_steps, batch_size=128, horizon=4, learning_rate=1e-3)
    (args.out / "world_model.safetensors").unlink(missing_ok=True)
    pretrain(dataset, config, args.out / "world_model.safetensors", pretraining)

    # A policy for each task
    figure, axes = plt.subplots(1, len(TASKS), figsize=(5 * len(TASKS), 4), layout="constrained")
    for axis, task, sac_return in zip(axes, TASKS, sac_returns, strict=True):
        model = sb3_pwm.PWM(
            "MlpPolicy",
            task,
            world_model=args.out / "world_model.safetensors",
            dataset=dataset,
            offline=True,
            bc_coef=0.1,  # less than the default, since the data of a learning agent covers many actions
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
            f"{task}: returns of the data {np.mean(returns):.0f} (mean) and {np.max(returns):.0f} (maximum), "
            f"of SAC {sac_return:.0f}, of PWM after {args.updates} updates {scores[-1]:.0f}"
        )
        axis.plot(results["timesteps"], scores, marker="o", label="PWM, learned in the world model")
        axis.axhline(sac_return, color="tab:orange", label="SAC, whose replay buffer is the data")
        axis.axhline(np.mean(returns), color="gray", linestyle="--", label="mean of the data")
        axis.set(title=task, xlabel="updates", ylabel=f"return of {args.episodes} episodes")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(args.out / "returns.png", dpi=150)
    print(f"Wrote the world model, a policy for each task and pictures to {args.out}. See returns.png first.")


if __name__ == "__main__":
    main()
