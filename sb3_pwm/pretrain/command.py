"""The command ``sb3-pwm pretrain``."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import torch.distributed as dist
import tyro

from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.storage import INDEX
from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.pretrain.distributed import is_first_process
from sb3_pwm.pretrain.run import RunPaths, pretrain
from sb3_pwm.world_model.config import WorldModelConfig
from sb3_pwm.world_model.model import WorldModel

RENAMED = {
    "--final-learning-rate": "--final-lr-fraction",
    "--validation": "--validation-fraction",
    "--accumulate": "--grad-accumulation-steps",
}


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """
    Pretrain a world model on offline data of one task or many (PWM section 4.1).

    Given again after a kill, the command goes on from its last checkpoint and ends with the same model. It also writes
    the model that is best on held-out episodes, a table of the losses, and a picture of predictions. Examples:

    sb3-pwm pretrain --dataset data/mt80 --size 5M --steps 50000 --out wm.safetensors

    torchrun --nproc-per-node 2 -m sb3_pwm.pretrain --dataset data/mt80 --size 48M --out wm.safetensors

    :param dataset: Minari ids or folders, TD-MPC2's .pt files, or a stored data set.
    :param out: File of the model, *.safetensors.
    :param tasks: Tasks of the data to train on; none: all.
    :param storage: Folder to keep the data in, memory-mapped, for data larger than memory.
    :param size: Preset of the world model.
    :param activation: Hidden activation of the world model.
    :param init: World model to go on from, in place of a new one.
    :param config: What decides the outcome.
    :param checkpoint_every: Number of updates between validations and checkpoints.
    :param log_every: Number of updates between rows of the table of losses.
    :param tensorboard_log: Folder of TensorBoard logs.
    :param device: Device of the model; auto: a GPU if there is one.
    """

    dataset: tuple[str, ...]
    out: Path
    tasks: tuple[str, ...] = ()
    storage: Path | None = None
    size: Literal["200K", "1M", "5M", "19M", "48M", "317M"] = "5M"
    activation: Literal["mish", "silu", "elu", "relu", "leaky_relu", "gelu", "tanh"] = "mish"
    init: Path | None = None
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=PretrainConfig)
    checkpoint_every: int = 1_000
    log_every: int = 100
    tensorboard_log: Path | None = None
    device: str = "auto"

    def run(self) -> None:
        """
        Pretrain, with a progress bar.

        :raises ValueError: If an option is wrong, or the checkpoint beside ``out`` is another run's.
        :raises FileNotFoundError: If there is no such data set or world model.
        """
        try:
            RunPaths(self.out)  # a wrong name is to be told before data is read
            dataset = open_data(self.dataset, self.tasks, self.storage)
            if is_first_process():
                print(dataset)
            pretrain(
                dataset,
                self._world_model(dataset),
                self.out,
                self.config,
                self.checkpoint_every,
                self.log_every,
                self.tensorboard_log,
                device=self.device,
            )
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    def _world_model(self, dataset: OfflineDataset) -> WorldModel | WorldModelConfig:
        if self.init is not None:
            return WorldModel.load(self.init)
        return WorldModelConfig.preset(
            self.size,
            observation_dim=dataset.observation_dim,
            action_dim=dataset.action_dim,
            tasks=dataset.tasks,
            termination=any(bool(task.terminated.any()) for task in dataset.data),
            activation=self.activation,
        )


def open_data(sources: tuple[str, ...], tasks: tuple[str, ...] = (), storage: Path | None = None) -> OfflineDataset:
    """
    Open the data of a run.

    :param sources: Minari ids or folders, TD-MPC2's .pt files, or one stored data set.
    :param tasks: Tasks to keep, in this order; none: all.
    :param storage: Folder to keep the data in. Data that is there already is used again.
    :return: The data set.
    :raises FileNotFoundError: If something is not there.
    :raises ValueError: If something is damaged, or of an unknown kind.
    """
    if storage is not None and (storage / INDEX).is_file():
        dataset = OfflineDataset.load(storage)
    else:
        dataset = OfflineDataset.load(sources, storage)
    return dataset.select(tasks) if tasks else dataset
