"""
Data to pretrain a multi-task world model on: the 30 tasks of MT30 and 12 of Meta-World's.

::

    python benchmarks/pretraining_data.py train --out pretraining --processes 2      # two hours on two cores
    python benchmarks/pretraining_data.py collect --out pretraining --processes 2    # minutes

``train`` learns every DMControl task online with PWM, through the stock rl-zoo3, and keeps each run's replay buffer in
``<out>/runs``. ``collect`` makes one data set per task of it in ``<out>/data``: what the run has seen while it learned,
and what its best policy does, with and without noise; on Meta-World the scripted experts, with and without noise, and
random actions. Both go on where they were when they are given again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from sb3_pwm.envs.suites import MT30

# Agent steps of a run: the easy tasks are learned by then, the others as far as the time allows.
STEPS = 10_000
EASY_STEPS = 6_000
EASY = (
    *("pendulum-spin", "pendulum-swingup", "cartpole-balance", "cartpole-balance-sparse", "cup-catch", "cup-spin"),
    *("walker-stand", "reacher-easy", "finger-spin"),
)


def n_steps(task: str) -> int:
    """:param task: A task of MT30. :return: Agent steps of its training run."""
    return EASY_STEPS if task in EASY else STEPS


def train(env_id: str, steps: int, out: Path, seed: int) -> None:
    """
    Train PWM on a task with rl-zoo3, unless that has been done.

    :param env_id: The task's environment.
    :param steps: Agent steps.
    :param out: Folder of the runs; the run's is ``<out>/pwm/<env_id>_1``.
    :param seed: The run's seed.
    :raises subprocess.CalledProcessError: If training fails; its output is in ``<out>/<env_id>.log``.
    """
    run = out / "pwm" / f"{env_id}_1"
    if (run / "replay_buffer.pkl").is_file():
        return
    shutil.rmtree(run, ignore_errors=True)  # a run that was killed
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", "pwm", "--env", env_id, "-n", str(steps)]
    command += ["--seed", str(seed), "-f", str(out), "--save-replay-buffer", "--num-threads", "1", "--verbose", "0"]
    command += ["--eval-freq", str(steps // 5), "--eval-episodes", "5"]
    # All of the run; one more, or the first episode counts as one whose beginning has been overwritten.
    command += ["-params", f"buffer_size:{steps + 1}"]
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{env_id}.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train PWM on every DMControl task")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--tasks", nargs="+", default=list(MT30.tasks))
    training.add_argument("--steps", type=int, help="agent steps of every run, in place of the table's")
    training.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    training.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    tasks = [MT30.canonical(task) for task in arguments.tasks]
    bar = tqdm(total=len(tasks), unit="run")

    def work(task: str) -> None:
        started = time.perf_counter()
        env_id = MT30.env_ids[MT30.index(task)]
        train(env_id, arguments.steps or n_steps(task), arguments.out / "runs", arguments.seed)
        bar.write(f"{task}: {time.perf_counter() - started:.0f} s")
        bar.update()

    with ThreadPoolExecutor(arguments.processes) as pool:
        list(pool.map(work, tasks))
    bar.close()


if __name__ == "__main__":
    main()
