"""The command ``sb3-pwm collect``."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, Literal

from sb3_pwm.collect.behaviors import Behavior
from sb3_pwm.collect.run import collect
from sb3_pwm.tasks import SUITES

RENAMED = {"--behaviour": "--behavior"}


@dataclasses.dataclass(frozen=True)
class Collect:
    """
    Collect data sets to pretrain world models on: one Minari data set per task.

    An interrupted command goes on where it was when it is given again. Examples:

    sb3-pwm collect --suite mt30 --steps 20000 --out data --processes 2

    sb3-pwm collect --tasks mw-reach mw-push --behavior random expert:0.3=2 --steps 5000 --out data

    sb3-pwm collect --tasks walker-walk --behavior replay:logs/pwm/{env}_1 policy:logs/pwm/{env}_1:0.2 --steps 20000
    --out data

    :param steps: Number of agent steps per task.
    :param out: Folder of the data sets (MINARI_DATASETS_PATH for Minari's own commands).
    :param tasks: Tasks or environment ids, such as walker-walk mw-reach Dog-run.
    :param suite: Suite whose tasks are all collected, instead of --tasks.
    :param behavior: What acts: random, expert[:NOISE], policy:PATH[:NOISE] or replay:PATH, each with =WEIGHT or
        without. {env} in a path stands for the environment id of the task.
    :param processes: Number of processes; each collects a task at a time. 0: as many as there are cores.
    :param seed: Seed of starts, actions and noise.
    :param overwrite: Replace data sets that are there.
    """

    steps: int
    out: Path
    tasks: tuple[str, ...] = ()
    suite: Literal["mt30", "mt80"] | None = None
    behavior: tuple[str, ...] = ("random",)
    processes: int = 0
    seed: int = 0
    overwrite: bool = False

    def run(self) -> None:
        """
        Collect, and print a table of what was collected.

        :raises ValueError: If an option is wrong, or something is there that was collected with other options.
        :raises FileExistsError: If a data set is there already.
        """
        if bool(self.tasks) == (self.suite is not None):
            raise ValueError("Give the tasks to collect: either --tasks or --suite.")
        started = time.perf_counter()
        results = collect(
            SUITES[self.suite].tasks if self.suite is not None else self.tasks,
            self.steps,
            self.out,
            [Behavior.parse(text) for text in self.behavior],
            self.processes or os.cpu_count() or 1,
            self.seed,
            self.suite or "sb3-pwm",
            self.overwrite,
        )
        print(table(results))
        for row in results:
            if row["steps"] < self.steps:
                print(f"{row['task']}: {row['steps']:,} steps, since its replay buffers hold no more.")
        size = sum(file.stat().st_size for file in self.out.rglob("*") if file.is_file())
        print(f"{self.out}: {size / 2**20:.1f} MiB, {time.perf_counter() - started:.0f} s")


def table(results: list[dict[str, Any]]) -> str:
    """
    :param results: Statistics of each task's data set, see :func:`~sb3_pwm.collect.minari_writer.read_statistics`.
    :return: A table with a line for each.
    """
    lines = [f"{'task':30} {'episodes':>8} {'steps':>9} {'return: mean':>12} {'min':>9} {'max':>9} {'success':>8}"]
    for row in results:
        success = f"{row['success_rate']:.0%}" if "success_rate" in row else "-"
        numbers = f"{row['return_mean']:12.1f} {row['return_min']:9.1f} {row['return_max']:9.1f} {success:>8}"
        lines.append(f"{row['task']:30} {row['episodes']:8} {row['steps']:9,} {numbers}")
    return "\n".join(lines)
