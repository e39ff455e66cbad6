"""
Make data for pretraining a multi-task world model: the 30 tasks of MT30 and 12 tasks of Meta-World.

::

    python benchmarks/pretraining_data.py train --out pretraining --processes 2      # more than an hour on two cores
    python benchmarks/pretraining_data.py collect --out pretraining --processes 2    # minutes

``train`` learns every DMControl task online with PWM, through the stock rl-zoo3, and keeps the replay buffer of each
run in ``<out>/runs``. ``collect`` makes one data set per task in ``<out>/data``. A DMControl task has the replayed
episodes of the run and new episodes of its policies, with and without noise. A Meta-World task has episodes of the
scripted expert, with and without noise, and random actions. ``collect`` then writes ``<out>/report.md`` and
``<out>/returns.png``, which summarize the runs and the data. Both commands skip finished work if they are repeated.
"""

import argparse
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sb3_pwm.collect import collect
from sb3_pwm.collect.behaviors import Behavior
from sb3_pwm.describe import Description, describe, plot
from sb3_pwm.tasks import MT30, MT80, env_id

NAMESPACE = "mt80"

# Agent steps of a run. They suffice for the easy tasks; harder tasks are learned in part.
STEPS = 10_000
EASY_STEPS = 6_000
EASY = (
    *("pendulum-spin", "pendulum-swingup", "cartpole-balance", "cartpole-balance-sparse", "cup-catch", "cup-spin"),
    *("walker-stand", "reacher-easy", "finger-spin"),
)

META_WORLD = (
    *("mw-reach", "mw-push", "mw-button-press", "mw-button-press-topdown", "mw-coffee-button", "mw-door-open"),
    *("mw-drawer-close", "mw-drawer-open", "mw-faucet-open", "mw-handle-press", "mw-plate-slide", "mw-window-open"),
)
N_STAGES = 5
# Agent steps of each data set: 200 episodes of DMControl, 300 of Meta-World.
DM_CONTROL_DATA_STEPS = 100_000
META_WORLD_DATA_STEPS = 30_000
META_WORLD_MIXTURE = (
    Behavior("expert", noise=0.3, weight=2.0),
    Behavior("expert"),
    Behavior("expert", noise=1.0),
    Behavior("random"),
)


def run_folder(runs: Path, task: str) -> Path:
    """:param runs: Folder of the runs. :param task: A task of MT30. :return: Folder that rl-zoo3 writes the run to."""
    return runs / "pwm" / f"{env_id(task)}_1"


def dm_control_mixture(run: Path) -> tuple[Behavior, ...]:
    """
    :param run: Folder of a task's run.
    :return: The behaviors of the data set: the replayed episodes, the policy of each stage with noise, the best policy
        without noise and with two levels of noise, and random actions.
    """
    # The task is left out of the folder's name, so that tasks with the same stages share one call of collect().
    folder = run.parent / "{env}_1"
    stages = sorted(run.glob("rl_model_*_steps.zip"), key=lambda path: int(path.stem.split("_")[2]))[:-1]
    best = str(folder / "best_model.zip")
    return (
        Behavior("replay", str(folder), weight=2.0),
        *(Behavior("policy", str(folder / path.name), noise=0.3) for path in stages),
        Behavior("policy", best, weight=2.0),
        Behavior("policy", best, noise=0.2, weight=2.0),
        Behavior("policy", best, noise=0.5),
        Behavior("random", weight=0.5),
    )


def n_steps(task: str) -> int:
    """:param task: A task of MT30. :return: Agent steps of its training run."""
    return EASY_STEPS if task in EASY else STEPS


def train(task: str, steps: int, out: Path, seed: int) -> None:
    """
    Train PWM on a task with rl-zoo3, unless that has been done.

    :param task: A task of MT30.
    :param steps: Agent steps.
    :param out: Folder of the runs. This run is written to ``<out>/pwm/<environment id>_1``.
    :param seed: Seed of the run.
    :raises subprocess.CalledProcessError: If training fails. The output is in ``<out>/<environment id>.log``.
    """
    name = env_id(task)
    run = run_folder(out, task)
    if (run / "replay_buffer.pkl").is_file():
        return
    shutil.rmtree(run, ignore_errors=True)  # a run that was killed
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", "pwm", "--env", name, "-n", str(steps)]
    command += ["--seed", str(seed), "-f", str(out), "--save-replay-buffer", "--num-threads", "1", "--verbose", "0"]
    # Five evaluations and checkpoints: the data has policies of all stages of learning.
    command += ["--eval-freq", str(steps // N_STAGES), "--eval-episodes", "5", "--save-freq", str(steps // N_STAGES)]
    # One more than the steps of the run: in a full buffer the first episode counts as partly overwritten.
    command += ["-params", f"buffer_size:{steps + 1}"]
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{name}.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def train_all(tasks: Sequence[str], steps: int | None, out: Path, processes: int, seed: int) -> None:
    """
    Train several tasks in parallel.

    :param tasks: Tasks of MT30.
    :param steps: Agent steps of each run. None: see :func:`n_steps`.
    :param out: Folder of the runs.
    :param processes: Number of runs at a time.
    :param seed: Seed of the runs.
    """
    bar = tqdm(total=len(tasks), unit="run")

    def work(task: str) -> None:
        started = time.perf_counter()
        train(task, steps or n_steps(task), out, seed)
        bar.write(f"{task}: {time.perf_counter() - started:.0f} s")
        bar.update()

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(work, tasks))
    bar.close()


def collect_all(tasks: Sequence[str], steps: int | None, out: Path, processes: int, seed: int) -> None:
    """
    Collect the missing data sets.

    :param tasks: Trained tasks of MT30, and tasks of Meta-World.
    :param steps: Agent steps of each data set. None: the number for the suite.
    :param out: Folder of the runs and of the data.
    :param processes: Number of processes.
    :param seed: Seed of the episodes.
    """
    missing = [task for task in tasks if not dataset_path(out, task).exists()]
    of_meta_world = [task for task in missing if task.startswith("mw-")]
    of_dm_control = [task for task in missing if not task.startswith("mw-")]
    collect_here = functools.partial(collect, out=out / "data", processes=processes, seed=seed, namespace=NAMESPACE)
    by_mixture: dict[tuple[Behavior, ...], list[str]] = {}
    for task in of_dm_control:
        by_mixture.setdefault(dm_control_mixture(run_folder(out / "runs", task)), []).append(task)
    for mixture, alike in by_mixture.items():
        collect_here(alike, steps or DM_CONTROL_DATA_STEPS, behaviors=mixture)
    if of_meta_world:
        collect_here(of_meta_world, steps or META_WORLD_DATA_STEPS, behaviors=META_WORLD_MIXTURE)


def dataset_path(out: Path, task: str) -> Path:
    """:param out: Folder of the data. :param task: A task of MT80. :return: Folder of the data set."""
    return out / "data" / NAMESPACE / f"{task}-v0"


def report(tasks: Sequence[str], out: Path) -> str:
    """
    Write ``report.md`` and ``returns.png``.

    :param tasks: Tasks with a data set.
    :param out: Folder of the runs and of the data.
    :return: The report, a table in Markdown.
    """
    descriptions = [describe(dataset_path(out, task)) for task in tqdm(tasks, unit="data set", leave=False)]
    plot(descriptions, out / "returns.png")
    lines = [
        "| task | run: agent steps | best evaluation | data: episodes | mean | median | 90% | max | success | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(task, out, row) for task, row in zip(tasks, descriptions, strict=True)),
    ]
    steps, size = sum(row.steps for row in descriptions), sum(row.size for row in descriptions)
    lines += ["", f"{len(tasks)} data sets, {steps:,} agent steps, {size / 2**20:.0f} MiB."]
    text = "\n".join(lines) + "\n"
    (out / "report.md").write_text(text)
    return text


def _row(task: str, out: Path, row: Description) -> str:
    evaluations = run_folder(out / "runs", task) / "evaluations.npz"
    run = "- | -"
    if evaluations.is_file():
        with np.load(evaluations) as arrays:
            run = f"{arrays['timesteps'][-1]:,} | {arrays['results'].mean(axis=1).max():.0f}"
    median, nearly_best = np.quantile(row.returns, [0.5, 0.9])
    success = "-" if row.success is None else f"{row.success.mean():.0%}"
    returns = f"{row.returns.mean():.0f} | {median:.0f} | {nearly_best:.0f} | {row.returns.max():.0f}"
    return f"| {task} | {run} | {len(row.returns)} | {returns} | {success} | {row.size / 2**20:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train PWM on every DMControl task")
    collection = commands.add_parser("collect", help="collect the data sets, and say what is in them")
    for command, default in ((training, MT30.tasks), (collection, (*MT30.tasks, *META_WORLD))):
        command.add_argument("--out", type=Path, required=True, help="folder of the runs and of the data")
        command.add_argument("--tasks", nargs="+", default=list(default))
        what = "run" if command is training else "data set"
        command.add_argument("--steps", type=int, help=f"agent steps of every {what}, in place of the table's")
        command.add_argument("--processes", type=int, default=os.cpu_count() or 1)
        command.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    suite = MT30 if arguments.command == "train" else MT80
    tasks = [suite.canonical(task) for task in arguments.tasks]
    if arguments.command == "train":
        train_all(tasks, arguments.steps, arguments.out / "runs", arguments.processes, arguments.seed)
    else:
        collect_all(tasks, arguments.steps, arguments.out, arguments.processes, arguments.seed)
        print(report(tasks, arguments.out))


if __name__ == "__main__":
    main()
