"""The latent world model: encoder, dynamics, reward and termination (PWM section 3, architecture of TD-MPC2)."""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_pwm.common.checks import check_name
from sb3_pwm.common.layers import MLP, SimNorm, at_least_float32, mlp
from sb3_pwm.common.packaged import model_file
from sb3_pwm.common.statistics import ObservationStatistics
from sb3_pwm.world_model.checkpoint import read_checkpoint, write_checkpoint
from sb3_pwm.world_model.config import ACTIVATIONS, WorldModelConfig
from sb3_pwm.world_model.hub import HubModel
from sb3_pwm.world_model.tdmpc2 import read_tdmpc2
from sb3_pwm.world_model.two_hot import two_hot_cross_entropy, two_hot_decode

Task = th.Tensor | int | str
"""A task: its name, its index, or an int tensor of indices"""

INITIAL_TERMINATION_LOGIT = -5.0
"""Output of a termination head that was added to a trained model: a probability of 0.7%"""


class WorldModel(HubModel):
    """
    Latent world model (PWM section 3).

    With observation s, action a and task embedding e, the latent is ``z = h(s, e)``, the next latent
    ``z' = d(z, a, e)``, the reward ``r = R(z, a, e)``, and the probability that the episode continues
    ``c' = 1 - sigmoid(T(z', e))``.

    All methods take any number of leading batch dimensions. Observations and actions may have fewer numbers than the
    model takes, and are padded with zeros.

    The argument ``task`` is required by a multi-task model, and refused by a single-task model. It is the name of a
    task, its index, or an int tensor of indices whose shape is the shape of the batch or broadcasts to it.

    :param config: Sizes and kinds of the networks.
    """

    def __init__(self, config: WorldModelConfig):
        super().__init__()
        self.config = config
        activation_fn = ACTIVATIONS[config.activation]
        task_dim = config.task_dim if config.tasks else 0
        step_in = config.latent_dim + config.action_dim + task_dim
        hidden = [config.mlp_dim] * 2
        # Without SimNorm, the LayerNorm of the output layers stays, and with it the scale of the latents. The
        # parameters have the same names and shapes either way.
        normalization = SimNorm(config.simnorm_dim) if config.simnorm_dim else nn.Identity()
        self.task_embedding: nn.Embedding | None = None
        if config.tasks:
            self.task_embedding = nn.Embedding(len(config.tasks), config.task_dim, max_norm=1.0)
            nn.init.uniform_(self.task_embedding.weight, -0.02, 0.02)
        self.statistics: ObservationStatistics | None = None
        if config.normalize_observations:
            self.statistics = ObservationStatistics(max(len(config.tasks), 1), config.observation_dim)
        self.encoder = mlp(
            config.observation_dim + task_dim,
            [config.encoder_dim] * (config.encoder_layers - 1),
            config.latent_dim,
            activation_fn,
            normalization,
        )
        self.dynamics = mlp(step_in, hidden, config.latent_dim, activation_fn, normalization)
        reward_outputs = config.num_bins if config.reward_head == "two_hot" else 1
        self.reward_network = mlp(step_in, hidden, reward_outputs, activation_fn)
        # The output layer is zero, so that the first predicted rewards are zero, the center of the bins.
        nn.init.zeros_(self.reward_network[-1].weight)  # type: ignore[arg-type]
        self.termination_network = self._make_termination_network() if config.termination else None
        self.behavior_network: MLP | None = None
        if config.behavior_head:
            latent_in = config.latent_dim + task_dim
            self.behavior_network = mlp(latent_in, [config.mlp_dim], config.action_dim, activation_fn)

    def _make_termination_network(self) -> MLP:
        config = self.config
        latent_in = config.latent_dim + (config.task_dim if config.tasks else 0)
        return mlp(latent_in, [config.mlp_dim] * 2, 1, ACTIVATIONS[config.activation])

    def encode(self, observations: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        Encode observations.

        :param observations: Observations ``(..., observation_dim)``.
        :param task: Task of the observations, see :class:`WorldModel`.
        :return: Latents ``(..., Z)``.
        :raises ValueError: If there is no such task, or observations have more numbers than the model takes.
        """
        observations = padded(observations, self.config.observation_dim, "observations")
        if self.statistics is not None:
            observations = self.statistics(observations, self._row(task))
        return at_least_float32(self.encoder(self._join([observations], task)))

    def _row(self, task: Task | None) -> th.Tensor | int:
        """:return: Row of a task in the statistics."""
        if isinstance(task, th.Tensor):
            return task
        return 0 if task is None or not self.config.tasks else self.task_index(task)

    def count_observations(self, observations: th.Tensor, task: int | None = None) -> None:
        """
        Update the statistics of observations, if the model normalizes them.

        :param observations: Observations ``(N, n)``, n at most ``observation_dim``.
        :param task: Index of the task of a multi-task model.
        """
        if self.statistics is not None:
            observations = padded(observations, self.config.observation_dim, "observations")
            self.statistics.update(observations, 0 if task is None else task)

    def lacks_statistics_of(self, task: str | None) -> bool:
        """
        :param task: Name of a task; None in a single-task model.
        :return: Whether the model normalizes the observations of its other tasks, and not yet those of this one.
        """
        if self.statistics is None or not self.statistics.count.any():
            return False
        return (task or "") in self.tasks_without_statistics

    @property
    def tasks_without_statistics(self) -> list[str]:
        """Names of the tasks whose observations are not normalized yet, though the model is to normalize them."""
        if self.statistics is None:
            return []
        return [
            task for task, count in zip(self.config.tasks or ("",), self.statistics.count, strict=True) if count == 0
        ]

    def next(self, latents: th.Tensor, actions: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        Predict next latents.

        :param latents: Latents ``(..., Z)``.
        :param actions: Actions ``(..., action_dim)``, scaled to [-1, 1].
        :param task: Task of the latents, see :class:`WorldModel`.
        :return: Next latents ``(..., Z)``.
        """
        actions = padded(actions, self.config.action_dim, "actions")
        return at_least_float32(self.dynamics(self._join([latents, actions], task)))

    def reward_logits(self, latents: th.Tensor, actions: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        Compute the output of the reward network.

        :param latents: Latents ``(..., Z)``.
        :param actions: Actions ``(..., action_dim)``, scaled to [-1, 1].
        :param task: Task of the latents, see :class:`WorldModel`.
        :return: Logits ``(..., num_bins)`` of the two-hot head, or rewards ``(..., 1)`` of the scalar head.
        """
        actions = padded(actions, self.config.action_dim, "actions")
        return at_least_float32(self.reward_network(self._join([latents, actions], task)))

    def reward(self, latents: th.Tensor, actions: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        Predict rewards.

        :param latents: Latents ``(..., Z)``.
        :param actions: Actions ``(..., action_dim)``, scaled to [-1, 1].
        :param task: Task of the latents, see :class:`WorldModel`.
        :return: Rewards ``(...)``, in the environment's units.
        """
        logits = self.reward_logits(latents, actions, task)
        if self.config.reward_head == "scalar":
            return logits.squeeze(-1)
        return two_hot_decode(logits, self.config.bin_low, self.config.bin_high)

    def reward_loss(self, logits: th.Tensor, rewards: th.Tensor) -> th.Tensor:
        """
        Compute the loss of predicted rewards.

        :param logits: Output of :meth:`reward_logits`, ``(..., num_bins)`` or ``(..., 1)``.
        :param rewards: True rewards ``(...)``, in the environment's units.
        :return: Cross-entropy of the two-hot head, or squared error of the scalar head, ``(...)``.
        """
        if self.config.reward_head == "scalar":
            return (logits.squeeze(-1) - rewards) ** 2
        return two_hot_cross_entropy(logits, rewards, self.config.bin_low, self.config.bin_high)

    def termination_logits(self, latents: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        Compute the output of the termination network.

        :param latents: Latents ``(..., Z)`` after a step.
        :param task: Task of the latents, see :class:`WorldModel`.
        :return: Logits ``(...)`` of the probability that the step terminated the episode.
        :raises RuntimeError: If the model has no termination head.
        """
        if self.termination_network is None:
            raise RuntimeError(
                "This world model has no termination head: build it with WorldModelConfig(termination=True), or call "
                "add_termination_head()."
            )
        return at_least_float32(self.termination_network(self._join([latents], task))).squeeze(-1)

    def behavior(self, latents: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        Predict the actions of the data.

        :param latents: Latents ``(..., Z)``.
        :param task: Task of the latents, see :class:`WorldModel`.
        :return: Actions ``(..., action_dim)``, scaled to [-1, 1].
        :raises RuntimeError: If the model has no behavior head.
        """
        if self.behavior_network is None:
            raise RuntimeError("This world model has no behavior head: build it with behavior_head=True.")
        return th.tanh(at_least_float32(self.behavior_network(self._join([latents], task))))

    def continuation(self, latents: th.Tensor, task: Task | None = None) -> th.Tensor:
        """
        Predict whether episodes continue.

        :param latents: Latents ``(..., Z)`` after a step.
        :param task: Task of the latents, see :class:`WorldModel`.
        :return: Probability ``(...)`` that the step did not terminate the episode; one if the model has no termination
            head.
        """
        if self.termination_network is None:
            return latents.new_ones(latents.shape[:-1])
        return F.sigmoid(-self.termination_logits(latents, task))

    def save(self, path: str | Path) -> None:
        """
        Write the model and its configuration to one safetensors file, atomically.

        :param path: The file, by convention ``*.safetensors``.
        :raises OSError: If the file cannot be written. An existing file is kept then.
        """
        write_checkpoint(path, dataclasses.asdict(self.config), self.state_dict())

    @classmethod
    def load(
        cls, path: str | Path, device: th.device | str = "cpu", tasks: Sequence[str] | None = None
    ) -> "WorldModel":
        """
        Read a model that :meth:`save` wrote, a model that comes with the package, or a model of TD-MPC2 or PWM. No code
        in the file is executed.

        :param path: The file, or the name of a model of the package (``"mt7"``). ``*.pt`` and ``*.pth`` are files of
            TD-MPC2 and PWM.
        :param device: Device of the parameters.
        :param tasks: Names of the tasks of a model of TD-MPC2 or PWM, whose file does not store them. See
            :func:`~sb3_pwm.world_model.tdmpc2.read_tdmpc2` for the default.
        :return: The model.
        :raises FileNotFoundError: If the file does not exist.
        :raises ValueError: If the file is damaged, or is not a world model. The message names the file and the reason.
        """
        path = model_file(path)
        if path.suffix in (".pt", ".pth"):
            config, state = read_tdmpc2(path, tasks)
        elif tasks is not None:
            raise ValueError(f"{path} stores the names of the tasks: leave tasks out.")
        else:
            config, state = read_checkpoint(path, device)
            if "normalize_observations" not in config:
                config["normalize_observations"] = False
                warnings.warn(
                    f"{path} was saved before world models normalized their observations: it sees them as they are. "
                    "Pretrain it anew if their scales differ."
                )
        try:
            world_model = cls(WorldModelConfig(**config)).to(device)
            world_model.load_state_dict(state)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())  # torch's messages have many lines
            raise ValueError(f"{path} holds a world model that does not fit its configuration: {reason}") from error
        return world_model

    def task_index(self, task: str | int) -> int:
        """
        Look up a task.

        :param task: Name or index of the task.
        :return: Index of the task, which is its row in the task embedding.
        :raises ValueError: If the model has no such task.
        """
        tasks = self.config.tasks
        if isinstance(task, str):
            check_name("task", task, tasks, "The world model")
            return tasks.index(task)
        if not 0 <= task < len(tasks):
            raise ValueError(f"The world model has {len(tasks)} tasks; there is no task number {task}.")
        return task

    def add_task(self, name: str, like: str | None = None) -> int:
        """
        Add a task to a multi-task model, so that the model can be fine-tuned on it.

        The embedding becomes a new parameter: make optimizers after this call, not before.

        :param name: Name of the new task.
        :param like: Name of the task whose embedding is copied. None: the mean of all embeddings is copied.
        :return: Index of the new task.
        :raises ValueError: If the model is single-task, has a task ``name`` already, or has no task ``like``.
        """
        if self.task_embedding is None:
            raise ValueError("A single-task world model has no task embedding: fine-tune it without adding a task.")
        if name in self.config.tasks:
            raise ValueError(f"The world model has a task {name!r} already.")
        weight = self.task_embedding.weight.detach()
        row = weight.mean(0) if like is None else weight[self.task_index(like)]
        self.config = dataclasses.replace(self.config, tasks=(*self.config.tasks, name))
        self.task_embedding = nn.Embedding(
            len(self.config.tasks), self.config.task_dim, max_norm=1.0, _weight=th.cat([weight, row.unsqueeze(0)])
        )
        if self.statistics is not None:
            self.statistics.add_row(None if like is None else self.config.tasks.index(like))
        return len(self.config.tasks) - 1

    def add_termination_head(self) -> None:
        """
        Add a termination head to a model that was trained without one, so that it can be trained on episodes that end.

        Until then it predicts that hardly any step terminates its episode. Its parameters are new: make optimizers
        after this call, not before.

        :raises ValueError: If the model has a termination head already.
        """
        if self.termination_network is not None:
            raise ValueError("The world model has a termination head already.")
        network = self._make_termination_network()
        nn.init.zeros_(network[-1].weight)  # type: ignore[arg-type]
        nn.init.constant_(network[-1].bias, INITIAL_TERMINATION_LOGIT)  # type: ignore[arg-type]
        self.termination_network = network.to(self.dynamics[0].weight.device)  # type: ignore[union-attr, arg-type]
        self.config = dataclasses.replace(self.config, termination=True)

    @property
    def has_new_termination_head(self) -> bool:
        """Whether the model has a termination head that was added and never trained."""
        network = self.termination_network
        return network is not None and not network[-1].weight.any()  # type: ignore[operator]

    @th.no_grad()
    def ignore_actions(self, dimensions: Sequence[int]) -> None:
        """
        Make the predictions of a new model independent of action dimensions that are zero in all data.

        Training leaves them so: the gradient of a weight whose input is zero is zero.

        :param dimensions: Indices of the action dimensions.
        """
        columns = [self.config.latent_dim + dimension for dimension in dimensions]
        for network in (self.dynamics, self.reward_network):
            network[0].weight[:, columns] = 0.0  # type: ignore[index,operator]

    def _join(self, inputs: Sequence[th.Tensor], task: Task | None) -> th.Tensor:
        """:return: Inputs and, in a multi-task model, the embedding of the task, as one tensor."""
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


def padded(values: th.Tensor, size: int, name: str) -> th.Tensor:
    """
    Pad values with zeros.

    :param values: Tensor ``(..., n)``.
    :param size: Size of the last dimension that the model takes.
    :param name: Name of the values, for the message.
    :return: Tensor ``(..., size)``.
    :raises ValueError: If n is larger than ``size``.
    """
    missing = size - values.shape[-1]
    if missing < 0:
        raise ValueError(f"The world model takes {name} of {size} numbers, got {values.shape[-1]}.")
    return F.pad(values, (0, missing)) if missing else values
