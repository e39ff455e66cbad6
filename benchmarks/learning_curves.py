"""
Learning curves of PWM and SAC: run them, queue them, plot them, tabulate them.

One run is one process on one core, and its result one CSV file that grows by a line at every evaluation::

    python benchmarks/learning_curves.py run --algo pwm --env Walker-walk --seed 0 --steps 30000
    python benchmarks/learning_curves.py sweep --jobs 2          # every run behind the README's table, resumable
    python benchmarks/learning_curves.py plot                    # <out>/<env>.png and <out>/overview.png
    python benchmarks/learning_curves.py table                   # the Markdown table

Both algorithms take the same path: rl-zoo3's own ExperimentManager builds the environments and the model, PWM from
hyperparams/pwm.yml and SAC from rl-zoo3's sac.yml. The clocks stand still during evaluations.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rl_zoo3.exp_manager import ExperimentManager
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import VecEnv

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_OUT = Path("docs/curves")
DEFAULT_LOGS = Path("logs/learning_curves")
ALGOS = ("pwm", "sac")
SEEDS = (0, 1, 2)

# What the learners log under train/ and a curve keeps; an algorithm without one of them leaves the column empty.
TRAIN_METRICS = (
    "imagined_return",
    "value",
    "actor_loss",
    "critic_loss",
    "world_model_loss",
    "dynamics_loss",
    "reward_loss",
    "termination_loss",
    "actor_grad_norm",
    "n_updates",
)
COLUMNS = (
    "algo",
    "env",
    "seed",
    "tag",
    "agent_steps",
    "env_steps",
    "train_seconds",
    "cpu_seconds",
    "mean_return",
    "std_return",
    *TRAIN_METRICS,
)

# SB3's default of 100 random steps is a fifth of a DMControl episode: two whole episodes instead.
SAC_DMCONTROL = {"n_timesteps": 1_000_000, "policy": "MlpPolicy", "learning_starts": 1000}


@dataclasses.dataclass(frozen=True)
class Task:
    """
    One row of the comparison.

    :param env: Environment id
    :param steps: Agent steps at which the scores are compared
    :param eval_freq: Agent steps between two evaluations
    :param target: Score whose wall-clock is compared; ``None`` is SAC's own mean score at ``steps``
    :param action_repeat: Environment steps per agent step
    :param published: Published mean returns at 100,000 environment steps
    """

    env: str
    steps: int
    eval_freq: int
    target: float | None
    action_repeat: int = 1
    published: dict[str, float] = dataclasses.field(default_factory=dict)


# The published scores are those of the results folder released with TD-MPC2 (Hansen, Su, Wang, 2024), 3 seeds each.
PUBLISHED_AT = 100_000
TASKS = (
    Task("Pendulum-v1", 3_000, 500, -200.0),
    Task("Cartpole-swingup", 25_000, 2_500, 750.0, 2, {"TD-MPC2": 839.4, "SAC": 834.97, "DreamerV3": 676.73}),
    Task("Walker-walk", 30_000, 2_500, 900.0, 2, {"TD-MPC2": 961.9, "SAC": 708.17, "DreamerV3": 630.13}),
    Task("Cheetah-run", 50_000, 5_000, 520.0, 2, {"TD-MPC2": 519.13, "SAC": 310.13, "DreamerV3": 335.73}),
    Task("Hopper-v5", 50_000, 5_000, None),
)
# From images; not in the overview
IMAGE_TASKS = (
    Task("Pendulum-pixels", 5_000, 500, -200.0),
    Task("Pendulum-dict", 3_000, 500, -200.0),
)
TASK_OF = {task.env: task for task in (*TASKS, *IMAGE_TASKS)}


# ---------------------------------------------------------------------------------------------------------------- run


@dataclasses.dataclass(frozen=True)
class Run:
    """
    One training run.

    :param algo: ``pwm`` or ``sac``
    :param env: Environment id
    :param seed: Seed of the environment and the learner; evaluations use another
    :param steps: Agent steps at which the run ends
    :param eval_freq: Agent steps between two evaluations
    :param eval_episodes: Episodes of one evaluation
    :param hyperparams: Overrides of the resolved hyperparameters, in the zoo's notation
    :param tag: Name of the variant, part of the file name
    :param stop_at: Score that ends the run once an evaluation has reached it
    :param stop_after: Agent steps before which ``stop_at`` does not end the run
    """

    algo: str
    env: str
    seed: int
    steps: int
    eval_freq: int
    eval_episodes: int = 10
    hyperparams: str = "{}"
    tag: str = ""
    stop_at: float | None = None
    stop_after: int = 0

    @property
    def name(self) -> str:
        """File name without its suffix."""
        return f"{self.algo}{'-' + self.tag if self.tag else ''}-seed{self.seed}"

    def csv_path(self, out: Path) -> Path:
        """Where the curve is kept below ``out``."""
        return out / self.env / f"{self.name}.csv"

    def ends(self, agent_steps: int, best: float) -> bool:
        """Whether a run that has come this far, with this best evaluation, is over."""
        if agent_steps >= self.steps:
            return True
        return self.stop_at is not None and best >= self.stop_at and agent_steps >= self.stop_after

    def finished(self, out: Path) -> bool:
        """Whether the curve below ``out`` goes to the end and was made with today's hyperparameters."""
        path = self.csv_path(out)
        if not path.exists() or not self.current(path.with_suffix(".json")):
            return False
        curve = Curve.read(path)
        return bool(curve.rows) and self.ends(curve.agent_steps[-1], max(curve.returns))

    def current(self, description: Path) -> bool:
        """Whether the run described in this JSON file had the hyperparameters that hyperparams/pwm.yml has now."""
        if self.algo != "pwm" or not description.exists():
            return True
        before = json.loads(description.read_text())["hyperparameters"]
        now = {**resolve_hyperparams(self.algo, self.env)[0], **json.loads(self.hyperparams)}

        def of_learning(hyperparams: dict[str, Any]) -> dict[str, Any]:
            # How long to train is the run's own setting; compilation changes nothing that is learned.
            return {name: value for name, value in hyperparams.items() if name not in ("n_timesteps", "compile")}

        return of_learning(before) == of_learning(json.loads(json.dumps(now)))

    def arguments(self) -> list[str]:
        """The command line of the ``run`` subcommand."""
        arguments = ["--algo", self.algo, "--env", self.env, "--seed", str(self.seed), "--steps", str(self.steps)]
        arguments += ["--eval-freq", str(self.eval_freq), "--eval-episodes", str(self.eval_episodes)]
        if json.loads(self.hyperparams):
            arguments += ["--hyperparams", self.hyperparams]
        if self.tag:
            arguments += ["--tag", self.tag]
        if self.stop_at is not None:
            arguments += [f"--stop-at={self.stop_at}", "--stop-after", str(self.stop_after)]
        return arguments


def register() -> None:
    """Register PWM with rl-zoo3 and the package's environments with Gymnasium."""
    import sb3_pwm.zoo  # noqa: F401
    from sb3_pwm.envs import register_envs

    register_envs()


def action_repeat(env_id: str) -> int:
    """Environment steps per agent step: 2 for the package's suites, 1 for everything else."""
    import gymnasium as gym

    spec = gym.spec(env_id)
    if "action_repeat" in spec.kwargs:
        return int(spec.kwargs["action_repeat"])
    suites = ("sb3_pwm.envs.dm_control", "sb3_pwm.envs.meta_world")
    return 2 if str(spec.entry_point).startswith(suites) else 1


def resolve_hyperparams(algo: str, env_id: str) -> tuple[dict[str, Any], str]:
    """
    Look an environment's hyperparameters up in the zoo's notation.

    PWM: its entry in hyperparams/pwm.yml, else ``default``. SAC: its entry in rl-zoo3's sac.yml, else the entry of
    another version of the same environment (Hopper-v4 for Hopper-v5), else SB3's defaults.

    :return: The hyperparameters, and where they came from in words
    """
    import yaml

    if algo == "pwm":
        path = ROOT / "hyperparams" / "pwm.yml"
    else:
        import rl_zoo3

        path = Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml"
    entries: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())
    source = f"hyperparams/{algo}.yml" if algo == "pwm" else f"rl-zoo3's {algo}.yml"
    if env_id in entries:
        return dict(entries[env_id]), f"{source}, {env_id}"
    base = re.sub(r"-v\d+$", "", env_id)
    versions = [key for key in entries if re.fullmatch(re.escape(base) + r"-v\d+", key)]
    if versions and base != env_id:
        return dict(entries[versions[-1]]), f"{source}, {versions[-1]}"
    if algo == "sac" and env_id in {task.env for task in IMAGE_TASKS}:
        of_pwm, _ = resolve_hyperparams("pwm", env_id)
        shared = {name: of_pwm[name] for name in ("policy", "learning_starts", "buffer_size")}
        return {"n_timesteps": 1_000_000, **shared}, f"SB3's SAC defaults, with {', '.join(shared)} of PWM"
    if algo == "sac" and action_repeat(env_id) > 1:
        return dict(SAC_DMCONTROL), f"SB3's SAC defaults, learning_starts {SAC_DMCONTROL['learning_starts']}"
    return dict(entries["default"]), f"{source}, default"


def make_manager(run: Run, hyperparams: dict[str, Any], folder: Path) -> ExperimentManager:
    """rl-zoo3's ExperimentManager for these hyperparameters, with everything it writes going below ``folder``."""
    import yaml
    from rl_zoo3.exp_manager import ExperimentManager

    config = folder / f"{run.algo}.yml"
    config.write_text(yaml.safe_dump({run.env: hyperparams}))
    return ExperimentManager(
        argparse.Namespace(algo=run.algo, env=run.env, seed=run.seed),
        run.algo,
        run.env,
        str(folder / "logs"),
        n_timesteps=run.steps,
        eval_freq=-1,
        seed=run.seed,
        verbose=0,
        device="cpu",
        config=str(config),
    )


def make_evaluation_env(manager: ExperimentManager, episodes: int) -> VecEnv:
    """Environments with the training one's wrappers and normalization and seeds of their own, one an episode."""
    seed = manager.seed
    manager.seed = seed + 10_000
    try:
        return manager.create_envs(episodes, eval_env=True)
    finally:
        manager.seed = seed


def make_callback(run: Run, eval_env: VecEnv, path: Path) -> BaseCallback:
    """
    The callback that evaluates the deterministic policy and writes the curve.

    :param run: The run
    :param eval_env: Environment of the evaluations
    :param path: The CSV file, which gets a header now and a line at every evaluation
    """
    import numpy as np
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import sync_envs_normalization

    repeat = action_repeat(run.env)
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(COLUMNS)

    class CurveCallback(BaseCallback):
        """Evaluates every ``eval_freq`` agent steps; its two clocks run only between evaluations."""

        def __init__(self) -> None:
            super().__init__()
            self.next_evaluation = run.eval_freq
            self.train_seconds = self.cpu_seconds = 0.0
            self.best = -np.inf
            self.metrics: dict[str, float] = {}

        def _start_clocks(self) -> None:
            self.wall_start, self.cpu_start = time.perf_counter(), time.process_time()

        def _stop_clocks(self) -> None:
            self.train_seconds += time.perf_counter() - self.wall_start
            self.cpu_seconds += time.process_time() - self.cpu_start

        def _on_training_start(self) -> None:
            self._start_clocks()

        def _on_step(self) -> bool:
            # The logger forgets its values at every dump, so the last ones are remembered here.
            logged = self.logger.name_to_value
            self.metrics.update((m, logged[f"train/{m}"]) for m in TRAIN_METRICS if f"train/{m}" in logged)
            if self.num_timesteps < min(self.next_evaluation, run.steps):
                return True
            self.next_evaluation = (self.num_timesteps // run.eval_freq + 1) * run.eval_freq
            self._stop_clocks()
            self._evaluate()
            self._start_clocks()
            return not run.ends(self.num_timesteps, self.best)

        def _evaluate(self) -> None:
            started = time.perf_counter()
            if self.model.get_vec_normalize_env() is not None:
                sync_envs_normalization(self.training_env, eval_env)
            returns, _ = evaluate_policy(self.model, eval_env, run.eval_episodes, return_episode_rewards=True)
            mean, std = float(np.mean(returns)), float(np.std(returns))
            self.best = max(self.best, mean)
            row: dict[str, Any] = {
                "algo": run.algo,
                "env": run.env,
                "seed": run.seed,
                "tag": run.tag,
                "agent_steps": self.num_timesteps,
                "env_steps": self.num_timesteps * repeat,
                "train_seconds": f"{self.train_seconds:.2f}",
                "cpu_seconds": f"{self.cpu_seconds:.2f}",
                "mean_return": f"{mean:.3f}",
                "std_return": f"{std:.3f}",
                **{metric: f"{value:.6g}" for metric, value in self.metrics.items()},
            }
            with path.open("a", newline="") as file:
                csv.DictWriter(file, COLUMNS).writerow(row)
            imagined = self.metrics.get("imagined_return")
            print(
                f"{run.algo}{' ' + run.tag if run.tag else ''} {run.env} seed {run.seed}: "
                f"{self.num_timesteps}/{run.steps} steps, return {mean:.1f} +- {std:.1f}, "
                f"{self.train_seconds:.0f} s training ({self.cpu_seconds:.0f} s CPU), "
                f"{time.perf_counter() - started:.0f} s evaluation"
                + (f", imagined return {imagined:.1f}" if imagined is not None else ""),
                flush=True,
            )

    return CurveCallback()


def processor() -> str:
    """The processor's name, as /proc/cpuinfo tells it."""
    import platform

    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def describe(run: Run, hyperparams: dict[str, Any], source: str, model: BaseAlgorithm) -> dict[str, Any]:
    """What a reader needs to repeat the run, for the JSON file beside the curve."""
    import platform
    from importlib import metadata

    packages = ("sb3-pwm", "stable-baselines3", "rl-zoo3", "torch", "gymnasium", "mujoco", "dm-control")
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "command": "python benchmarks/learning_curves.py run " + " ".join(run.arguments()),
        "hyperparameters_from": source,
        "hyperparameters": hyperparams,
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
        "cpu": processor(),
        "threads": 1,
        "python": platform.python_version(),
        "versions": versions,
    }


def train(run: Run, out: Path) -> None:
    """
    Train once and write the curve.

    :param run: The run
    :param out: Folder of the curves
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported
    import torch

    torch.set_num_threads(1)
    register()
    path = run.csv_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    hyperparams, source = resolve_hyperparams(run.algo, run.env)
    overrides = json.loads(run.hyperparams)
    hyperparams.update(overrides)
    if overrides:
        source += "; overridden: " + ", ".join(sorted(overrides))
    with tempfile.TemporaryDirectory() as folder:
        manager = make_manager(run, hyperparams, Path(folder))
        with contextlib.redirect_stdout(sys.stderr):  # the zoo's own messages; stdout is for the progress
            experiment = manager.setup_experiment()
            assert experiment is not None
            model, _ = experiment
            eval_env = make_evaluation_env(manager, run.eval_episodes)
        path.with_suffix(".json").write_text(json.dumps(describe(run, hyperparams, source, model), indent=2) + "\n")
        print(f"{run.algo} {run.env} seed {run.seed}: hyperparameters from {source}", flush=True)
        try:
            model.learn(manager.n_timesteps, callback=[*manager.callbacks, make_callback(run, eval_env, path)])
        finally:
            eval_env.close()
            if model.env is not None:
                model.env.close()


def run_command(args: argparse.Namespace) -> int:
    """The ``run`` subcommand."""
    task = TASK_OF.get(args.env)
    run = Run(
        algo=args.algo,
        env=args.env,
        seed=args.seed,
        steps=args.steps,
        eval_freq=args.eval_freq or (task.eval_freq if task else max(args.steps // 20, 1)),
        eval_episodes=args.eval_episodes,
        hyperparams=args.hyperparams,
        tag=args.tag,
        stop_at=args.stop_at,
        stop_after=args.stop_after,
    )
    path = run.csv_path(args.out)
    if path.exists() and not args.force:
        print(f"{path} exists already: give another --tag, or --force to replace it.", file=sys.stderr)
        return 2
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    train(run, args.out)
    return 0


# -------------------------------------------------------------------------------------------------------------- sweep


def preset_runs(seeds: Iterable[int], sac_factor: int) -> list[Run]:
    """
    Every run behind the table, the first seed of every task first.

    SAC goes on past the compared step, up to ``sac_factor`` times as far, until it has reached the target: that gives
    its score at the compared step and its wall-clock to the target in one run.
    """
    runs = []
    for seed in seeds:
        for task in (*TASKS, *IMAGE_TASKS):
            runs.append(Run("pwm", task.env, seed, task.steps, task.eval_freq))
            longer = task.steps * (sac_factor if task.target is not None else 1)
            runs.append(Run("sac", task.env, seed, longer, task.eval_freq, stop_at=task.target, stop_after=task.steps))
    return runs


def parse_runs(text: str) -> list[Run]:
    """
    Runs from ``algo,env,seeds,steps``, seeds being one (``0``), several (``0+3``) or a range (``0-2``).
    """
    try:
        algo, env, seed_text, steps = text.split(",")
        seeds: list[int] = []
        for part in seed_text.split("+"):
            first, _, last = part.partition("-")
            seeds.extend(range(int(first), int(last or first) + 1))
        eval_freq = TASK_OF[env].eval_freq if env in TASK_OF else max(int(steps) // 20, 1)
        if algo not in ALGOS:
            raise ValueError(algo)
        return [Run(algo, env, seed, int(steps), eval_freq) for seed in seeds]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not algo,env,seeds,steps with algo one of {', '.join(ALGOS)}, as in pwm,Walker-walk,0-2,30000"
        ) from error


def select(runs: Sequence[Run], only: str) -> list[Run]:
    """
    Keep the runs that match a filter such as ``Walker-walk,Hopper-v5,pwm,0``.

    Terms of one kind (environments, algorithms, seeds) are alternatives; a kind without terms keeps everything.
    """
    terms = {term for term in only.split(",") if term}
    kinds: list[set[str]] = [{r.env for r in runs}, {r.algo for r in runs}, {str(r.seed) for r in runs}]
    unknown = terms - set().union(*kinds)
    if unknown:
        raise SystemExit(f"--only: nothing in the queue is called {', '.join(sorted(unknown))}.")
    wanted = [(kind & terms) or kind for kind in kinds]
    return [r for r in runs if r.env in wanted[0] and r.algo in wanted[1] and str(r.seed) in wanted[2]]


def progress_of(run: Run, out: Path) -> str:
    """How far a run has come, in a few words."""
    path = run.csv_path(out)
    rows = Curve.read(path).rows if path.exists() else []
    return f"{run.env} {run.name} " + (f"{rows[-1].agent_steps}/{run.steps}" if rows else "starting")


def run_queue(runs: Sequence[Run], out: Path, logs: Path, cores: Sequence[int], poll_seconds: float = 2.0) -> int:
    """
    Run a queue of trainings, one subprocess on each core.

    A run that fails is reported and the others go on; when this process ends early, its runs end with it.

    :return: The number of runs that failed
    """
    queue = [run for run in runs if not run.finished(out)]
    total, done, failed = len(runs), len(runs) - len(queue), 0
    print(f"{total} runs, {done} of them finished before", flush=True)
    slots: dict[int, tuple[Run, subprocess.Popen[bytes]]] = {}
    last_report = time.monotonic()
    try:
        while queue or slots:
            for core in cores:
                if core not in slots and queue:
                    run = queue.pop(0)
                    slots[core] = (run, start(run, out, logs, core))
                    print(f"[{done}/{total}] core {core}: {run.env} {run.name} starts", flush=True)
            time.sleep(poll_seconds)
            for core, (run, process) in list(slots.items()):
                if process.poll() is None:
                    continue
                del slots[core]
                done += 1
                if process.returncode == 0 and run.finished(out):
                    last = Curve.read(run.csv_path(out)).rows[-1]
                    ended = f"return {last.mean_return:.1f} after {last.agent_steps} steps, {last.train_seconds:.0f} s"
                else:
                    failed += 1
                    ended = f"FAILED with exit status {process.returncode}, see {log_path(run, logs)}"
                print(f"[{done}/{total}] {run.env} {run.name}: {ended}", flush=True)
            if time.monotonic() - last_report > 300:
                last_report = time.monotonic()
                print(f"[{done}/{total}] " + "; ".join(progress_of(r, out) for r, _ in slots.values()), flush=True)
    finally:
        for _, process in slots.values():
            process.terminate()
        for _, process in slots.values():
            process.wait()
    return failed


def log_path(run: Run, logs: Path) -> Path:
    """Where a queued run's output goes."""
    return logs / run.env / f"{run.name}.log"


def start(run: Run, out: Path, logs: Path, core: int) -> subprocess.Popen[bytes]:
    """Start a run as a subprocess on one core, its output going to its log."""
    log = log_path(run, logs)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "run", *run.arguments()]
    command += ["--out", str(out), "--core", str(core), "--force"]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def sweep_command(args: argparse.Namespace) -> int:
    """The ``sweep`` subcommand."""
    allowed = sorted(os.sched_getaffinity(0))
    cores = (args.cores or allowed)[: args.jobs]
    if len(cores) < args.jobs or not set(cores) <= set(allowed):
        raise SystemExit(
            f"--jobs {args.jobs} needs {args.jobs} cores out of {allowed}: one run keeps one core busy, and two on one "
            "would spoil both timings."
        )
    runs = [run for group in args.runs for run in group] or preset_runs(SEEDS, args.sac_factor)
    runs = [dataclasses.replace(run, tag=args.tag, hyperparams=args.hyperparams) for run in runs]
    runs = select(runs, args.only)
    if args.dry_run:
        for run in runs:
            print(("done  " if run.finished(args.out) else "to do "), " ".join(run.arguments()))
        return 0

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)  # so that the runs end with the sweep
    try:
        return 1 if run_queue(runs, args.out, args.logs, cores) else 0
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on with what is missing.", file=sys.stderr)
        return 130


# ------------------------------------------------------------------------------------------------------------- curves


@dataclasses.dataclass(frozen=True)
class Row:
    """One evaluation."""

    agent_steps: int
    env_steps: int
    train_seconds: float
    cpu_seconds: float
    mean_return: float


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run's evaluations, in the order of the steps."""

    algo: str
    env: str
    seed: int
    tag: str
    rows: list[Row]

    @classmethod
    def read(cls, path: Path) -> Curve:
        """Read a run's CSV file; a last line that a killed run left unfinished is dropped."""
        with path.open(newline="") as file:
            lines = [line for line in csv.DictReader(file) if line.get(COLUMNS[-1]) is not None]
        rows = [
            Row(
                int(line["agent_steps"]),
                int(line["env_steps"]),
                float(line["train_seconds"]),
                float(line["cpu_seconds"]),
                float(line["mean_return"]),
            )
            for line in lines
        ]
        stem, _, seed = path.stem.rpartition("-seed")
        algo, _, tag = stem.partition("-")
        return cls(algo, path.parent.name, int(seed), tag, rows)

    @property
    def agent_steps(self) -> list[int]:
        """Agent steps of the evaluations."""
        return [row.agent_steps for row in self.rows]

    @property
    def returns(self) -> list[float]:
        """Mean returns of the evaluations."""
        return [row.mean_return for row in self.rows]

    def score_at(self, agent_steps: int) -> float | None:
        """Return of the first evaluation at or after this many agent steps, ``None`` if the run ended before."""
        return next((row.mean_return for row in self.rows if row.agent_steps >= agent_steps), None)

    def seconds_to(self, score: float, cpu: bool = False) -> float | None:
        """Training seconds at the first evaluation that reached this score, ``None`` if none did."""
        for row in self.rows:
            if row.mean_return >= score:
                return row.cpu_seconds if cpu else row.train_seconds
        return None


def read_curves(folder: Path) -> list[Curve]:
    """All curves below a folder, ordered by environment, algorithm, tag and seed; empty ones are left out."""
    curves = [Curve.read(path) for path in folder.glob("*/*-seed*.csv")]
    order = {task.env: index for index, task in enumerate(TASKS)}
    curves.sort(key=lambda curve: (order.get(curve.env, len(order)), curve.env, curve.algo, curve.tag, curve.seed))
    return [curve for curve in curves if curve.rows]


def label_of(curve: Curve) -> str:
    """The name of a curve's algorithm and variant, as printed."""
    return curve.algo.upper() + (f" {curve.tag}" if curve.tag else "")


def group_by_label(curves: Iterable[Curve]) -> dict[str, list[Curve]]:
    """The seeds of each algorithm and variant."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(label_of(curve), []).append(curve)
    return groups


def group_by_env(curves: Iterable[Curve]) -> dict[str, list[Curve]]:
    """The curves of each environment."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.env, []).append(curve)
    return groups


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def target_of(task: Task, curves: Iterable[Curve]) -> float | None:
    """The score whose wall-clock is compared: the task's own, else SAC's mean at the compared step."""
    if task.target is not None:
        return task.target
    scores = [curve.score_at(task.steps) for curve in curves if label_of(curve) == "SAC"]
    reached = [score for score in scores if score is not None]
    return mean(reached) if reached else None


def task_of(env: str, curves: Sequence[Curve]) -> Task:
    """The comparison's task, or for an environment outside it one that ends where its curves end."""
    if env in TASK_OF:
        return TASK_OF[env]
    last = curves[0].rows[-1]
    return Task(env, max(curve.agent_steps[-1] for curve in curves), 0, None, last.env_steps // last.agent_steps)


# --------------------------------------------------------------------------------------------------------------- plot

COLORS = {"PWM": "#0b62a4", "SAC": "#d1651a"}
OTHER_COLORS = ("#3a8f5c", "#8b4fa3", "#7a5c3e", "#c23b67", "#5b6770", "#a38a00")
PUBLISHED_COLORS = {"TD-MPC2": "#3a8f5c", "SAC": "#d1651a", "DreamerV3": "#8b4fa3"}
PUBLISHED_MARKERS = {"TD-MPC2": "D", "SAC": "o", "DreamerV3": "s"}
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.edgecolor": "#888888",
    "axes.titlesize": 11,
    "figure.titlesize": 12,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.columnspacing": 1.4,
    "legend.handlelength": 1.6,
    "savefig.dpi": 160,
}


def draw_group(axes: Axes, curves: Sequence[Curve], label: str, color: str, clock: str, unit: float) -> None:
    """
    Draw one algorithm: every seed thin, their range shaded, their mean thick as far as all seeds go.

    :param clock: ``env_steps``, ``train_seconds`` or ``cpu_seconds``
    :param unit: What the clock is divided by
    """
    for curve in curves:
        x = [getattr(row, clock) / unit for row in curve.rows]
        axes.plot(x, curve.returns, color=color, linewidth=0.7, alpha=0.45)
    steps = [n for n in curves[0].agent_steps if all(n in curve.agent_steps for curve in curves)]
    at_step = [[row for curve in curves for row in curve.rows if row.agent_steps == n] for n in steps]
    x = [mean([getattr(row, clock) / unit for row in rows]) for rows in at_step]
    scores = [[row.mean_return for row in rows] for rows in at_step]
    seeds = f"{len(curves)} seed{'s' if len(curves) > 1 else ''}"
    axes.plot(x, [mean(s) for s in scores], color=color, linewidth=2.2, label=f"{label} ({seeds})")
    axes.fill_between(x, [min(s) for s in scores], [max(s) for s in scores], color=color, alpha=0.13, linewidth=0)


def draw_task(axes: Axes, task: Task, curves: Sequence[Curve], clock: str, published: bool) -> None:
    """Draw one task against environment steps or against training time."""
    unit, limit = 1.0, max(getattr(curve.rows[-1], clock) for curve in curves)
    if clock == "env_steps":
        from matplotlib.ticker import FuncFormatter

        limit = task.steps * task.action_repeat
        if published and task.published:
            limit = max(limit, PUBLISHED_AT)
            for name, score in task.published.items():
                color = PUBLISHED_COLORS[name]
                (point,) = axes.plot(PUBLISHED_AT, score, PUBLISHED_MARKERS[name], color=color, clip_on=False)
                point.set(label=f"{name}, published", markersize=6, markerfacecolor="none", markeredgewidth=1.6)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x else "0"))
        axes.set_xlabel("environment steps")
    else:
        unit = 60.0 if limit > 900 else 1.0
        axes.set_xlabel(f"training {'CPU ' if clock == 'cpu_seconds' else ''}{'minutes' if unit > 1 else 'seconds'}")
    axes.set_xlim(0, limit / unit)
    others = itertools.cycle(OTHER_COLORS)
    for label, group in group_by_label(curves).items():
        draw_group(axes, group, label, COLORS.get(label) or next(others), clock, unit)
    target = target_of(task, curves)
    if target is not None:
        axes.axhline(target, color="#555555", linewidth=1, linestyle=(0, (4, 3)), label="score to reach")


def add_legend(figure: Figure) -> None:
    """One legend below a figure for all its panels: the runs first, then the published scores, a name once."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    labels = sorted(entries, key=lambda label: label.endswith("published"))
    figure.legend([entries[label] for label in labels], labels, loc="outside lower center", ncols=len(labels))


def plot_command(args: argparse.Namespace) -> int:
    """The ``plot`` subcommand."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    clock = "cpu_seconds" if args.clock == "cpu" else "train_seconds"
    by_env = group_by_env(read_curves(args.out))
    if not by_env:
        raise SystemExit(f"No curves below {args.out}: run the benchmark first.")
    with plt.rc_context(STYLE):
        for env, curves in by_env.items():
            task = task_of(env, curves)
            figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.7), sharey=True, layout="constrained")
            draw_task(left, task, curves, "env_steps", args.published)
            draw_task(right, task, curves, clock, args.published)
            left.set_ylabel("return, 10 deterministic episodes")
            add_legend(figure)
            figure.suptitle(env, fontweight="bold")
            figure.savefig(args.out / f"{env}.png")
            plt.close(figure)
        in_overview = {task.env for task in TASKS}
        known = {env: curves for env, curves in by_env.items() if env in in_overview} or by_env
        figure, grid = plt.subplots(
            2, len(known), figsize=(2.3 * len(known) + 0.6, 5), sharey="col", squeeze=False, layout="constrained"
        )
        for column, (env, curves) in enumerate(known.items()):
            task = task_of(env, curves)
            draw_task(grid[0, column], task, curves, "env_steps", args.published)
            draw_task(grid[1, column], task, curves, clock, args.published)
            grid[0, column].set_title(env, fontweight="bold")
        for axes in grid[:, 0]:
            axes.set_ylabel("return")
        add_legend(figure)
        figure.savefig(args.out / "overview.png")
        plt.close(figure)
    return 0


# -------------------------------------------------------------------------------------------------------------- table


def score_cell(curves: Sequence[Curve], agent_steps: int) -> str:
    """
    Mean over the seeds at the compared step, and each seed.

    A run that ended before, as one that was told to stop at a score does, counts with its last evaluation and its step.
    """
    scores, each = [], []
    for curve in (curve for curve in curves if curve.rows):
        score, last = curve.score_at(agent_steps), curve.rows[-1]
        scores.append(last.mean_return if score is None else score)
        each.append(f"{scores[-1]:.0f}" + (f" at {last.env_steps:,}" if score is None else ""))
    return f"**{mean(scores):.0f}** ({', '.join(each)})" if scores else "-"


def seconds_cell(seconds: Sequence[float | None]) -> str:
    """Mean time of the seeds that reached the score, and how many did."""
    reached = [value for value in seconds if value is not None]
    if not reached:
        return "not reached" if seconds else "-"
    return f"{mean(reached):.0f} s" + ("" if len(reached) == len(seconds) else f" ({len(reached)} of {len(seconds)})")


def ratio_cell(pwm: Sequence[Curve], sac: Sequence[Curve], target: float, cpu: bool) -> str:
    """
    SAC's time divided by PWM's.

    Where a seed of SAC did not reach the target its whole run is a lower bound, and so is the ratio; where a seed of
    PWM did not, there is no ratio.
    """
    pwm_seconds = [curve.seconds_to(target, cpu) for curve in pwm]
    reached = [value for value in pwm_seconds if value is not None]
    if not sac or not reached or len(reached) < len(pwm):
        return "-"
    bound, sac_seconds = "", []
    for curve in sac:
        seconds = curve.seconds_to(target, cpu)
        if seconds is None:
            bound = "> "
            seconds = curve.rows[-1].cpu_seconds if cpu else curve.rows[-1].train_seconds
        sac_seconds.append(seconds)
    return f"{bound}{mean(sac_seconds) / mean(reached):.2g}"


def make_table(curves: Sequence[Curve], cpu: bool = False, sac_at: int | None = None) -> str:
    """
    The comparison as a Markdown table.

    :param curves: All curves
    :param cpu: Whether times are process CPU seconds instead of wall-clock
    :param sac_at: Environment steps at which SAC's mean score is the score to reach, in place of each task's; tasks
        without a curve of SAC that goes so far are left out
    """
    clock = "CPU time" if cpu else "wall-clock"
    lines = [
        f"| task | env steps | PWM (each seed) | SAC (each seed) | score | PWM {clock} to it | SAC {clock} to it "
        "| SAC / PWM |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for env, of_env in group_by_env(curves).items():
        task = task_of(env, of_env)
        groups = group_by_label(of_env)
        if sac_at is not None:
            task = dataclasses.replace(task, steps=sac_at // task.action_repeat, target=None)
        target = target_of(task, of_env)
        if sac_at is not None and target is None:
            continue
        sac = groups.pop("SAC", [])
        for label, pwm in (groups or {"PWM": []}).items():
            name = env if label == "PWM" else f"{env} ({label})"
            cells = [name, f"{task.steps * task.action_repeat:,}", score_cell(pwm, task.steps)]
            cells.append(score_cell(sac, task.steps))
            if target is None:
                cells += ["-"] * 4
            else:
                cells.append(f"{target:.0f}" + ("" if task.target is not None else " (SAC's)"))
                cells += [seconds_cell([curve.seconds_to(target, cpu) for curve in group]) for group in (pwm, sac)]
                cells.append(ratio_cell(pwm, sac, target, cpu))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_command(args: argparse.Namespace) -> int:
    """The ``table`` subcommand."""
    print(make_table(read_curves(args.out), cpu=args.clock == "cpu", sac_at=args.sac_at))
    return 0


# ------------------------------------------------------------------------------------------------------- command line


def json_object(text: str) -> str:
    """An argument that must be a JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"horizon": 4}}')
    return text


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        sub.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the curves (default: %(default)s)")
        return sub

    def variant(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--tag", default="", help="name of this variant, part of the file name")
        sub.add_argument(
            "--hyperparams",
            type=json_object,
            default="{}",
            help='overrides as JSON, in the zoo\'s notation: {"horizon": 4, "policy_kwargs": "dict(n_critics=3)"}',
        )

    run = command("run", run_command, "train once, on one core")
    run.add_argument("--algo", choices=ALGOS, required=True)
    run.add_argument("--env", required=True)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--steps", type=int, required=True, help="agent steps")
    run.add_argument("--eval-freq", type=int, help="agent steps between evaluations (default: the task's, else a 20th)")
    run.add_argument("--eval-episodes", type=int, default=10)
    run.add_argument("--stop-at", type=float, help="end once an evaluation has reached this score")
    run.add_argument("--stop-after", type=int, default=0, help="but not before this many agent steps")
    run.add_argument("--core", type=int, help="pin the process to this core")
    run.add_argument("--force", action="store_true", help="replace an earlier run's file")
    variant(run)

    sweep = command("sweep", sweep_command, "run a queue of trainings, skipping those that are finished")
    sweep.add_argument(
        "runs",
        nargs="*",
        type=parse_runs,
        metavar="algo,env,seeds,steps",
        help="such as pwm,Walker-walk,0-2,30000 (default: every run behind the README's table)",
    )
    sweep.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each (default: %(default)s)")
    sweep.add_argument("--cores", type=int, nargs="+", help="cores to use (default: the first ones)")
    sweep.add_argument("--only", default="", help="keep what matches, such as Walker-walk,pwm,0")
    sweep.add_argument("--sac-factor", type=int, default=3, help="how much longer SAC may take to reach the target")
    sweep.add_argument("--logs", type=Path, default=DEFAULT_LOGS, help="folder of the output (default: %(default)s)")
    sweep.add_argument("--dry-run", action="store_true", help="print the queue only")
    variant(sweep)

    for name, function, text in (
        ("plot", plot_command, "draw one picture per environment, and an overview"),
        ("table", table_command, "print the comparison as a Markdown table"),
    ):
        sub = command(name, function, text)
        sub.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="wall-clock or process CPU time")
        if name == "table":
            sub.add_argument(
                "--sac-at", type=int, help="the score to reach is SAC's at this many environment steps, such as 100000"
            )
        if name == "plot":
            sub.add_argument("--no-published", dest="published", action="store_false", help="no published scores")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    args = make_parser().parse_args(arguments)
    result: int = args.function(args)
    return result


if __name__ == "__main__":
    sys.exit(main())
