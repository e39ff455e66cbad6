"""The command ``sb3-pwm extract``."""

import ast
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import torch as th
import tyro
from tqdm import tqdm

from sb3_pwm.common.files import atomic_write
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.envs import register_envs
from sb3_pwm.extract.policy import SETTINGS, ExtractionConfig, extract_policy, write_result
from sb3_pwm.extract.results import plot, read_results, summarize, table
from sb3_pwm.tasks import SUITES, task_name
from sb3_pwm.world_model.model import WorldModel

RENAMED = {"--episodes": "--eval-episodes"}


@dataclasses.dataclass(frozen=True)
class Extract:
    """
    Extract a policy for each of several tasks from one pretrained world model (PWM section 4.2).

    The environments are stepped for evaluation only. Policies that are there are not extracted again, so a command that
    was interrupted goes on when it is given again. The folder gets a model (.zip) and a result (.json) for each task
    and seed, scores.csv, and returns.png. Example:

    sb3-pwm extract --world-model wm.safetensors --dataset data/mt80 --tasks walker-walk mw-reach --out extracted

    :param world_model: World model: *.safetensors, or *.pt of the TD-MPC2 and PWM releases.
    :param dataset: Minari ids or folders, TD-MPC2's .pt files, or a stored data set.
    :param tasks: Tasks to extract policies for; mt30 and mt80 stand for their tasks.
    :param out: Folder of the policies.
    :param seeds: Seeds of the extractions; each gives a policy.
    :param config: What decides the outcome.
    :param settings: Named set of PWM's arguments: the defaults of this package, or those of the paper.
    :param params: PWM's arguments that depart from the settings, as a dictionary: "{'precision': 'bfloat16'}".
    :param tag: Name of these settings in files and tables; empty: the name of --settings.
    :param threads: Number of torch's threads; 0: one per core.
    :param device: Device of the networks; auto: a GPU if there is one.
    """

    world_model: Path
    dataset: tuple[str, ...]
    tasks: tuple[str, ...]
    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    config: Annotated[ExtractionConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ExtractionConfig)
    settings: Literal["default", "paper"] = "default"
    params: str = "{}"
    tag: str = ""
    threads: int = 0
    device: str = "auto"

    def run(self) -> None:
        """
        Extract the policies that are missing; print a table of all.

        :raises ValueError: If an option is wrong, the folder holds policies of other settings, or a task failed. A task
            that fails stops no other.
        :raises FileNotFoundError: If there is no such world model or data set.
        """
        register_envs()
        th.set_num_threads(self.threads or os.cpu_count() or 1)
        tasks, parameters = self._tasks(), self._parameters()
        if not tasks or not self.seeds:
            raise ValueError("Give at least one task and one seed.")
        WorldModel.load(self.world_model)  # a wrong file is to be told before data is read
        dataset = OfflineDataset.load(self.dataset)
        jobs = [(task, seed) for task in tasks for seed in self.seeds]
        missing = [(task, seed) for task, seed in jobs if not self._is_done(task, seed, parameters)]
        print(f"{len(jobs)} policies, {len(jobs) - len(missing)} of them extracted before", flush=True)
        failed = []
        for task, seed in missing:
            try:
                # The model is read anew for each: a task that is added is added to a copy.
                model, result = extract_policy(
                    WorldModel.load(self.world_model), dataset, task, seed, self.config, parameters, self.device
                )
            except (ValueError, OSError, MemoryError) as error:
                tqdm.write(f"{task}, seed {seed}: failed: {error}")
                failed.append(f"{task} (seed {seed})")
                continue
            description = {"tag": self._tag, "run": self._identity(parameters), "threads": th.get_num_threads()}
            write_result(model, {**result, **description}, self.out / task, self._name(seed))
            tqdm.write(f"{task}, seed {seed}: return {result['evaluations'][-1]['return']:.1f}")
        self._report()
        if failed:
            raise ValueError(f"{len(failed)} of {len(missing)} extractions failed: {', '.join(failed)}.")

    @property
    def _tag(self) -> str:
        return self.tag or self.settings

    def _name(self, seed: int) -> str:
        return f"{self._tag}-seed{seed}"

    def _tasks(self) -> list[str]:
        """:return: The tasks, suites replaced by their tasks."""
        names = [name for task in self.tasks for name in (SUITES[task].tasks if task in SUITES else (task,))]
        return list(dict.fromkeys(task_name(name) for name in names))

    def _parameters(self) -> dict[str, Any]:
        try:
            given = ast.literal_eval(self.params)
        except (ValueError, SyntaxError):
            given = None
        if not isinstance(given, dict):
            raise ValueError(f"--params must be a dictionary such as \"{{'horizon': 8}}\", got {self.params!r}.")
        return {**SETTINGS[self.settings], **given}

    def _identity(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """:return: What must be the same for a policy that is there to count as this command's."""
        return {
            "world_model": hashlib.sha256(self.world_model.read_bytes()).hexdigest()[:16],
            "dataset": list(self.dataset),
            "params": {name: repr(value) for name, value in parameters.items()},
            **dataclasses.asdict(self.config),
        }

    def _is_done(self, task: str, seed: int, parameters: dict[str, Any]) -> bool:
        path = self.out / task / f"{self._name(seed)}.json"
        if not path.is_file():
            return False
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))["run"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged, or no result of an extraction: {error!r}.") from error
        ours = self._identity(parameters)
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{path} is the result of another run ({name} {theirs.get(name)}, not {value}): choose another "
                    "--out or --tag."
                )
        return True

    def _report(self) -> None:
        results = read_results(self.out)
        if not results:
            return
        with atomic_write(self.out / "scores.csv") as file:
            file.write(summarize(results).to_csv(index=False).encode())
        if any(tag == self._tag for _, tag in results):
            plot(results, self._tag, self.out / "returns.png")
        print(table(results))
        print(f"Written: {self.out / 'scores.csv'}, {self.out / 'returns.png'}")
