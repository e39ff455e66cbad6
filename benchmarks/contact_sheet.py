"""
A picture of every task of a suite, on one sheet.

::

    python benchmarks/contact_sheet.py --suite mt30 --out docs/mt30.png
"""

import argparse
from pathlib import Path

import gymnasium
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tqdm import tqdm

from sb3_pwm.envs import register_envs
from sb3_pwm.envs.suites import SUITES, get_suite

COLUMNS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=tuple(SUITES), default="mt30")
    parser.add_argument("--steps", type=int, default=20, help="random steps before the picture is taken")
    parser.add_argument("--out", type=Path, default=Path("docs/mt30.png"))
    arguments = parser.parse_args()

    register_envs()
    suite = get_suite(arguments.suite)
    n_rows = -(-len(suite.tasks) // COLUMNS)
    figure, axes = plt.subplots(n_rows, COLUMNS, figsize=(1.5 * COLUMNS, 1.75 * n_rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for number, (ax, env_id) in enumerate(zip(axes.flat, tqdm(suite.env_ids), strict=False)):
        env = gymnasium.make(env_id, render_mode="rgb_array", width=160, height=160)
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(arguments.steps):
            env.step(env.action_space.sample())
        ax.imshow(env.render())
        ax.set_title(f"{number} {env_id}", fontsize=6)
        env.close()
    figure.tight_layout(pad=0.4)
    figure.savefig(arguments.out, dpi=90)
    print(f"Written: {arguments.out}")


if __name__ == "__main__":
    main()
