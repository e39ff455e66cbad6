"""
Extract a policy from a world model that comes with the package, in about three minutes on a CPU.

The environment is stepped for evaluation only. The script prints the policy's return beside those of the data that the
world model was pretrained on, and draws an episode. The tasks of the world model are Walker-walk, Cheetah-run,
Cartpole-swingup and Reacher-easy, and with Meta-World (extra metaworld) Mw-reach, Mw-button-press-topdown and
Mw-drawer-open.

    python examples/pretrained.py [--env Walker-walk] [--updates 2000] [--out pretrained]
"""

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_pwm import PWM, OfflineDataset


def draw_episode(model: PWM, env: gym.Env, file: Path, every: int = 3, size: tuple[int, int] = (240, 180)) -> float:
    """
    Draw an episode as an animated GIF, in the speed of the environment.

    :param model: The model that acts.
    :param env: Environment whose ``render_mode`` is ``"rgb_array"``.
    :param file: The file.
    :param every: Number of steps between two frames.
    :param size: Width and height of the frames, in pixels.
    :return: Return of the episode.
    """
    frames, total, done, step = [], 0.0, False, 0
    observation, _ = env.reset(seed=0)
    while not done:
        if step % every == 0:
            frames.append(Image.fromarray(env.render()).resize(size).quantize(64))
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, done, step = total + float(reward), terminated or truncated, step + 1
    duration = 1000 * every / env.metadata.get("render_fps", 30)
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=max(duration, 20), loop=0)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Walker-walk", help="id of a task of the world model")
    parser.add_argument("--updates", type=int, default=2000, help="number of updates of the policy")
    parser.add_argument("--episodes", type=int, default=10, help="number of episodes of the evaluation")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    parser.add_argument("--out", type=Path, default=Path("pretrained"), help="folder of the policy and the picture")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    dataset = OfflineDataset.load("mt7")
    env = Monitor(gym.make(args.env))
    model = PWM("MlpPolicy", env, world_model="mt7", dataset=dataset, offline=True, seed=args.seed)
    returns = dataset.task_data(model.task).returns
    untrained, _ = evaluate_policy(model, env, args.episodes)
    model.learn(args.updates, progress_bar=True)
    model.save(args.out / args.env)
    extracted, _ = evaluate_policy(model, env, args.episodes)
    print(
        f"{args.env}: return of {args.episodes} episodes {extracted:.0f}; before the {args.updates:,} updates "
        f"{untrained:.0f}; of the data {np.mean(returns):.0f} (mean), {np.max(returns):.0f} (best episode)"
    )
    picture = args.out / f"{args.env}.gif"
    drawn = draw_episode(model, gym.make(args.env, render_mode="rgb_array"), picture)
    print(f"{picture} shows an episode with a return of {drawn:.0f}; the policy is {args.out / args.env}.zip")


if __name__ == "__main__":
    main()
