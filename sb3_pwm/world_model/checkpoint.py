"""World models on disk: one safetensors file, the configuration as JSON in its metadata; nothing is unpickled."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch as th
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sb3_pwm.common.files import replacing

if TYPE_CHECKING:
    from sb3_pwm.world_model.model import WorldModel

CONFIG_KEY = "sb3_pwm.world_model_config"


def save_world_model(world_model: "WorldModel", path: str | Path) -> None:
    """
    Write a world model; an existing file is replaced only when the new one is complete.

    :param world_model: The model.
    :param path: Where to write it; folders are made as needed.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in world_model.state_dict().items()}
    data = save(tensors, metadata={CONFIG_KEY: json.dumps(dataclasses.asdict(world_model.config))})
    with replacing(path) as file:
        file.write(data)


def load_world_model(path: str | Path, device: th.device | str = "cpu") -> "WorldModel":
    """
    Read what :func:`save_world_model` wrote, or a world model of the TD-MPC2 and PWM releases.

    :param path: The file; ``*.pt`` is read by :func:`~sb3_pwm.world_model.tdmpc2.import_world_model`.
    :param device: Device of the model's parameters.
    :return: The model.
    :raises FileNotFoundError: If there is no such file.
    :raises ValueError: If it is not a whole world model of either kind; the message names the file and the reason.
    """
    from sb3_pwm.world_model.model import WorldModel, WorldModelConfig
    from sb3_pwm.world_model.tdmpc2 import import_world_model

    if Path(path).suffix in (".pt", ".pth"):
        return import_world_model(path, device=device)
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no world model file {path}.")
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error
    if CONFIG_KEY not in metadata:
        raise ValueError(f"{path} holds no world model configuration: it was not written by WorldModel.save().")
    try:
        world_model = WorldModel(WorldModelConfig(**json.loads(metadata[CONFIG_KEY]))).to(device)
        world_model.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds a world model that does not fit its configuration: {error}") from error
    return world_model
