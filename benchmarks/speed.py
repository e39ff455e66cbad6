"""
How fast the updates are, and where the time goes.

::

    python benchmarks/speed.py updates --sizes 5M --batches 64 256    # ms per update, against a plain reference
    python benchmarks/speed.py learn --envs 1 4 16                    # steps per second of learn(), and its shares
    python benchmarks/speed.py plot                                   # docs/speed/scaling-*.png from the JSON files
    python benchmarks/speed.py table                                  # the Markdown tables

Every configuration is measured in a process of its own. PWM and the reference (``plain_update.py``) take turns in it,
and the speed-up is the median of the turns' ratios: the absolute times of a shared machine say little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from learning_curves import processor

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_OUT = Path("docs/speed")
# Humanoid-run's, in the middle of what DMControl has
OBSERVATION_DIM, ACTION_DIM = 67, 21
SIZES = ("1M", "5M", "19M", "48M", "317M")
REPLAY_STEPS = 5_000


def make_model(arguments: argparse.Namespace) -> Any:
    """A PWM of the paper's networks with a replay buffer full of random steps, and no environment behind it."""
    import gymnasium as gym
    import numpy as np
    from gymnasium import spaces
    from stable_baselines3.common.logger import Logger
    from torch import nn

    from sb3_pwm import PWM

    class Blank(gym.Env):
        observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
        action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    activations = {"mish": nn.Mish, "silu": nn.SiLU}
    model = PWM(
        "MlpPolicy",
        Blank(),
        horizon=arguments.horizon,
        batch_size=arguments.batch,
        n_critic_epochs=arguments.n_critic_epochs,
        n_critic_minibatches=arguments.n_critic_minibatches,
        buffer_size=REPLAY_STEPS,
        ent_coef=0.01,
        seed=0,
        device=arguments.device,
        compile=arguments.compile,
        precision=arguments.precision,
        gradient_checkpointing=arguments.gradient_checkpointing,
        policy_kwargs=dict(
            world_model_size=arguments.size,
            net_arch=dict(pi=[400, 200, 100], vf=[400, 200]),
            activation_fn=activations[arguments.activation],
        ),
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    rng = np.random.default_rng(0)
    for step in range(REPLAY_STEPS):
        observation, following = rng.normal(size=(2, 1, OBSERVATION_DIM)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, ACTION_DIM)).astype(np.float32)
        ended = np.array([step % 500 == 499])
        infos = [{"TimeLimit.truncated": bool(ended[0])}]
        model.replay_buffer.add(observation, following, action, rng.normal(size=1), ended, infos)
    return model


def matrix_product_rate(device: str, precision: str = "float32") -> float:
    """Measured FLOP/s of a large matrix product, the best of several."""
    import torch as th

    n = 8192 if device == "cuda" else 1024
    a, b = th.randn(2, n, n, device=device).to(getattr(th, precision))
    best = 0.0
    for _ in range(10):
        started = clock(device)
        a @ b
        best = max(best, 2 * n**3 / (clock(device) - started))
    return best


def count_flops(function: Callable[[], None]) -> int:
    """Floating-point operations of the matrix products that a function calls for, backward included."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counter(TorchDispatchMode):
        """FlopCounterMode without its bookkeeping by module, which fails on networks that are frozen meanwhile."""

        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            formula = flop_registry.get(func._overloadpacket)
            if formula is not None:
                self.total += formula(*args, **(kwargs or {}), out_val=result)
            return result

    with Counter() as counter:
        function()
    return counter.total


def clock(device: str) -> float:
    """Seconds, after everything that was asked of the device is done."""
    import torch as th

    if device == "cuda":
        th.cuda.synchronize()
    return time.perf_counter()


def measure_updates(arguments: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds per update of one configuration, PWM's and the plain reference's, in turns."""
    import torch as th
    from plain_update import PlainUpdate

    device = arguments.device
    if device == "cpu":
        th.set_num_threads(arguments.threads)
    model = make_model(arguments)
    model.policy.set_training_mode(True)
    plain = PlainUpdate(model) if arguments.plain else None
    batch = model._sample(arguments.batch, arguments.horizon)

    flops = {}
    parts: dict[str, Callable[[], None]] = {
        "extraction": lambda: model._update_actor_and_critics(batch, defaultdict(list)),
        "world_model": lambda: model._update_world_model(batch, defaultdict(list)),
    }
    for name, update in parts.items():
        flops[name] = count_flops(update)
    started = clock(device)
    if arguments.compile:
        model._compile()
        for update in parts.values():
            for _ in range(2):
                update()
    compile_seconds = clock(device) - started
    if plain is not None:
        parts["plain_extraction"] = lambda: plain.update_actor_and_critics(batch)
        parts["plain_world_model"] = lambda: plain.update_world_model(batch)

    if device == "cuda":
        th.cuda.reset_peak_memory_stats()
    times: dict[str, list[float]] = {name: [] for name in parts}
    for update in parts.values():
        update()
    rate = 0.0
    for _ in range(arguments.rounds):
        # In every round, since other work comes and goes
        rate = max(rate, matrix_product_rate(device, arguments.precision))
        for name, update in parts.items():
            started = clock(device)
            for _ in range(arguments.repeats):
                update()
            times[name].append((clock(device) - started) / arguments.repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    peak = (
        th.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    result: dict[str, Any] = {
        "size": arguments.size,
        "batch": arguments.batch,
        "horizon": arguments.horizon,
        "n_critic_epochs": arguments.n_critic_epochs,
        "n_critic_minibatches": arguments.n_critic_minibatches,
        "activation": arguments.activation,
        "precision": arguments.precision,
        "gradient_checkpointing": arguments.gradient_checkpointing,
        "compile": arguments.compile,
        "compile_seconds": compile_seconds,
        "matrix_product_gflops": rate / 1e9,
        "peak_memory_mib": peak / 2**20,
    }
    for name in ("extraction", "world_model"):
        result[f"{name}_ms"] = 1e3 * medians[name]
        result[f"{name}_gflop"] = flops[name] / 1e9
        result[f"{name}_of_matrix_product_rate"] = flops[name] / medians[name] / rate
        if plain is not None:
            # Of each round, so that what else the machine did falls on both
            ratios = [p / q for p, q in zip(times[f"plain_{name}"], times[name], strict=True)]
            result[f"plain_{name}_ms"] = 1e3 * medians[f"plain_{name}"]
            result[f"{name}_speedup"] = statistics.median(ratios)
    return result


class Stopwatch:
    """Adds up the seconds that methods of an object take; calls of one watched method inside another count for both."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        started = clock(self.device)
        yield
        self.seconds[name] += clock(self.device) - started

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Replace a method of this one object by itself with the watch running."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measure(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)


def measure_learning(arguments: argparse.Namespace) -> dict[str, Any]:
    """Environment steps per second of ``learn()`` with a number of environments, and where the time goes."""
    import gymnasium as gym
    import torch as th
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import SubprocVecEnv

    from sb3_pwm import PWM

    if arguments.device == "cpu":
        th.set_num_threads(arguments.threads)
    n_envs = arguments.n_envs
    make_env = gym.spec(arguments.env).make  # a new process has registered no environments, but unpickles the spec
    env = make_vec_env(make_env, n_envs, seed=0, vec_env_cls=SubprocVecEnv if arguments.subprocesses else None)
    # At every round of n environments, n updates: the ratio of updates to steps is the same for every n.
    model = PWM(
        "MlpPolicy",
        env,
        seed=0,
        gradient_steps=-1,
        overlap=arguments.overlap,
        compile=arguments.compile,
        device=arguments.device,
        buffer_size=100_000,
    )
    model.learn(model.learning_starts + 5 * n_envs)  # warm: storage allocated, networks compiled
    watch = Stopwatch(arguments.device)
    watch.watch(model.get_env(), "step_wait", "environment")
    watch.watch(model.policy, "predict", "acting")
    watch.watch(model.replay_buffer, "add", "buffer: add")
    watch.watch(model.replay_buffer, "sample_sequences", "buffer: sample")
    watch.watch(model, "_update_world_model", "world model")
    watch.watch(model, "_update_actor_and_critics", "actor and critics")
    started, steps_before = clock(arguments.device), model.num_timesteps
    model.learn(arguments.steps, reset_num_timesteps=False)
    seconds, steps = clock(arguments.device) - started, model.num_timesteps - steps_before
    shares = {name: spent / seconds for name, spent in watch.seconds.items()}
    shares["everything else"] = 1.0 - sum(shares.values())
    return {
        "env": arguments.env,
        "n_envs": n_envs,
        "subprocesses": arguments.subprocesses,
        "overlap": arguments.overlap,
        "compile": arguments.compile,
        "steps_per_second": steps / seconds,
        "milliseconds_per_step": 1e3 * seconds / steps,
        "shares": shares,
    }


def in_own_process(arguments: list[str]) -> dict[str, Any]:
    """Run ``one`` of this script with these arguments and read the JSON object that it prints last."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(Path(__file__).resolve()), "one", *arguments]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with exit status {process.returncode}.")
    return json.loads(process.stdout.strip().splitlines()[-1])


def write(out: Path, name: str, arguments: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Keep the results of one command as JSON, with what is needed to read them."""
    import torch as th

    description = {
        "command": "python benchmarks/speed.py " + " ".join(sys.argv[1:]),
        "device": th.cuda.get_device_name()
        if arguments.device == "cuda"
        else f"{processor()}, {arguments.threads} thread(s)",
        "torch": th.__version__,
        "results": results,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "-".join(part for part in (name, arguments.device, arguments.tag) if part)
    path = path.with_suffix(".json")
    path.write_text(json.dumps(description, indent=1) + "\n")
    print(f"Written: {path}")


def command_updates(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    results = []
    grid = list(itertools.product(arguments.sizes, arguments.batches, arguments.horizons, arguments.compiled))
    for size, batch, horizon, compiled in tqdm(grid, desc="configurations", disable=not sys.stderr.isatty()):
        options = ["updates", "--size", size, "--batch", str(batch), "--horizon", str(horizon)]
        options += ["--critic-epochs", str(arguments.n_critic_epochs), "--device", arguments.device]
        options += ["--critic-minibatches", str(arguments.n_critic_minibatches), "--activation", arguments.activation]
        options += ["--rounds", str(arguments.rounds), "--repeats", str(arguments.repeats)]
        options += ["--threads", str(arguments.threads)]
        options += ["--compile"] if compiled == "yes" else []
        options += ["--precision", arguments.precision]
        options += ["--checkpoint-rollout"] if arguments.gradient_checkpointing else []
        options += [] if arguments.plain else ["--no-plain"]
        results.append(in_own_process(options))
        print(updates_row(results[-1]), flush=True)
    write(arguments.out, "updates", arguments, results)


def command_learn(arguments: argparse.Namespace) -> None:
    results = []
    for n_envs, compiled in itertools.product(arguments.envs, arguments.compiled):
        options = ["learn", "--env", arguments.env, "--n-envs", str(n_envs), "--steps", str(arguments.steps)]
        options += ["--device", arguments.device, "--threads", str(arguments.threads)]
        options += ["--compile"] if compiled == "yes" else []
        options += ["--subprocesses"] if arguments.subprocesses else []
        options += [] if arguments.overlap else ["--no-overlap"]
        results.append(in_own_process(options))
        print(learn_row(results[-1]), flush=True)
    write(arguments.out, "learn", arguments, results)


NAMES = {"extraction": "extraction", "world_model": "world model"}
UPDATES_HEAD = (
    "| size | batch | H | options | extraction update | plain | speed-up | world-model update | plain | speed-up "
    "| of the matrix-product rate | peak memory |\n|" + "---|" * 12
)


def updates_row(result: dict[str, Any]) -> str:
    """One line of the table of updates."""
    options = ["compiled"] if result["compile"] else []
    options += ["bfloat16"] if result["precision"] == "bfloat16" else []
    options += ["checkpointed"] if result["gradient_checkpointing"] else []
    cells = [result["size"], result["batch"], result["horizon"], ", ".join(options) or "-"]
    for name in ("extraction", "world_model"):
        cells += [f"{result[f'{name}_ms']:.1f} ms"]
        if f"plain_{name}_ms" in result:
            cells += [f"{result[f'plain_{name}_ms']:.1f} ms", f"**{result[f'{name}_speedup']:.2f}**"]
        else:
            cells += ["-", "-"]
    cells += [f"{result['extraction_of_matrix_product_rate']:.0%} of {result['matrix_product_gflops']:.0f} GFLOP/s"]
    cells += [f"{result['peak_memory_mib']:.0f} MiB"]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


PARTS = (
    "environment",
    "acting",
    "buffer: add",
    "buffer: sample",
    "world model",
    "actor and critics",
    "everything else",
)
LEARN_HEAD = "| env | environments | options | steps/s | " + " | ".join(PARTS) + " |\n|" + "---|" * (4 + len(PARTS))


def learn_row(result: dict[str, Any]) -> str:
    """One line of the table of ``learn()``."""
    options = ["compiled"] if result["compile"] else []
    if result["subprocesses"]:
        options += ["subprocesses", "overlapped" if result["overlap"] else "not overlapped"]
    cells = [result["env"], result["n_envs"], ", ".join(options) or "-", f"{result['steps_per_second']:.1f}"]
    cells += [f"{result['shares'].get(part, 0.0):.0%}" for part in PARTS]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def command_table(arguments: argparse.Namespace) -> None:
    for name, head, row in (("updates", UPDATES_HEAD, updates_row), ("learn", LEARN_HEAD, learn_row)):
        for path in sorted(arguments.out.glob(f"{name}-*.json")):
            content = json.loads(path.read_text())
            print(f"\n`{content['command']}` ({content['device']}, torch {content['torch']})\n\n{head}")
            print("\n".join(row(result) for result in content["results"]))


def command_plot(arguments: argparse.Namespace) -> None:
    """``scaling-<device>.png``: how the cost grows with the model, the batch, the horizon and the environments."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for device in ("cpu", "cuda"):
        updates, learning = (
            [
                result
                for path in sorted(arguments.out.glob(f"{kind}-{device}*.json"))
                for result in json.loads(path.read_text())["results"]
            ]
            for kind in ("updates", "learn")
        )
        updates = [
            r for r in updates if not r["compile"] and not r["gradient_checkpointing"] and r["precision"] == "float32"
        ]
        if not updates:
            continue
        figure, axes = plt.subplots(2, 2, figsize=(11, 8))
        reference = {"size": "5M", "batch": 64, "horizon": 16}
        for ax, varied in zip(axes.flat, reference, strict=False):
            fixed = {key: value for key, value in reference.items() if key != varied}
            chosen = [r for r in updates if all(r[key] == value for key, value in fixed.items())]
            ticks = sorted({r[varied] for r in chosen}, key=SIZES.index if varied == "size" else None)
            for number, (name, label) in enumerate(NAMES.items()):
                for prefix, style, who in (("", "o-", "PWM"), ("plain_", "x:", "plain reference")):
                    measured = defaultdict(list)
                    for result in chosen:
                        if f"{prefix}{name}_ms" in result:
                            measured[ticks.index(result[varied])].append(result[f"{prefix}{name}_ms"])
                    xs = sorted(measured)
                    ys = [statistics.median(measured[x]) for x in xs]
                    ax.plot(xs, ys, style, color=f"C{number}", label=f"{label}, {who}")
            ax.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
            others = ", ".join(f"{key} {value}" for key, value in fixed.items())
            ax.set(xlabel=varied, ylabel="milliseconds per update", yscale="log", title=f"{varied} ({others})")
            ax.grid(alpha=0.3, which="both")
        axes[0, 0].legend(fontsize=8)
        for number, subprocesses in enumerate((False, True)):
            rates = defaultdict(list)
            for result in learning:
                if result["subprocesses"] == subprocesses and result["overlap"] and not result["compile"]:
                    rates[result["n_envs"]].append(result["steps_per_second"])
            xs, ys = sorted(rates), [statistics.median(rates[n]) for n in sorted(rates)]
            label = (
                "environments in processes of their own" if subprocesses else "environments in the learner's process"
            )
            axes[1, 1].plot(xs, ys, "o-", color=f"C{number}", label=label)
        axes[1, 1].set(
            xlabel="environments", ylabel="environment steps per second", title="learn(), one update per step"
        )
        axes[1, 1].set_ylim(bottom=0)
        axes[1, 1].legend(fontsize=8)
        axes[1, 1].grid(alpha=0.3)
        figure.tight_layout()
        path = arguments.out / f"scaling-{device}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        print(f"Written: {path}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def add_common(command: argparse.ArgumentParser) -> None:
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        command.add_argument("--threads", type=int, default=1, help="threads of the CPU's matrix products")

    def add_update_options(command: argparse.ArgumentParser) -> None:
        add_common(command)
        command.add_argument("--critic-epochs", type=int, default=8, help="the paper: 8")
        command.add_argument("--critic-minibatches", type=int, default=4, help="the paper: 4")
        command.add_argument("--activation", choices=("mish", "silu"), default="mish")
        command.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
        command.add_argument("--checkpoint-rollout", action="store_true", help="keep only the rollout's latents")
        command.add_argument("--no-plain", dest="plain", action="store_false", help="without the plain reference")
        command.add_argument("--rounds", type=int, default=5, help="turns of PWM and the reference")
        command.add_argument("--repeats", type=int, default=1, help="updates in a turn")

    def add_learn_options(command: argparse.ArgumentParser) -> None:
        add_common(command)
        command.add_argument("--env", default="Cheetah-run")
        command.add_argument("--steps", type=int, default=1000)
        command.add_argument("--subprocesses", action="store_true", help="environments in processes of their own")
        command.add_argument("--no-overlap", dest="overlap", action="store_false", help="updates wait for environments")

    updates = commands.add_parser("updates", help="milliseconds per update, against a plain reference")
    add_update_options(updates)
    updates.add_argument("--sizes", nargs="+", choices=SIZES, default=["1M", "5M"])
    updates.add_argument("--batches", nargs="+", type=int, default=[64, 256])
    updates.add_argument("--horizons", nargs="+", type=int, default=[16])
    updates.add_argument("--compiled", nargs="+", choices=("no", "yes"), default=["no", "yes"])
    updates.add_argument("--out", type=Path, default=DEFAULT_OUT)
    updates.add_argument("--tag", default="", help="part of the file's name, to keep several grids")

    learn = commands.add_parser("learn", help="steps per second of learn(), and where the time goes")
    add_learn_options(learn)
    learn.add_argument("--envs", nargs="+", type=int, default=[1, 4, 16])
    learn.add_argument("--compiled", nargs="+", choices=("no", "yes"), default=["no"])
    learn.add_argument("--out", type=Path, default=DEFAULT_OUT)
    learn.add_argument("--tag", default="", help="part of the file's name")

    for name, help_text in (("plot", "pictures of the JSON files"), ("table", "Markdown tables of the JSON files")):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("--out", type=Path, default=DEFAULT_OUT)

    one = commands.add_parser("one", help="one configuration in this process, as a line of JSON")
    kinds = one.add_subparsers(dest="kind", required=True)
    one_update = kinds.add_parser("updates")
    add_update_options(one_update)
    one_update.add_argument("--size", choices=SIZES, required=True)
    one_update.add_argument("--batch", type=int, required=True)
    one_update.add_argument("--horizon", type=int, default=16)
    one_update.add_argument("--compile", action="store_true")
    one_learn = kinds.add_parser("learn")
    add_learn_options(one_learn)
    one_learn.add_argument("--n-envs", type=int, required=True)
    one_learn.add_argument("--compile", action="store_true")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.command == "one":
        measure = {"updates": measure_updates, "learn": measure_learning}[arguments.kind]
        print(json.dumps(measure(arguments)))
        return
    commands = {"updates": command_updates, "learn": command_learn, "plot": command_plot, "table": command_table}
    commands[arguments.command](arguments)


if __name__ == "__main__":
    main()
