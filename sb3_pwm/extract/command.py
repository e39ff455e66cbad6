"""The command ``sb3-pwm extract``."""

import ast
import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from sb3_pwm.common.checks import check_number, reject_unknown_keywords
from sb3_pwm.common.commands import PartFailedError
from sb3_pwm.common.devices import check_device, threads_of_torch
from sb3_pwm.common.files import atomic_write
from sb3_pwm.common.packaged import model_file
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.environments import Task, check_tasks, find_task
from sb3_pwm.envs import register_envs
from sb3_pwm.extract import ray_cluster
from sb3_pwm.extract.jobs import CommonSettings, Job, extract, extract_in_processes
from sb3_pwm.extract.live_table import LiveTable
from sb3_pwm.extract.policy import SETTINGS, ExtractionConfig
from sb3_pwm.extract.report import make_report
from sb3_pwm.extract.results import plot, read_results, result_file, summarize, table
from sb3_pwm.pwm.pwm import PWM
from sb3_pwm.tasks import SUITES
from sb3_pwm.world_model.model import WorldModel

OPTIONS = {"world_model": "--world-model", "dataset": "--dataset", "task": "--tasks", "seed": "--seeds"}
"""Arguments of :class:`~sb3_pwm.PWM` that options of the command set, with these options"""


@dataclasses.dataclass(frozen=True)
class Extract:
    """
    Extract a policy for each of several tasks from one pretrained world model.

    The environments are stepped for evaluation only. If the command is interrupted, give it again: policies that are
    complete are not extracted again. The folder gets a model (.zip) and a result (.json) for each task and seed, a
    table (scores.csv) and a picture (returns.png) of all results, and a report of normalized scores beside the
    published ones (report.md). Example::

        sb3-pwm extract --world-model wm.safetensors --dataset data/mt80 --tasks walker-walk mw-reach --out extracted

    :param world_model: File of the world model: *.safetensors, or *.pt of the TD-MPC2 and PWM releases. Or the name of
        a model that comes with the package, such as mt7.
    :param dataset: Data: Minari ids or folders, TD-MPC2's .pt files, the folder of a stored data set, replay buffers of
        SB3 (TASK=FILE.pkl, or a file with the name of its task), or the name of a model that comes with the package.
    :param tasks: Names of tasks, or ids that are registered in Gymnasium, such as Hopper-v5. my_package:MyEnv-v0
        imports the package first. mt30 and mt80 stand for all tasks of a suite.
    :param out: Folder of the policies and results.
    :param seeds: Seeds of the extractions. Each seed gives one policy per task.
    :param config: Configuration of an extraction.
    :param settings: Named set of PWM's arguments: the defaults of this package, or the values of the paper.
    :param params: Arguments of PWM that differ from the settings, as a dictionary, such as "{'precision': 'bfloat16'}".
    :param tag: Name of this run in files and tables, so that one folder can hold several runs. Default: the name
        of --settings.
    :param jobs: Number of extractions at a time, in processes of their own.
    :param ray_address: Address of a Ray cluster to extract on, as many policies at a time as it has cores: host:port,
        ray://host:port, auto (the one that runs on this machine), or local (one that is started here). Default: none.
    :param threads: Number of threads of torch in each extraction. 0: one per core, shared by the extractions at a time;
        one on a Ray cluster.
    :param device: Device of the networks. auto: a GPU if there is one.
    """

    RENAMED: ClassVar[dict[str, str]] = {"--episodes": "--eval-episodes"}

    world_model: Path
    dataset: tuple[str, ...]
    tasks: tuple[str, ...]
    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    config: ExtractionConfig = dataclasses.field(default_factory=ExtractionConfig)
    settings: Literal["default", "paper"] = "default"
    params: str = "{}"
    tag: str = ""
    jobs: int = 1
    ray_address: str = ""
    threads: int = 0
    device: str = "auto"

    def run(self) -> None:
        """
        Extract the missing policies, and print a table of all results.

        :raises ValueError: If an option is wrong, or the folder holds results of another run.
        :raises PartFailedError: If an extraction failed. The others are complete.
        :raises FileNotFoundError: If the world model or the data does not exist.
        """
        register_envs()
        tasks, parameters = self._check_options()
        threads = self.threads or (1 if self.ray_address else max((os.cpu_count() or 1) // self.jobs, 1))
        WorldModel.load(self.world_model)  # a wrong file is refused before the data is read
        identity = self._identity(parameters)
        finished = self._finished(identity)
        pairs = [(task, seed) for task in tasks for seed in self.seeds]
        missing = [(task, seed) for task, seed in pairs if (task.name, seed) not in finished]
        print(f"{len(pairs)} policies, {len(pairs) - len(missing)} of them extracted before", flush=True)
        failed = []
        if missing:
            description = {"tag": self._tag, "run": identity}
            common = CommonSettings(
                model_file(self.world_model), self.dataset, self.config, parameters, self.device, threads, description
            )
            failed = self._extract(missing, common)
        self._report()
        if failed:
            names = ", ".join(f"{job.task} (seed {job.seed})" for job in failed)
            raise PartFailedError(
                f"{len(failed)} of {len(missing)} extractions failed: {names}. Give the command again to retry."
            )

    @property
    def _tag(self) -> str:
        return self.tag or self.settings

    def _check_options(self) -> tuple[list[Task], dict[str, Any]]:
        """:return: The tasks, with suites replaced by their tasks, and the arguments of PWM."""
        names = [name for task in self.tasks for name in (SUITES[task].tasks if task in SUITES else (task,))]
        tasks = {task.name: task for task in map(find_task, names)}
        if not tasks or not self.seeds:
            raise ValueError("Give at least one task and one seed.")
        for seed in self.seeds:
            check_number("A seed", seed, 0, 2**32 - 1, integer=True)
        check_number("jobs", self.jobs, 1, integer=True)
        check_number("threads", self.threads, 0, integer=True)
        if self.ray_address:
            if self.jobs > 1:
                raise ValueError("--jobs is for processes of this machine: leave it out with --ray-address.")
            ray_cluster.check_address(self.ray_address)
        check_device(self.device)
        if Path(self.tag).name != self.tag:
            raise ValueError(f"--tag must be usable in the name of a file, got {self.tag!r}.")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out must be a folder, but {self.out} is a file.")
        check_tasks(tasks.values())
        return list(tasks.values()), {**SETTINGS[self.settings], **self._given_parameters()}

    def _given_parameters(self) -> dict[str, Any]:
        try:
            given = ast.literal_eval(self.params)
        except (ValueError, SyntaxError):
            given = None
        if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
            raise ValueError(f"--params must be a dictionary such as \"{{'horizon': 8}}\", got {self.params!r}.")
        for name in ("policy", "env", "offline", "device", *OPTIONS):
            if name in given:
                remedy = f"give {OPTIONS[name]}" if name in OPTIONS else "leave it out"
                raise ValueError(f"--params must not have {name!r}: {remedy}.")
        try:
            reject_unknown_keywords(PWM, given, PWM.unsupported_arguments)
        except TypeError as error:
            raise ValueError(f"--params: {error}") from error
        return given

    def _identity(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """:return: What must be the same for a result to be of this run."""
        return {
            "world_model": hashlib.sha256(model_file(self.world_model).read_bytes()).hexdigest()[:16],
            "dataset": list(self.dataset),
            "params": {name: repr(value) for name, value in parameters.items()},
            **dataclasses.asdict(self.config),
        }

    def _finished(self, identity: dict[str, Any]) -> set[tuple[str, int]]:
        """
        Find the finished extractions.

        :param identity: See :meth:`_identity`.
        :return: Task and seed of the results that the folder has under the tag.
        :raises ValueError: If a result is of another run.
        """
        finished = set()
        for result in (result for group in read_results(self.out).values() for result in group):
            if result["tag"] != self._tag:
                continue
            for name, value in identity.items():
                saved = result.get("run", {}).get(name)
                if saved != value:
                    raise ValueError(
                        f"{result_file(self.out, result['task'], self._tag, result['seed'])} is the result of another "
                        f"run ({name} {saved}, not {value}): choose another --out or --tag."
                    )
            finished.add((result["task"], result["seed"]))
        return finished

    def _extract(self, missing: list[tuple[Task, int]], common: CommonSettings) -> list[Job]:
        """:return: The extractions that failed."""
        jobs = [
            Job(index, task.name, task.env_id, seed, result_file(self.out, task.name, self._tag, seed))
            for index, (task, seed) in enumerate(missing)
        ]
        for job in jobs:
            job.traceback_file.unlink(missing_ok=True)  # of an earlier try
        dataset = OfflineDataset.load(self.dataset)  # wrong data is refused before a process is started
        with LiveTable(jobs, self.config.updates + self.config.online_steps) as live:
            if self.ray_address:
                ray_cluster.extract_on_ray(jobs, common, dataset, self.ray_address, live.progress, live.report)
            elif min(self.jobs, len(jobs)) == 1:
                with threads_of_torch(common.threads):
                    for job in jobs:
                        live.report(extract(job, common, dataset, live.progress))
            else:
                del dataset  # each process loads its own
                extract_in_processes(jobs, common, self.jobs, live.progress, live.report)
        return live.failed

    def _report(self) -> None:
        results = read_results(self.out)
        if not results:
            return
        with atomic_write(self.out / "scores.csv") as file:
            file.write(summarize(results).to_csv(index=False).encode())
        print(table(results))
        written = [self.out / "scores.csv"]
        if any(tag == self._tag for _, tag in results):
            written.append(self.out / "returns.png")
            plot(results, self._tag, written[-1])
            try:
                report = make_report(results, self._tag)
            except ImportError as error:  # rliable is optional
                print(error)
            else:
                print(f"\n{report}")
                written.append(self.out / "report.md")
                with atomic_write(written[-1]) as file:
                    file.write(report.encode())
        print(f"Written: {', '.join(map(str, written))}")
