"""
Speed of the updates and of ``learn()``, and the shares of their parts.

::

    python benchmarks/speed.py updates --sizes 5M --batches 64 256    # ms per update, against a plain reference
    python benchmarks/speed.py learn --envs 1 4 16                    # steps per second of learn(), and its shares
    python benchmarks/speed.py plot                                   # docs/speed/scaling-*.png from the JSON files
    python benchmarks/speed.py table                                  # the Markdown tables

Every configuration is measured in a new process, where PWM and the reference (``timing/plain_update.py``) take turns.
The speed-up is the median ratio of the turns, because absolute times vary on a shared machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch as th
from machine import processor
from timing.measuring import measure_learning, measure_updates
from timing.tables import SIZES, learn_row, tables, updates_row
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_OUT = Path("docs/speed")


def in_own_process(arguments: list[str]) -> dict[str, Any]:
    """:param arguments: Arguments of ``speed.py one``. :return: The JSON object in the last line of the output."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(Path(__file__).resolve()), "one", *arguments]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with exit status {process.returncode}.")
    result: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return result


def write(out: Path, name: str, options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Write the results of one command and a description of the machine to a JSON file."""
    on_cpu = f"{processor()}, {options.threads} thread(s)"
    description = {
        "command": "python benchmarks/speed.py " + " ".join(sys.argv[1:]),
        "device": th.cuda.get_device_name() if options.device == "cuda" else on_cpu,
        "torch": th.__version__,
        "results": results,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = (out / "-".join(part for part in (name, options.device, options.tag) if part)).with_suffix(".json")
    path.write_text(json.dumps(description, indent=1) + "\n")
    print(f"Written: {path}")


def command_updates(options: argparse.Namespace) -> None:
    """The ``updates`` subcommand."""
    results = []
    grid = list(itertools.product(options.sizes, options.batches, options.horizons, options.compiled))
    for size, batch, horizon, compiled in tqdm(grid, desc="configurations", disable=not sys.stderr.isatty()):
        line = ["updates", "--size", size, "--batch", str(batch), "--horizon", str(horizon)]
        for name in ("n-critic-epochs", "n-critic-minibatches", "device", "activation", "rounds", "repeats", "threads"):
            line += [f"--{name}", str(getattr(options, name.replace("-", "_")))]
        line += ["--precision", options.precision]
        line += ["--compile"] if compiled == "yes" else []
        line += ["--gradient-checkpointing"] if options.gradient_checkpointing else []
        line += [] if options.plain else ["--no-plain"]
        results.append(in_own_process(line))
        print(updates_row(results[-1]), flush=True)
    write(options.out, "updates", options, results)


def command_learn(options: argparse.Namespace) -> None:
    """The ``learn`` subcommand."""
    results = []
    for n_envs, compiled in itertools.product(options.envs, options.compiled):
        line = ["learn", "--env", options.env, "--n-envs", str(n_envs), "--steps", str(options.steps)]
        line += ["--device", options.device, "--threads", str(options.threads)]
        line += ["--compile"] if compiled == "yes" else []
        line += ["--subprocesses"] if options.subprocesses else []
        line += [] if options.overlap else ["--no-overlap"]
        results.append(in_own_process(line))
        print(learn_row(results[-1]), flush=True)
    write(options.out, "learn", options, results)


def parse_arguments() -> argparse.Namespace:
    """:return: The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def add_common(command: argparse.ArgumentParser) -> None:
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the networks")
        command.add_argument("--threads", type=int, default=1, help="threads of the CPU's matrix products")

    def add_update_options(command: argparse.ArgumentParser) -> None:
        add_common(command)
        command.add_argument("--n-critic-epochs", type=int, default=8, help="passes of the critics (the paper: 8)")
        command.add_argument("--n-critic-minibatches", type=int, default=4, help="minibatches (the paper: 4)")
        command.add_argument("--activation", choices=("mish", "silu"), default="mish", help="hidden activation")
        command.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the products")
        command.add_argument("--gradient-checkpointing", action="store_true", help="keep only the rollout's latents")
        command.add_argument("--no-plain", dest="plain", action="store_false", help="without the plain reference")
        command.add_argument("--rounds", type=int, default=5, help="turns of PWM and the reference")
        command.add_argument("--repeats", type=int, default=1, help="updates in a turn")

    def add_learn_options(command: argparse.ArgumentParser) -> None:
        add_common(command)
        command.add_argument("--env", default="Cheetah-run", help="environment id")
        command.add_argument("--steps", type=int, default=1000, help="environment steps that are timed")
        command.add_argument("--subprocesses", action="store_true", help="environments in processes of their own")
        command.add_argument("--no-overlap", dest="overlap", action="store_false", help="updates wait for environments")

    def add_output(command: argparse.ArgumentParser) -> None:
        command.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the JSON files")

    updates = commands.add_parser("updates", help="milliseconds per update, against a plain reference")
    add_update_options(updates)
    updates.add_argument("--sizes", nargs="+", choices=SIZES, default=["1M", "5M"], help="presets of the world model")
    updates.add_argument("--batches", nargs="+", type=int, default=[64, 256], help="batch sizes")
    updates.add_argument("--horizons", nargs="+", type=int, default=[16], help="horizons")
    learn = commands.add_parser("learn", help="steps per second of learn(), and where the time goes")
    add_learn_options(learn)
    learn.add_argument("--envs", nargs="+", type=int, default=[1, 4, 16], help="numbers of environments")
    for command, default in ((updates, ["no", "yes"]), (learn, ["no"])):
        command.add_argument("--compiled", nargs="+", choices=("no", "yes"), default=default, help="torch.compile")
        command.add_argument("--tag", default="", help="part of the file's name, to keep several grids")
        add_output(command)
    for name, text in (("plot", "pictures of the JSON files"), ("table", "Markdown tables of the JSON files")):
        add_output(commands.add_parser(name, help=text))

    one = commands.add_parser("one", help="one configuration in this process, as a line of JSON")
    kinds = one.add_subparsers(dest="kind", required=True)
    one_update, one_learn = kinds.add_parser("updates"), kinds.add_parser("learn")
    add_update_options(one_update)
    one_update.add_argument("--size", choices=SIZES, required=True)
    one_update.add_argument("--batch", type=int, required=True)
    one_update.add_argument("--horizon", type=int, default=16)
    add_learn_options(one_learn)
    one_learn.add_argument("--n-envs", type=int, required=True)
    for command in (one_update, one_learn):
        command.add_argument("--compile", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Run one of the subcommands."""
    options = parse_arguments()
    if options.command == "one":
        measure = {"updates": measure_updates, "learn": measure_learning}[options.kind]
        print(json.dumps(measure(options)))
    elif options.command == "plot":
        # Only here: seaborn and pandas would count in the peak memory that `one` measures.
        from timing.pictures import plot

        print("\n".join(f"Written: {path}" for path in plot(options.out)))
    elif options.command == "table":
        print(tables(options.out))
    else:
        {"updates": command_updates, "learn": command_learn}[options.command](options)


if __name__ == "__main__":
    main()
