"""
Write a world model, and a part of its data, as one that comes with the package (sb3_pwm/pretrained/NAME).

The parameters are stored in bfloat16. Of each task, whole episodes are kept, as many as fit in ``--megabytes``, from
the worst to the best, at equal distances in the order of their returns. The card's section on training data is to be
written by hand.

    python tools/package_world_model.py --world-model wm.safetensors --dataset data --out sb3_pwm/pretrained/mt7
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch as th

from sb3_pwm import OfflineDataset, WorldModel
from sb3_pwm.data.storage import StorageWriter
from sb3_pwm.data.types import TaskData
from sb3_pwm.world_model.checkpoint import write_checkpoint


def choose_episodes(data: TaskData, size: float) -> list[int]:
    """
    Choose episodes from the worst to the best.

    :param data: Data of a task.
    :param size: Number of bytes that they may have together.
    :return: Numbers of the episodes, in the order of the data.
    """
    order = np.argsort(data.returns, kind="stable")
    row_size = 4 * (data.observations.shape[1] + data.actions.shape[1] + 1)
    chosen: list[int] = []
    for count in range(2, len(order) + 1):
        candidate = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
        if row_size * (data.lengths[candidate] + 1).sum() > size:
            break
        chosen = sorted(candidate.tolist())
    if not chosen:
        raise SystemExit(f"Two episodes of {data.name} have more than {size:.0f} bytes.")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world-model", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--megabytes", type=float, default=1.0, help="largest size of the data of a task")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--license", default="mit")
    args = parser.parse_args()

    world_model, dataset = WorldModel.load(args.world_model), OfflineDataset.load(args.dataset)
    dataset = dataset.select(world_model.config.tasks)
    args.out.mkdir(parents=True)
    world_model.save_pretrained(args.out, model_card_kwargs=dict(license=args.license))
    state = {
        name: value if name.startswith("statistics") else value.to(th.bfloat16)
        for name, value in world_model.state_dict().items()
    }
    write_checkpoint(args.out / "model.safetensors", dataclasses.asdict(world_model.config), state)

    writer = StorageWriter(args.out / "data")
    for data in dataset.data:
        numbers = choose_episodes(data, args.megabytes * 1e6)
        for number in numbers:
            writer.add(data.name, data.episode(number), f"episode {number} of {data.name}")
        kept = data.returns[numbers]
        print(
            f"{data.name}: {len(numbers)} of {len(data.lengths)} episodes, returns {kept.min():.0f} to {kept.max():.0f}"
        )
    writer.finish()
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
