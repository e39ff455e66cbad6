"""The command ``sb3-pwm collect``."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

from sb3_pwm.collect.behaviors import Behavior
from sb3_pwm.collect.run import collect
from sb3_pwm.common.checks import check_number
from sb3_pwm.tasks import SUITES


@dataclasses.dataclass(frozen=True)
class Collect:
    """
    Collect offline data: one Minari data set per task.

    If the command is interrupted, give it again: it goes on where it was, and ends with the same data. Examples::

        sb3-pwm collect --suite mt30 --steps 20000 --out data --processes 2

        sb3-pwm collect --tasks mw-reach mw-push --behavior random expert:0.3=2 --steps 5000 --out data

        sb3-pwm collect --tasks walker-walk walker-run --steps 20000 --out data \\
            --behavior replay:logs/pwm/{env}_1 policy:logs/pwm/{env}_1:0.2

        sb3-pwm collect --tasks Hopper-v5 --behavior policy:tqc_hopper.zip:0,0.1,0.3=3 random --steps 100000 --out data

    :param steps: Number of agent steps per task. The last episode is completed.
    :param out: Folder of the data sets (Minari's own commands take it from MINARI_DATASETS_PATH).
    :param tasks: Names of tasks, such as walker-walk mw-reach, or ids that are registered in Gymnasium, such as
        Hopper-v5. my_package:MyEnv-v0 imports the package first.
    :param suite: Suite of tasks to collect, instead of --tasks.
    :param behavior: What acts: random, expert[:NOISE], policy:PATH[:NOISE] or replay:PATH. Several share the episodes
        by weights, which are given as =WEIGHT behind each. The PATH of a policy is the zip file of any algorithm of SB3
        or sb3-contrib, or the folder of a run of rl-zoo3. NOISE is the standard deviation of Gaussian noise, for
        actions in [-1, 1]; several, such as 0,0.1,0.3, take turns over the episodes. 0.5@0.1 is noise in bursts of 5
        steps, which take a tenth of the steps. {env} in a path stands for the environment id of the task.
    :param processes: Number of processes. Each collects one task at a time. 0: one per core.
    :param seed: Seed of the start states, the random actions and the noise.
    :param overwrite: Replace data sets that exist already.
    """

    RENAMED: ClassVar[dict[str, str]] = {"--behaviour": "--behavior"}

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
        Collect, and print a table of the data sets.

        :raises ValueError: If an option is wrong, or the folder holds an unfinished data set of other options.
        :raises FileExistsError: If a data set exists already.
        """
        if bool(self.tasks) == (self.suite is not None):
            raise ValueError("Give the tasks to collect: either --tasks or --suite.")
        check_number("processes", self.processes, 0, integer=True)
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
                print(f"{row['task']}: only {row['steps']:,} steps, because its replay buffers hold no more.")
        size = sum(file.stat().st_size for file in self.out.rglob("*") if file.is_file())
        print(f"{self.out}: {size / 2**20:.1f} MiB, {time.perf_counter() - started:.0f} s")


def table(results: list[dict[str, Any]]) -> str:
    """
    Make a table of collected data sets.

    :param results: Statistics of the data sets, see :func:`~sb3_pwm.collect.minari_writer.read_statistics`.
    :return: The table, with one line per data set.
    """
    lines = [f"{'task':30} {'episodes':>8} {'steps':>9} {'return: mean':>12} {'min':>9} {'max':>9} {'success':>8}"]
    for row in results:
        success = f"{row['success_rate']:.0%}" if "success_rate" in row else "-"
        numbers = f"{row['return_mean']:12.1f} {row['return_min']:9.1f} {row['return_max']:9.1f} {success:>8}"
        lines.append(f"{row['task']:30} {row['episodes']:8} {row['steps']:9,} {numbers}")
    return "\n".join(lines)
