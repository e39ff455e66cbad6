"""
Offline learners of d3rlpy beside PWM: TD3+BC, IQL, and behavior cloning of all episodes and of the best tenth.

All learn from the same data and have the same evaluation: ten episodes with fixed seeds. ``run`` makes a virtual
environment for d3rlpy at the first time. It ends a run after a processor time or after a number of updates, and skips
finished runs if it is repeated::

    python benchmarks/offline_peers.py run --env Hopper-v5 --data hopper.pkl --cpu-seconds 1800 --seeds 0 1 2
    python benchmarks/offline_peers.py run --env Hopper-v5 --data hopper.pkl                    # 500,000 updates
    python benchmarks/offline_peers.py evaluate --env Hopper-v5 --model pwm.zip --seed 0 --cpu-seconds 1800
    python benchmarks/offline_peers.py table

Each process learns on one core. The processor time of evaluations and of reading the data does not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch as th
from peers.data import load_task
from peers.environment import make_environment
from peers.evaluation import evaluate_pwm
from peers.runs import ALGORITHMS, OWN_LENGTH, PeerRun, csv_path, make_row, write_row
from peers.tables import make_table, read_results

DEFAULT_OUT = Path("logs/offline_peers/results")
DEFAULT_VENV = Path("logs/offline_peers/venv")


def make_runs(args: argparse.Namespace) -> list[PeerRun]:
    """:return: The runs that the arguments of ``run`` ask for."""
    updates = args.updates if args.cpu_seconds is None else None
    # Paths are made absolute, because the training process has another working directory. Minari ids are not paths.
    data = tuple(str(Path(source).resolve()) if Path(source).exists() else source for source in args.data)
    return [
        PeerRun(algorithm, args.env, data, args.task, seed, updates, args.cpu_seconds, args.eval_freq)
        for seed in args.seeds
        for algorithm in args.algorithms
    ]


def run_command(args: argparse.Namespace) -> int:
    """The ``run`` subcommand."""
    runs = make_runs(args)
    missing = [run for run in runs if not run.is_finished(args.out)]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before", flush=True)
    if not missing:
        return 0
    load_task(missing[0].data, args.task)  # wrong data is refused before anything is installed
    python = make_environment(args.venv)
    here = str(Path(__file__).resolve().parent)
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    failed = 0
    for run in missing:
        command = [str(python), "-m", "peers.training", json.dumps(dataclasses.asdict(run)), str(args.out.resolve())]
        code = subprocess.run(command, env=environment).returncode
        if code or not run.is_finished(args.out):
            print(f"{run.name}: FAILED ({code})", file=sys.stderr, flush=True)
            failed += 1
    return 1 if failed else 0


def evaluate_command(args: argparse.Namespace) -> int:
    """The ``evaluate`` subcommand."""
    th.set_num_threads(1)
    returns, updates = evaluate_pwm(args.model, args.env, args.vec_normalize)
    limit = str(updates) if args.cpu_seconds is None else f"{args.cpu_seconds:g}s"
    path = csv_path(args.out, args.env, args.name, limit, args.seed)
    path.unlink(missing_ok=True)
    row = make_row(args.env, args.name, limit, args.seed, updates, args.cpu_seconds, returns)
    write_row(path, row)
    print(f"{args.env} {args.name} {limit} seed {args.seed}: return {row['return']}, episodes {row['returns']}")
    return 0


def table_command(args: argparse.Namespace) -> int:
    """The ``table`` subcommand."""
    results = read_results(args.out)
    if not len(results):
        raise SystemExit(f"No results below {args.out}: run the benchmark first.")
    print(make_table(results))
    return 0


def positive(text: str) -> int:
    """:param text: An argument that must be a positive integer. :return: The integer."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def positive_seconds(text: str) -> float:
    """:param text: An argument that must be a positive number. :return: The number."""
    if not 0.0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def make_parser() -> argparse.ArgumentParser:
    """:return: The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="train peers, skipping the runs that are finished")
    evaluate = commands.add_parser("evaluate", help="evaluate a saved PWM in the same way")
    table = commands.add_parser("table", help="print the comparison as a Markdown table")
    for sub, function in ((run, run_command), (evaluate, evaluate_command), (table, table_command)):
        sub.set_defaults(function=function)
        sub.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the results (default: %(default)s)")
    for sub in (run, evaluate):
        sub.add_argument("--env", required=True, help="environment id")

    run.add_argument("--data", nargs="+", required=True, help="replay buffer (.pkl), or what OfflineDataset.load takes")
    run.add_argument("--task", help="name of the task in the data (default: the only one)")
    run.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS), help="default: all")
    run.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of the learners (default: 0)")
    length = run.add_mutually_exclusive_group()
    length.add_argument("--updates", type=positive, default=OWN_LENGTH, help="updates of a run (default: %(default)s)")
    length.add_argument("--cpu-seconds", type=positive_seconds, help="processor time of a run, in place of --updates")
    run.add_argument("--eval-freq", type=positive, default=10_000, help="updates per evaluation (default: %(default)s)")
    run.add_argument("--venv", type=Path, default=DEFAULT_VENV, help="virtual environment (default: %(default)s)")

    evaluate.add_argument("--model", type=Path, required=True, help="file of the model (.zip)")
    evaluate.add_argument("--vec-normalize", type=Path, help="file of VecNormalize, if the model was trained with one")
    evaluate.add_argument("--name", default="pwm", help="name of the algorithm in the table (default: %(default)s)")
    evaluate.add_argument("--seed", type=int, default=0, help="seed that the model was trained with")
    evaluate.add_argument("--cpu-seconds", type=positive_seconds, help="processor time that the training took")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """:param arguments: Command-line arguments; None: those of this process. :return: Exit code."""
    args = make_parser().parse_args(arguments)
    try:
        result: int = args.function(args)
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        raise SystemExit(f"error: {error}") from error
    return result


if __name__ == "__main__":
    sys.exit(main())
