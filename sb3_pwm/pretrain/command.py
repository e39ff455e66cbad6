"""The command ``sb3-pwm pretrain``."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import torch.distributed as dist

from sb3_pwm.common.devices import check_device
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.pretrain.checkpoint import RunPaths
from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.pretrain.distributed import is_first_process
from sb3_pwm.pretrain.run import pretrain
from sb3_pwm.world_model.config import WorldModelConfig
from sb3_pwm.world_model.model import WorldModel


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """
    Pretrain a world model on offline data of one task or many.

    If the command is interrupted, give it again: it goes on from its last checkpoint, and ends with the same model.
    Beside the model it writes the model that is best on held-out episodes, a table of the losses, and a picture of
    predictions. Examples::

        sb3-pwm pretrain --dataset data/mt80 --size 5M --steps 50000 --out wm.safetensors

        torchrun --nproc-per-node 2 -m sb3_pwm.pretrain --dataset data/mt80 --size 48M --out wm.safetensors

    :param dataset: Data: Minari ids or folders, TD-MPC2's .pt files, the folder of a stored data set, or replay buffers
        of SB3: TASK=FILE.pkl, or a file with the name of its task, such as Hopper-v5.pkl.
    :param out: File of the model, *.safetensors.
    :param tasks: Names of the tasks to train on. Default: all tasks of the data.
    :param storage: Folder to store the data in and map it from, for data that is larger than memory. If it holds the
        data of --dataset already, it is used.
    :param size: Preset of the world model.
    :param activation: Activation of the hidden layers of the world model. TD-MPC2 and PWM have mish; silu is nearly the
        same function, and faster on a CPU.
    :param behavior_head: Whether the world model also learns to predict the actions of the data, so that its latent
        keeps what the behaviors looked at. The spread of the actions is fitted to each part of a batch that is divided
        (torchrun, --grad-accumulation-steps).
    :param init: File of a world model to train further. --size, --activation and --behavior-head have no effect then. A
        model without a termination head gets one if an episode of the data terminates.
    :param config: Configuration of the training.
    :param checkpoint_every: Number of updates between two checkpoints. The model is validated at each.
    :param log_every: Number of updates between two rows of the table of losses.
    :param tensorboard_log: Folder of the TensorBoard logs. Default: no logs.
    :param device: Device of the model. auto: a GPU if there is one.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "--final-learning-rate": "--final-lr-fraction",
        "--validation": "--validation-fraction",
        "--accumulate": "--grad-accumulation-steps",
    }

    dataset: tuple[str, ...]
    out: Path
    tasks: tuple[str, ...] = ()
    storage: Path | None = None
    size: Literal["200K", "1M", "5M", "19M", "48M", "317M"] = "5M"
    activation: Literal["mish", "silu", "elu", "relu", "leaky_relu", "gelu", "tanh"] = "silu"
    behavior_head: bool = True
    init: Path | None = None
    config: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    checkpoint_every: int = 1_000
    log_every: int = 100
    tensorboard_log: Path | None = None
    device: str = "auto"

    def run(self) -> None:
        """
        Pretrain, with a progress bar.

        :raises ValueError: If an option is wrong, or the checkpoint is of another run.
        :raises FileExistsError: If the model exists already.
        :raises FileNotFoundError: If the data or the world model of ``init`` does not exist.
        """
        # These are checked before the data is read, which can take minutes.
        RunPaths(self.out)
        check_device(self.device)
        try:
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
            termination=dataset.has_terminations,
            activation=self.activation,
            behavior_head=self.behavior_head,
        )


def open_data(sources: tuple[str, ...], tasks: tuple[str, ...] = (), storage: Path | None = None) -> OfflineDataset:
    """
    Open the data of a run.

    :param sources: What ``OfflineDataset.load`` takes.
    :param tasks: Names of the tasks to keep, in this order. Empty: all tasks.
    :param storage: Folder to store the data in. If it holds the data of these sources already, it is used.
    :return: The data set.
    :raises FileNotFoundError: If a source does not exist.
    :raises ValueError: If a source is damaged or of an unknown kind, or a task is not in the data.
    """
    dataset = OfflineDataset.load(sources, storage)
    return dataset.select(tasks) if tasks else dataset
