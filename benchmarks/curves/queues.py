"""Queues of runs, one subprocess on each core."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from curves.published import DMC21
from curves.reading import is_finished, read_curve
from curves.runs import ALGOS, IMAGE_TASKS, TASK_OF, TASKS, Run

SCRIPT = Path(__file__).resolve().parents[1] / "learning_curves.py"


def preset_runs(seeds: Iterable[int], sac_factor: int) -> list[Run]:
    """
    Every run behind the table, the first seed of every task first.

    :param seeds: The seeds.
    :param sac_factor: How many times as far as the compared step SAC goes on, until it has reached the score. One run
        gives its score at the compared step and its time to the score.
    :return: The runs.
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
    :param text: ``algo,env,seeds,steps``, the seeds being one (``0``), several (``0+3``) or a range (``0-2``). The
        environment ``dmc21`` stands for those of :data:`~curves.published.DMC21`.
    :return: The runs.
    :raises argparse.ArgumentTypeError: If it is of another form.
    """
    try:
        algo, env, seed_text, steps = text.split(",")
        seeds: list[int] = []
        for part in seed_text.split("+"):
            first, _, last = part.partition("-")
            seeds.extend(range(int(first), int(last or first) + 1))
        if algo not in ALGOS:
            raise ValueError(algo)
        envs = DMC21 if env == "dmc21" else (env,)
        every = {env: TASK_OF[env].eval_freq if env in TASK_OF else max(int(steps) // 20, 1) for env in envs}
        return [Run(algo, env, seed, int(steps), every[env]) for seed in seeds for env in envs]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not algo,env,seeds,steps with algo one of {', '.join(ALGOS)}, as in pwm,Walker-walk,0-2,30000"
        ) from error


def select(runs: Sequence[Run], only: str) -> list[Run]:
    """
    Keep the runs that match a filter.

    :param runs: The runs.
    :param only: Filter such as ``Walker-walk,Hopper-v5,pwm,0``. Terms of one kind (environments, algorithms, seeds) are
        alternatives; a kind without terms keeps everything.
    :return: The runs that match.
    """
    terms = {term for term in only.split(",") if term}
    kinds: list[set[str]] = [{r.env for r in runs}, {r.algo for r in runs}, {str(r.seed) for r in runs}]
    unknown = terms - set().union(*kinds)
    if unknown:
        raise SystemExit(f"--only: nothing in the queue is called {', '.join(sorted(unknown))}.")
    wanted = [(kind & terms) or kind for kind in kinds]
    return [r for r in runs if r.env in wanted[0] and r.algo in wanted[1] and str(r.seed) in wanted[2]]


def run_queue(
    runs: Sequence[Run],
    out: Path,
    logs: Path,
    cores: Sequence[int],
    poll_seconds: float = 1.0,
    minutes: float | None = None,
) -> int:
    """
    Run a queue. A run that fails is reported and the others go on. When this process ends early, its runs end with it.

    :param runs: The runs; finished ones are skipped.
    :param out: Folder of the curves.
    :param logs: Folder of the runs' output.
    :param cores: Cores to use, a run on each.
    :param poll_seconds: Seconds between looks at the runs.
    :param minutes: Time after which no further run starts; those that have started go on to their ends. None: no limit.
    :return: The number of runs that failed.
    """
    queue = [run for run in runs if not is_finished(run, out)]
    total, done, failed = len(runs), len(runs) - len(queue), 0
    print(f"{total} runs, {done} of them finished before", flush=True)
    slots: dict[int, tuple[Run, subprocess.Popen[bytes]]] = {}
    start = last_report = time.monotonic()
    try:
        while queue or slots:
            if minutes is not None and queue and time.monotonic() - start >= 60.0 * minutes:
                print(f"{minutes:g} minutes are over: {len(queue)} runs are left for the next call", flush=True)
                queue.clear()
            for core in cores:
                if core not in slots and queue:
                    run = queue.pop(0)
                    slots[core] = (run, _start(run, out, logs, core))
                    print(f"[{done}/{total}] core {core}: {run.env} {run.name} starts", flush=True)
            time.sleep(poll_seconds)
            for core, (run, process) in list(slots.items()):
                if process.poll() is None:
                    continue
                del slots[core]
                done += 1
                succeeded = process.returncode == 0 and is_finished(run, out)
                failed += not succeeded
                ended = _result(run, out) if succeeded else f"FAILED ({process.returncode}), see {_log(run, logs)}"
                print(f"[{done}/{total}] {run.env} {run.name}: {ended}", flush=True)
            if time.monotonic() - last_report > 300:
                last_report = time.monotonic()
                print(f"[{done}/{total}] " + "; ".join(_result(run, out) for run, _ in slots.values()), flush=True)
    finally:
        for _, process in slots.values():
            process.terminate()
        for _, process in slots.values():
            process.wait()
    return failed


def _result(run: Run, out: Path) -> str:
    """:return: How far a run has come, in a few words."""
    curve = read_curve(run.csv_path(out)) if run.csv_path(out).exists() else ()
    if not len(curve):
        return f"{run.env} {run.name} starting"
    last = curve.iloc[-1]
    return f"return {last['mean_return']:.1f} after {last['agent_steps']} steps, {last['train_seconds']:.0f} s"


def _log(run: Run, logs: Path) -> Path:
    return logs / run.env / f"{run.name}.log"


def _start(run: Run, out: Path, logs: Path, core: int) -> subprocess.Popen[bytes]:
    """:return: The run as a subprocess on one core, its output going to its log."""
    log = _log(run, logs)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(SCRIPT), "run", *run.arguments()]
    command += ["--out", str(out), "--core", str(core), "--force"]
    with log.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
