"""The latent world model: encoder, dynamics, reward and termination (PWM section 3, TD-MPC2 architecture)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_pwm.common.layers import SimNorm, at_least_float32, mlp
from sb3_pwm.world_model.checkpoint import read_checkpoint, write_checkpoint
from sb3_pwm.world_model.config import ACTIVATIONS, WorldModelConfig
from sb3_pwm.world_model.tdmpc2 import read_tdmpc2
from sb3_pwm.world_model.two_hot import two_hot_cross_entropy, two_hot_decode

Task = th.Tensor | int | str


class WorldModel(nn.Module):
    """
    ``z = h(s, e)``, ``z' = d(z, a, e)``, ``r = R(z, a, e)``, ``c = 1 - sigmoid(T(z, e))``; see PWM section 3.

    All methods take any number of leading batch dimensions; ``task`` is an int tensor of the batch's shape (or one that
    broadcasts to it), an index or a task name, and must be given if and only if the model is multi-task. Observations
    and actions of a smaller task than the model's largest may be narrower: they are padded with zeros.

    :param config: The shapes.
    """

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        self.config = config
        activation_fn = ACTIVATIONS[config.activation]
        task_dim = config.task_dim if config.tasks else 0
        latent_in, step_in = config.latent_dim + task_dim, config.latent_dim + config.action_dim + task_dim
        hidden = [config.mlp_dim] * 2
        self.task_embedding: nn.Embedding | None = None
        if config.tasks:
            self.task_embedding = nn.Embedding(len(config.tasks), config.task_dim, max_norm=1.0)
            nn.init.uniform_(self.task_embedding.weight, -0.02, 0.02)
        self.encoder = mlp(
            config.observation_dim + task_dim,
            [config.encoder_dim] * (config.encoder_layers - 1),
            config.latent_dim,
            activation_fn,
            SimNorm(config.simnorm_dim),
        )
        self.dynamics = mlp(step_in, hidden, config.latent_dim, activation_fn, SimNorm(config.simnorm_dim))
        reward_outputs = config.num_bins if config.reward_head == "two_hot" else 1
        self.reward_network = mlp(step_in, hidden, reward_outputs, activation_fn)
        # A zero output layer starts the reward at the bins' center: zero.
        nn.init.zeros_(self.reward_network[-1].weight)  # type: ignore[arg-type]
        self.termination_network = mlp(latent_in, hidden, 1, activation_fn) if config.termination else None

    def encode(self, observations: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        :param observations: ``(..., observation_dim)``.
        :param task: See the class.
        :return: Latents ``(..., Z)``.
        """
        observations = _padded(observations, self.config.observation_dim, "observations")
        return self.encoder(self._join([observations], task))

    def next(self, latents: th.Tensor, actions: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        :param latents: ``(..., Z)``.
        :param actions: ``(..., action_dim)`` in [-1, 1].
        :param task: See the class.
        :return: Predicted next latents ``(..., Z)``.
        """
        actions = _padded(actions, self.config.action_dim, "actions")
        return self.dynamics(self._join([latents, actions], task))

    def reward_logits(self, latents: th.Tensor, actions: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        :param latents: ``(..., Z)``.
        :param actions: ``(..., action_dim)`` in [-1, 1].
        :param task: See the class.
        :return: ``(..., num_bins)`` logits of the two-hot head, or ``(..., 1)`` of the scalar head.
        """
        actions = _padded(actions, self.config.action_dim, "actions")
        return at_least_float32(self.reward_network(self._join([latents, actions], task)))

    def reward(self, latents: th.Tensor, actions: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        :param latents: ``(..., Z)``.
        :param actions: ``(..., action_dim)`` in [-1, 1].
        :param task: See the class.
        :return: Predicted rewards ``(...)`` in the units of the rewards the model was trained on.
        """
        logits = self.reward_logits(latents, actions, task)
        if self.config.reward_head == "scalar":
            return logits.squeeze(-1)
        return two_hot_decode(logits, self.config.bin_low, self.config.bin_high)

    def reward_loss(self, logits: th.Tensor, rewards: th.Tensor) -> th.Tensor:
        """
        :param logits: What :meth:`reward_logits` returned, ``(..., num_bins)`` or ``(..., 1)``.
        :param rewards: True rewards ``(...)``.
        :return: ``(...)``: cross-entropy of the two-hot head, squared error of the scalar head.
        """
        if self.config.reward_head == "scalar":
            return (logits.squeeze(-1) - rewards) ** 2
        return two_hot_cross_entropy(logits, rewards, self.config.bin_low, self.config.bin_high)

    def termination_logits(self, latents: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        :param latents: ``(..., Z)`` of the state that a step led to.
        :param task: See the class.
        :return: ``(...)`` logits of the probability that the episode terminated in that state.
        :raises RuntimeError: If the model has no termination head.
        """
        if self.termination_network is None:
            raise RuntimeError(
                "This world model has no termination head: build it with WorldModelConfig(termination=True)."
            )
        return at_least_float32(self.termination_network(self._join([latents], task))).squeeze(-1)

    def continuation(self, latents: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        :param latents: ``(..., Z)`` of the state that a step led to.
        :param task: See the class.
        :return: ``(...)`` probability that the episode goes on; one where the model has no termination head.
        """
        if self.termination_network is None:
            return latents.new_ones(latents.shape[:-1])
        return F.sigmoid(-self.termination_logits(latents, task))

    def save(self, path: str | Path) -> None:
        """
        Write the model and its configuration to one safetensors file, atomically.

        :param path: The file, by convention ``*.safetensors``.
        """
        write_checkpoint(path, dataclasses.asdict(self.config), self.state_dict())

    @classmethod
    def load(
        cls, path: str | Path, device: th.device | str = "cpu", tasks: Sequence[str] | None = None
    ) -> "WorldModel":
        """
        Read a model that :meth:`save` wrote, or one of the TD-MPC2 and PWM releases.

        :param path: The file. ``*.pt`` and ``*.pth`` are files of the releases.
        :param device: Device of the model's parameters.
        :param tasks: Names of a release's tasks, see :func:`~sb3_pwm.world_model.tdmpc2.read_tdmpc2`.
        :raises FileNotFoundError: If there is no such file.
        :raises ValueError: If it is not a whole world model of either kind; the message names the file and the reason.
        """
        if Path(path).suffix in (".pt", ".pth"):
            config, state = read_tdmpc2(path, tasks)
        elif tasks is not None:
            raise ValueError(f"{path} holds the names of its tasks: leave tasks out.")
        else:
            config, state = read_checkpoint(path, device)
        try:
            world_model = cls(WorldModelConfig(**config)).to(device)
            world_model.load_state_dict(state)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())  # torch's messages have many lines
            raise ValueError(f"{path} holds a world model that does not fit its configuration: {reason}") from error
        return world_model

    def task_index(self, task: str | int) -> int:
        """
        :param task: A task's name or index.
        :return: Its row in the task embedding.
        :raises ValueError: If the model has no such task.
        """
        tasks = self.config.tasks
        if isinstance(task, str):
            if task not in tasks:
                raise ValueError(f"The world model has no task {task!r}; its tasks are {', '.join(tasks) or '(none)'}.")
            return tasks.index(task)
        if not 0 <= task < len(tasks):
            raise ValueError(f"The world model has {len(tasks)} tasks; there is no task number {task}.")
        return task

    def add_task(self, name: str, like: str | None = None) -> int:
        """
        Give the model a task that it has never seen, to be fine-tuned on: an embedding of its own.

        Optimizers that were made before do not know the new embedding.

        :param name: The task's name.
        :param like: A task of the model whose embedding it begins with; None: the mean of all.
        :return: Its index.
        :raises ValueError: If the model is single-task, has a task of that name, or none that is called ``like``.
        """
        if self.task_embedding is None:
            raise ValueError("A single-task world model has no task embedding: fine-tune it as it is.")
        if name in self.config.tasks:
            raise ValueError(f"The world model has a task {name!r} already.")
        weight = self.task_embedding.weight.detach()
        row = weight.mean(0) if like is None else weight[self.task_index(like)]
        self.config = dataclasses.replace(self.config, tasks=(*self.config.tasks, name))
        self.task_embedding = nn.Embedding(
            len(self.config.tasks), self.config.task_dim, max_norm=1.0, _weight=th.cat([weight, row.unsqueeze(0)])
        )
        return len(self.config.tasks) - 1

    def _join(self, inputs: Sequence[th.Tensor], task: Task | None) -> th.Tensor:
        """Concatenate the inputs and, in a multi-task model, the task's embedding."""
        if self.task_embedding is None:
            if task is not None:
                raise ValueError(f"task={task!r} was given to a single-task world model: leave it out.")
            return inputs[0] if len(inputs) == 1 else th.cat(list(inputs), dim=-1)
        if task is None:
            raise ValueError(f"A multi-task world model needs a task: one of {', '.join(self.config.tasks)}.")
        if not isinstance(task, th.Tensor):
            task = th.tensor(self.task_index(task), device=inputs[0].device)
        embedding = self.task_embedding(task).expand(*inputs[0].shape[:-1], -1)
        return th.cat([*inputs, embedding], dim=-1)


def _padded(values: th.Tensor, size: int, name: str) -> th.Tensor:
    """
    :param values: ``(..., n)``.
    :param size: What the model takes.
    :param name: Of the values, for the error.
    :return: ``(..., size)``, with zeros behind.
    :raises ValueError: If there are more than that.
    """
    missing = size - values.shape[-1]
    if missing < 0:
        raise ValueError(f"The world model takes {name} of {size} numbers, got {values.shape[-1]}.")
    return F.pad(values, (0, missing)) if missing else values
