"""
Speed of pretraining from data that is larger than the memory limit, compared with the same data in memory.

::

    python benchmarks/larger_than_memory.py --limit 1024 --factor 3 --size 5M --folder /somewhere/on/a/disk

The script writes random data of ``factor`` times ``limit`` MiB. It then runs :func:`~sb3_pwm.pretrain.pretrain` in
turns: from memory-mapped files in a process that a control group (Linux, as root) limits to ``limit`` MiB, page cache
included, and from memory in a process without a limit. The rate is measured between the first and the last entry
in TensorBoard, so that the start and the end of a run do not count.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sb3_pwm import OfflineDataset, WorldModelConfig
from sb3_pwm.data.types import Episode, SourceEpisode
from sb3_pwm.pretrain import PretrainConfig, pretrain

CONTROL_GROUPS = Path("/sys/fs/cgroup")
EPISODE_STEPS = 500
# Observation and action of Walker, Cheetah, Dog and a Meta-World task
TASKS = {"walker": (24, 6), "cheetah": (17, 6), "dog": (223, 38), "mw": (39, 4)}


def random_episodes(n_bytes: int) -> Iterator[SourceEpisode]:
    """:param n_bytes: Approximate number of bytes in total. :return: Episodes of all tasks in turn."""
    rng = np.random.default_rng(0)
    per_round = sum(4 * (EPISODE_STEPS + 1) * (o + a + 1) for o, a in TASKS.values())
    for number in tqdm(range(max(n_bytes // per_round, 2)), unit="round", desc="data", leave=False):
        for task, (observation_dim, action_dim) in TASKS.items():
            episode = Episode(
                rng.standard_normal((EPISODE_STEPS + 1, observation_dim), np.float32),
                rng.uniform(-1.0, 1.0, (EPISODE_STEPS, action_dim)).astype(np.float32),
                rng.random(EPISODE_STEPS, np.float32),
                False,
            )
            yield SourceEpisode(task, episode, f"episode {number} of {task}")


@contextlib.contextmanager
def memory_limit(mebibytes: int) -> Iterator[Path]:
    """:param mebibytes: The limit. :return: File that takes the ids of the processes to limit."""
    version_1 = (CONTROL_GROUPS / "memory").is_dir()
    group = (CONTROL_GROUPS / "memory" if version_1 else CONTROL_GROUPS) / f"sb3-pwm-{os.getpid()}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if version_1 else "memory.max")
        limit.write_text(str(mebibytes << 20))
    except OSError as error:
        raise SystemExit(f"error: a control group is needed, that is Linux and root: {error}") from error
    try:
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def measure(folder: Path, in_memory: bool, size: str, updates: int, batch_size: int, horizon: int) -> None:
    """Pretrain in this process, and print the updates per second and the peak memory in MiB."""
    import resource

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = OfflineDataset.load(folder)
    data = data.in_memory() if in_memory else data
    config = WorldModelConfig.preset(
        size, observation_dim=data.observation_dim, action_dim=data.action_dim, tasks=data.tasks
    )
    every = max(updates // 20, 1)
    pretraining = PretrainConfig(steps=updates, batch_size=batch_size, horizon=horizon)
    with tempfile.TemporaryDirectory() as out:
        log = Path(out) / "log"
        pretrain(data, config, Path(out) / "wm.safetensors", pretraining, 10 * updates, every, log, progress_bar=False)
        events = EventAccumulator(str(log))
        events.Reload()
        losses = events.Scalars("training/loss")
    rate = (losses[-1].step - losses[0].step) / (losses[-1].wall_time - losses[0].wall_time)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{rate:.3f} {peak}")


def evict(folder: Path) -> None:
    """Drop the files of a folder from the page cache. The limit does not count pages that another process has read."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(arguments: argparse.Namespace, in_memory: bool, limited: Path | None) -> tuple[float, int]:
    """:return: Updates per second and peak MiB, measured in a new process."""
    command = [sys.executable, __file__, "--measure", "--folder", str(arguments.folder), "--size", arguments.size]
    command += ["--updates", str(arguments.updates), "--batch-size", str(arguments.batch_size)]
    command += ["--horizon", str(arguments.horizon), *(["--in-memory"] if in_memory else [])]
    if limited is not None:
        command = ["sh", "-c", f'echo $$ > {limited} && exec "$@"', "sh", *command]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {result.returncode}: {result.stderr[-2000:]}")
    rate, peak = result.stdout.split()[-2:]
    return float(rate), int(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the data, created if it is missing")
    parser.add_argument("--limit", type=int, default=1024, help="memory limit in MiB")
    parser.add_argument("--factor", type=float, default=3.0, help="size of the data, as a multiple of the limit")
    parser.add_argument("--size", default="5M", help="preset of the world model")
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--in-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sizes = (arguments.size, arguments.updates, arguments.batch_size, arguments.horizon)
        measure(arguments.folder, arguments.in_memory, *sizes)
        return

    if not arguments.folder.exists():
        OfflineDataset.from_episodes(random_episodes(int(arguments.factor * (arguments.limit << 20))), arguments.folder)
    mebibytes = sum(file.stat().st_size for file in arguments.folder.iterdir()) >> 20
    print(f"{mebibytes} MiB of data, {mebibytes / arguments.limit:.1f} times the {arguments.limit} MiB allowed")
    print(
        "| round | in memory: updates/s | MiB | limited, mapped: updates/s | MiB | ratio |\n|---|---|---|---|---|---|"
    )
    ratios = []
    for number in range(arguments.rounds):
        evict(arguments.folder)
        with memory_limit(arguments.limit) as processes:
            mapped, mapped_peak = run(arguments, False, processes)
        memory, memory_peak = run(arguments, True, None)
        ratios.append(mapped / memory)
        row = f"{memory:.2f} | {memory_peak} | {mapped:.2f} | {mapped_peak}"
        print(f"| {number + 1} | {row} | **{ratios[-1]:.2f}** |", flush=True)
    if ratios:
        print(f"\nmedian ratio {np.median(ratios):.2f}")


if __name__ == "__main__":
    main()
