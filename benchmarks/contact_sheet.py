"""
Draw one picture of each task of a suite on a sheet, the muscle humanoid from three sides, or how it keeps its balance.

::

    python benchmarks/contact_sheet.py --suite mt30 --out docs/mt30.png
    python benchmarks/contact_sheet.py --muscles --out docs/muscle_humanoid.png
    python benchmarks/contact_sheet.py --balance --out docs/muscle_humanoid_balance.png
"""

import argparse
from pathlib import Path

import gymnasium
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

from sb3_pwm.envs import register_envs
from sb3_pwm.tasks import SUITES, get_suite

COLUMNS = 10


def draw_muscles(out: Path) -> None:
    """:param out: PNG of the standing muscle humanoid from the front, the side and the back, with translucent limbs."""
    env = gymnasium.make("Muscle-humanoid-stand", render_mode="rgb_array", width=420, height=720)
    env.reset(seed=0)
    env.render()  # makes the buffer large enough
    # Imported after the first render(), which chooses the OpenGL backend.
    from dm_control.mujoco import engine

    physics = env.unwrapped.environment.physics  # type: ignore[attr-defined]
    model = physics.model.ptr
    limbs = [number for number in range(model.ngeom) if number != model.geom("floor").id]
    model.geom_matid[limbs] = -1
    model.geom_rgba[limbs] = (0.8, 0.75, 0.7, 0.35)
    with physics.reset_context():
        physics.data.qpos[:] = model.qpos0
        physics.data.qpos[2] = 1.3
    figure, axes = plt.subplots(1, 3, figsize=(9.0, 5.6), layout="constrained")
    camera = engine.MovableCamera(physics, height=720, width=420)
    for ax, (name, azimuth) in zip(axes, {"front": 180, "side": 90, "back": 0}.items(), strict=True):
        camera.set_pose((0.05, 0.0, 0.8), distance=2.4, azimuth=azimuth, elevation=-5)
        ax.imshow(camera.render())
        ax.set_title(name, fontsize=9)
        ax.axis("off")
    figure.savefig(out, dpi=100)
    env.close()


def draw_balance(out: Path) -> None:
    """:param out: PNG of an episode of the expert, and of one with the same excitations but without feedback."""
    env = gymnasium.make("Muscle-humanoid-balance", render_mode="rgb_array", width=220, height=320)
    env.reset(seed=0)
    # Imported after the environment is made, which chooses the OpenGL backend.
    from sb3_pwm.envs.muscle_humanoid_expert import BalanceExpert

    expert = BalanceExpert()
    constant = (2.0 * expert.excitations - 1.0).astype(np.float32)
    rows = {
        "expert": (expert, (0, 10, 20, 100, 499)),
        "no feedback": (lambda observation: constant, (0, 5, 10, 15, 20)),
    }
    figure, axes = plt.subplots(2, 5, figsize=(7.5, 4.6), layout="constrained")
    for (name, (policy, shown)), row in zip(rows.items(), axes, strict=True):
        observation, _ = env.reset(seed=0)
        ended, step = False, 0
        for ax in row:
            ax.axis("off")
        while not ended:
            if step in shown:
                ax = row[shown.index(step)]
                ax.imshow(env.render())
                ax.set_title(f"{name}, {step * 0.05:g} s", fontsize=8)
            observation, _, terminated, truncated, _ = env.step(policy(observation))
            ended, step = terminated or truncated, step + 1
        print(f"{name}: {step} steps")
    figure.savefig(out, dpi=100)
    env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=tuple(SUITES), default="mt30")
    parser.add_argument("--steps", type=int, default=20, help="random steps before the picture is taken")
    parser.add_argument("--muscles", action="store_true", help="the muscle humanoid instead")
    parser.add_argument("--balance", action="store_true", help="how the muscle humanoid keeps its balance instead")
    parser.add_argument("--out", type=Path, default=Path("docs/mt30.png"))
    arguments = parser.parse_args()

    register_envs()
    if arguments.muscles or arguments.balance:
        (draw_muscles if arguments.muscles else draw_balance)(arguments.out)
        print(f"Written: {arguments.out}")
        return
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
