r"""
Pretrain a world model on offline data of many tasks (PWM section 4.1).

::

    sb3-pwm pretrain --dataset data/mt80 --size 5M --steps 50000 --out wm.safetensors
    torchrun --nproc-per-node 2 -m sb3_pwm.pretrain --dataset data/mt80 --size 48M --out wm.safetensors

Given again after a kill, the command goes on from its last checkpoint and ends with the same model. Beside the model
lie its best one on held-out episodes, a table of the losses and a picture of its predictions.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.storage import INDEX
from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.pretrain.run import RunPaths, pretrain
from sb3_pwm.world_model.config import ACTIVATIONS, PRESETS, WorldModelConfig
from sb3_pwm.world_model.model import WorldModel


def open_data(sources: Sequence[str], tasks: Sequence[str] | None, storage: str | Path | None) -> OfflineDataset:
    """
    :param sources: Minari ids or folders, files of TD-MPC2's (.pt), or one folder that ``storage`` was.
    :param tasks: Those to keep, in this order; None: all.
    :param storage: Where to keep the data; used again where it is there already.
    :return: The data set.
    :raises FileNotFoundError: If something is not there.
    :raises ValueError: If something is damaged, or of an unknown kind.
    """
    if storage is not None and (Path(storage) / INDEX).is_file():
        dataset = OfflineDataset.load(storage)
    else:
        dataset = OfflineDataset.load(sources, storage)
    return dataset if tasks is None else dataset.select(tasks)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line, see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_pwm.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dataset", nargs="+", required=True, help="Minari ids or folders, TD-MPC2's .pt files, or a stored data set"
    )
    parser.add_argument("--tasks", nargs="+", help="only these of its tasks")
    parser.add_argument("--storage", type=Path, help="folder to keep the data in, memory-mapped (larger than memory)")
    parser.add_argument("--size", choices=tuple(PRESETS), default="5M", help="of the world model")
    parser.add_argument("--activation", choices=tuple(ACTIVATIONS), default="mish")
    parser.add_argument("--init", type=Path, help="a world model to go on from, in place of a new one")
    parser.add_argument("--out", type=Path, required=True, help="the model's file, *.safetensors")
    for field in dataclasses.fields(PretrainConfig):
        kind = {"int": int, "float": float, "str": str}[str(field.type)]
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--checkpoint-every", type=int, default=1_000)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--tensorboard-log", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    try:
        settings = PretrainConfig(
            **{field.name: getattr(options, field.name) for field in dataclasses.fields(PretrainConfig)}
        )
        RunPaths(options.out)
        dataset = open_data(options.dataset, options.tasks, options.storage)
        world_model: WorldModel | WorldModelConfig
        if options.init is not None:
            world_model = WorldModel.load(options.init)
        else:
            terminates = any(task.terminated.any() for task in dataset.data)
            world_model = WorldModelConfig.preset(
                options.size,
                observation_dim=dataset.observation_dim,
                action_dim=dataset.action_dim,
                tasks=dataset.tasks,
                termination=bool(terminates),
                activation=options.activation,
            )
        if int(os.environ.get("RANK", 0)) == 0:
            print(dataset)
        pretrain(
            dataset,
            world_model,
            options.out,
            settings,
            options.checkpoint_every,
            options.log_every,
            options.tensorboard_log,
            device=options.device,
        )
    except (ValueError, OSError, ImportError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
