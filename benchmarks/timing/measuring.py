"""Measurements of one configuration, in this process."""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sb3_pwm import PWM
from timing.models import Updates, make_model
from timing.plain_update import PlainUpdate


def clock(device: str) -> float:
    """:param device: ``cpu`` or ``cuda``. :return: Seconds, once the device has finished all work."""
    if device == "cuda":
        th.cuda.synchronize()
    return time.perf_counter()


def matrix_product_rate(device: str, precision: str = "float32") -> float:
    """:return: Measured FLOP/s of a large matrix product, the best of several."""
    n = 8192 if device == "cuda" else 1024
    a, b = th.randn(2, n, n, device=device).to(getattr(th, precision))
    best = 0.0
    for _ in range(10):
        started = clock(device)
        a @ b
        best = max(best, 2 * n**3 / (clock(device) - started))
    return best


class FlopCounter(TorchDispatchMode):
    """torch's FlopCounterMode without the counts per module, which fail for networks whose parameters are frozen."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def count_flops(function: Callable[[], None]) -> int:
    """:return: Floating-point operations of the matrix products in a function, backward passes included."""
    with FlopCounter() as counter:
        function()
    return counter.total


def measure_updates(options: argparse.Namespace) -> dict[str, Any]:
    """
    :param options: Options of ``speed.py one updates``.
    :return: Milliseconds per update of PWM and of the plain reference, measured in turns.
    """
    device = options.device
    if device == "cpu":
        th.set_num_threads(options.threads)
    model = make_model(options)
    model.policy.set_training_mode(True)
    updates = Updates(model, options.batch)
    plain = PlainUpdate(model) if options.plain else None
    parts = {"extraction": updates.extraction, "world_model": updates.world_model}
    flops = {name: count_flops(update) for name, update in parts.items()}
    started = clock(device)
    if options.compile:
        updates.compile()
        for update in parts.values():
            for _ in range(2):
                update()
    compile_seconds = clock(device) - started
    if plain is not None:
        parts["plain_extraction"] = lambda: plain.update_actor_and_critics(updates.batch)
        parts["plain_world_model"] = lambda: plain.update_world_model(updates.batch)

    if device == "cuda":
        th.cuda.reset_peak_memory_stats()
    times: dict[str, list[float]] = {name: [] for name in parts}
    for update in parts.values():
        update()
    rate = 0.0
    for _ in range(options.rounds):
        # Measured in every round, because the load of the machine changes.
        rate = max(rate, matrix_product_rate(device, options.precision))
        for name, update in parts.items():
            started = clock(device)
            for _ in range(options.repeats):
                update()
            times[name].append((clock(device) - started) / options.repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = th.cuda.max_memory_allocated() if device == "cuda" else on_host
    names = (
        "size batch horizon n_critic_epochs n_critic_minibatches activation precision gradient_checkpointing compile"
    )
    result: dict[str, Any] = {name: getattr(options, name) for name in names.split()}
    result["compile_seconds"] = compile_seconds
    result["matrix_product_gflops"] = rate / 1e9
    result["peak_memory_mib"] = peak / 2**20
    for name in ("extraction", "world_model"):
        result[f"{name}_ms"] = 1e3 * medians[name]
        result[f"{name}_gflop"] = flops[name] / 1e9
        result[f"{name}_of_matrix_product_rate"] = flops[name] / medians[name] / rate
        if plain is not None:
            # The ratio of each round, so that the load of the machine affects both times.
            ratios = [p / q for p, q in zip(times[f"plain_{name}"], times[name], strict=True)]
            result[f"plain_{name}_ms"] = 1e3 * medians[f"plain_{name}"]
            result[f"{name}_speedup"] = statistics.median(ratios)
    return result


class Stopwatch:
    """Adds up the seconds that methods of objects take. A watched method inside another one counts for both."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """:param name: Name that the seconds of the block are added to."""
        started = clock(self.device)
        yield
        self.seconds[name] += clock(self.device) - started

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Replace a method of one object by itself with the watch running."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measure(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)


def measure_learning(options: argparse.Namespace) -> dict[str, Any]:
    """
    :param options: Options of ``speed.py one learn``.
    :return: Environment steps per second of ``learn()``, and the share of the time of each part.
    """
    if options.device == "cpu":
        th.set_num_threads(options.threads)
    n_envs = options.n_envs
    make_env = gymnasium.spec(options.env).make  # a new process has registered no environments, but unpickles the spec
    env = make_vec_env(make_env, n_envs, seed=0, vec_env_cls=SubprocVecEnv if options.subprocesses else None)
    # n updates at every step of n environments: the ratio of updates to steps does not depend on n.
    model = PWM(
        "MlpPolicy",
        env,
        seed=0,
        gradient_steps=-1,
        overlap_updates=options.overlap,
        compile=options.compile,
        device=options.device,
        buffer_size=100_000,
    )
    model.learn(model.learning_starts + 5 * n_envs)  # warm: storage allocated, networks compiled
    watch = Stopwatch(options.device)
    watch.watch(model.get_env(), "step_wait", "environment")
    watch.watch(model.policy, "predict", "acting")
    watch.watch(model.replay_buffer, "add", "buffer: add")
    watch.watch(model.replay_buffer, "sample_sequences", "buffer: sample")
    watch.watch(model, "_update_world_model", "world model")
    watch.watch(model, "_update_actor", "actor and critics")
    watch.watch(model, "_update_critics", "actor and critics")
    started, steps_before = clock(options.device), model.num_timesteps
    model.learn(options.steps, reset_num_timesteps=False)
    seconds, steps = clock(options.device) - started, model.num_timesteps - steps_before
    shares = {name: spent / seconds for name, spent in watch.seconds.items()}
    shares["everything else"] = 1.0 - sum(shares.values())
    return {
        "env": options.env,
        "n_envs": n_envs,
        "subprocesses": options.subprocesses,
        "overlap": options.overlap,
        "compile": options.compile,
        "steps_per_second": steps / seconds,
        "milliseconds_per_step": 1e3 * seconds / steps,
        "shares": shares,
    }
