"""Files of world models: safetensors, with the configuration as JSON in the metadata. Nothing is unpickled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sb3_pwm.common.files import atomic_write

CONFIG_KEY = "sb3_pwm.world_model_config"
"""Key of the configuration in the metadata"""


def write_checkpoint(path: str | Path, config: Mapping[str, Any], state: Mapping[str, th.Tensor]) -> None:
    """
    Write a world model, atomically. Missing folders are created.

    :param path: The file.
    :param config: Fields of the configuration.
    :param state: State dict.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    data = save(tensors, metadata={CONFIG_KEY: json.dumps(dict(config))})
    with atomic_write(path) as file:
        file.write(data)


def read_checkpoint(path: str | Path, device: th.device | str = "cpu") -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    """
    Read a world model that :func:`write_checkpoint` wrote.

    :param path: The file.
    :param device: Device of the tensors.
    :return: Fields of the configuration, and the state dict.
    :raises FileNotFoundError: If the file does not exist.
    :raises ValueError: If the file is damaged, or is not a world model. The message names the file and the reason.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no world model file {path}.")
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or is no safetensors file: {error}.") from error
    if CONFIG_KEY not in metadata:
        raise ValueError(f"{path} holds no world model configuration: it was not written by WorldModel.save().")
    try:
        config = json.loads(metadata[CONFIG_KEY])
    except ValueError as error:
        raise ValueError(f"{path} holds a world model configuration that is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a world model configuration that is not a dictionary: {config!r}.")
    return config, tensors
