"""
Learning curves of PWM, SAC, TQC and CrossQ: run them, queue them, plot them, tabulate them.

One run is one process on one core. Its result is one CSV file, which grows by a line at every evaluation::

    python benchmarks/learning_curves.py run --algo pwm --env Walker-walk --seed 0 --steps 30000
    python benchmarks/learning_curves.py sweep --jobs 2          # every run behind the table of docs/results.md
    python benchmarks/learning_curves.py sweep pwm,dmc21,0,50000 sac,Ant-v5,0-1,50000 --minutes 120   # in pieces
    python benchmarks/learning_curves.py plot                    # <out>/<env>.png and <out>/overview.png
    python benchmarks/learning_curves.py table                   # the Markdown table
    python benchmarks/learning_curves.py compare                 # beside published scores at 100,000 steps
    python benchmarks/learning_curves.py aggregate               # interquartile means with bootstrap intervals

All take the same path: rl-zoo3's own ExperimentManager builds the environments and the model, PWM from
hyperparams/pwm.yml and the others from rl-zoo3's files. Evaluations always have the same start states, and the clocks
stand still during them. ``--algo shac`` learns in the simulators in torch, see true_dynamics.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from curves.plots import plot
from curves.published import DMC21, SCORES, published_scores
from curves.queues import parse_runs, preset_runs, run_queue, select
from curves.reading import is_finished, read_curves
from curves.runs import ALGOS, SEEDS, TASK_OF, Run, train
from curves.tables import compare_with_published, make_aggregates, make_table
from shac.training import train as train_shac

DEFAULT_OUT = Path("docs/curves")
DEFAULT_LOGS = Path("logs/learning_curves")


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
    (train_shac if run.algo == "shac" else train)(run, args.out)
    return 0


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
    shared = dict(tag=args.tag, hyperparams=args.hyperparams, eval_episodes=args.eval_episodes)
    runs = [dataclasses.replace(run, **shared) for run in runs]
    runs = select(runs, args.only)
    if args.dry_run:
        for run in runs:
            print(("done  " if is_finished(run, args.out) else "to do "), " ".join(run.arguments()))
        return 0

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)  # so that the runs end with the sweep
    try:
        return 1 if run_queue(runs, args.out, args.logs, cores, minutes=args.minutes) else 0
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on with what is missing.", file=sys.stderr)
        return 130


def plot_command(args: argparse.Namespace) -> int:
    """The ``plot`` subcommand."""
    curves = read_curves(args.out)
    if not len(curves):
        raise SystemExit(f"No curves below {args.out}: run the benchmark first.")
    plot(curves, args.out, args.clock, args.published)
    return 0


def table_command(args: argparse.Namespace) -> int:
    """The ``table`` subcommand."""
    print(make_table(read_curves(args.out), args.clock, args.sac_at))
    return 0


def aggregate_command(args: argparse.Namespace) -> int:
    """The ``aggregate`` subcommand."""
    print(make_aggregates(read_curves(args.out), args.labels))
    return 0


def compare_command(args: argparse.Namespace) -> int:
    """The ``compare`` subcommand."""
    known = set(published_scores()["method"])
    if unknown := [method for method in args.methods if method not in known]:
        raise SystemExit(f"No scores of {', '.join(unknown)} are in {SCORES.name}. It has {', '.join(sorted(known))}.")
    envs = DMC21 if args.dmc21 else ()
    print(compare_with_published(read_curves(args.out), args.env_steps, args.methods, args.labels, envs))
    return 0


def json_object(text: str) -> str:
    """:param text: An argument that must be a JSON object. :return: The same."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"horizon": 4}}')
    return text


def make_parser() -> argparse.ArgumentParser:
    """:return: The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        sub.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the curves (default: %(default)s)")
        return sub

    def variant(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--eval-episodes", type=int, default=10, help="episodes of an evaluation (default: %(default)s)"
        )
        sub.add_argument("--tag", default="", help="name of this variant, part of the file name")
        sub.add_argument(
            "--hyperparams",
            type=json_object,
            default="{}",
            help='overrides as JSON, in the zoo\'s notation: {"horizon": 4, "policy_kwargs": "dict(n_critics=3)"}',
        )

    run = command("run", run_command, "train once, on one core")
    run.add_argument("--algo", choices=ALGOS, required=True, help="algorithm")
    run.add_argument("--env", required=True, help="environment id")
    run.add_argument("--seed", type=int, default=0, help="seed of learner and environment (default: %(default)s)")
    run.add_argument("--steps", type=int, required=True, help="agent steps")
    run.add_argument("--eval-freq", type=int, help="agent steps between evaluations (default: the task's, else a 20th)")
    run.add_argument("--stop-at", type=float, help="score that ends the run once an evaluation has reached it")
    run.add_argument("--stop-after", type=int, default=0, help="agent steps before which --stop-at ends nothing")
    run.add_argument("--core", type=int, help="core that the process is pinned to")
    run.add_argument("--force", action="store_true", help="replace the file of an earlier run")
    variant(run)

    sweep = command("sweep", sweep_command, "run a queue of trainings, skipping those that are finished")
    sweep.add_argument(
        "runs",
        nargs="*",
        type=parse_runs,
        metavar="algo,env,seeds,steps",
        help="such as pwm,Walker-walk,0-2,30000; dmc21 as environment stands for 21 (default: every run behind the "
        "table)",
    )
    sweep.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each (default: %(default)s)")
    sweep.add_argument("--cores", type=int, nargs="+", help="cores to use (default: the first ones)")
    sweep.add_argument("--only", default="", help="filter such as Walker-walk,pwm,0")
    sweep.add_argument("--sac-factor", type=int, default=3, help="how much longer SAC may take to reach the score")
    sweep.add_argument("--minutes", type=float, help="time after which no further run starts (default: no limit)")
    sweep.add_argument("--logs", type=Path, default=DEFAULT_LOGS, help="folder of the output (default: %(default)s)")
    sweep.add_argument("--dry-run", action="store_true", help="print the queue only")
    variant(sweep)

    pictures = command("plot", plot_command, "draw one picture per environment, and an overview")
    pictures.add_argument("--no-published", dest="published", action="store_false", help="leave published scores out")
    table = command("table", table_command, "print the comparison as a Markdown table")
    table.add_argument(
        "--sac-at", type=int, help="environment steps at which SAC's score is the score to reach, such as 100000"
    )
    for sub in (pictures, table):
        sub.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="wall-clock or process CPU time")
    aggregate = command("aggregate", aggregate_command, "print means and interquartile means over DMControl tasks")
    compare = command("compare", compare_command, "print scores beside published ones as a Markdown table")
    compare.add_argument(
        "--env-steps", type=int, default=100_000, help="environment steps to compare at (default: %(default)s)"
    )
    compare.add_argument(
        "--methods",
        nargs="+",
        default=["bro_utd10", "simbaV2_utd8", "drq", "simbaV2_utd2", "tdmpc2", "dreamerv3(tdmpc2repo)", "sac"],
        help="published methods (default: %(default)s)",
    )
    compare.add_argument("--dmc21", action="store_true", help="a row for each of the 21 tasks, learned or not")
    for sub, labels in ((aggregate, ["PWM", "SAC"]), (compare, ["PWM"])):
        sub.add_argument(
            "--labels",
            nargs="+",
            default=labels,
            help='algorithms and variants of them, such as SAC or "PWM wide" (default: %(default)s)',
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """:param arguments: Command-line arguments; None: those of this process. :return: Exit code."""
    args = make_parser().parse_args(arguments)
    result: int = args.function(args)
    return result


if __name__ == "__main__":
    sys.exit(main())
