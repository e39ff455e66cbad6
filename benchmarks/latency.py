"""
Time of one decision: ``predict`` for a single observation, by PWM's policy, by planning and by SB3's SAC, in turns.

::

    python benchmarks/latency.py --env Walker-walk
    python benchmarks/latency.py --env Pendulum-pixels  # CnnPolicy
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium
import numpy as np
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.preprocessing import is_image_space

from sb3_pwm import PWM, Planner
from sb3_pwm.envs import register_envs

PLANNED_SHARE = 0.02
"""Share of the calls that a planner is timed for: it takes about a thousand times as long"""


def seconds(act: Callable[[np.ndarray], object], observations: np.ndarray) -> float:
    """:param act: Function that makes a decision. :param observations: ``(N, O)``. :return: Seconds per decision."""
    started = time.perf_counter()
    for observation in observations:
        act(observation)
    return (time.perf_counter() - started) / len(observations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Walker-walk")
    parser.add_argument("--calls", type=int, default=300, help="calls of each in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    register_envs()
    th.set_num_threads(arguments.threads)
    env = gymnasium.make(arguments.env)
    policy = "CnnPolicy" if is_image_space(env.observation_space) else "MlpPolicy"

    def pwm(size: str) -> PWM:
        return PWM(policy, env, device=arguments.device, buffer_size=1000, world_model=size)

    models = {
        "SAC, 256 x 256 (its default)": SAC(policy, env, device=arguments.device, buffer_size=1),
        "PWM, 200K (its default)": pwm("200K"),
        "PWM, 5M": pwm("5M"),
        "PWM, 48M": pwm("48M"),
    }
    decisions: dict[str, Callable[[np.ndarray], object]] = {
        name: lambda observation, model=model: model.predict(observation, deterministic=True)
        for name, model in models.items()
    }
    planned = {f"{name}, planning": Planner(models[name]) for name in ("PWM, 200K (its default)", "PWM, 5M")}
    n_calls = dict.fromkeys(planned, max(round(PLANNED_SHARE * arguments.calls), 1))
    decisions |= {
        name: lambda observation, planner=planner: planner.predict(observation, deterministic=True)
        for name, planner in planned.items()
    }
    with TemporaryDirectory() as folder:
        try:
            import onnxruntime

            path = Path(folder, "policy.onnx")
            models["PWM, 5M"].policy.export(path)  # type: ignore[operator]
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = arguments.threads
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            decisions["PWM, 5M, exported to ONNX"] = lambda o: session.run(None, {"observations": o[None]})
        except ImportError as error:
            print(f"Without ONNX: {error}")
    env.observation_space.seed(0)
    observations = np.stack([env.observation_space.sample() for _ in range(arguments.calls)])
    rounds = []
    for number in range(arguments.rounds + 1):
        row = [seconds(act, observations[: n_calls.get(name)]) for name, act in decisions.items()]
        if number:  # the first one warms up
            rounds.append(row)
    times = np.array(rounds)
    print(f"{arguments.env}, {arguments.device}, {arguments.threads} thread(s), median of {arguments.rounds} rounds\n")
    print("| | ms per decision | ratio to SAC |\n|---|---|---|")
    for number, name in enumerate(decisions):
        ratio = np.median(times[:, number] / times[:, 0])
        print(f"| {name} | {1e3 * np.median(times[:, number]):.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
