"""What PWM refuses at the door, and with which sentence; and what its arguments stand for."""

import copy
import dataclasses
import inspect
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import Schedule, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_pwm.common.checks import check_choice, check_name, check_number
from sb3_pwm.common.packaged import model_file, packaged_names
from sb3_pwm.common.precision import PRECISIONS
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.replay_buffer import SequenceReplayBuffer
from sb3_pwm.pwm.lbfgs import LBFGS
from sb3_pwm.pwm.phase import parse_bc_coef
from sb3_pwm.pwm.policies import PWMPolicy
from sb3_pwm.world_model.config import DEFAULT_SIZE, PRESETS, WorldModelConfig
from sb3_pwm.world_model.model import WorldModel
from sb3_pwm.world_model.reward_range import fitting_bins

UNSUPPORTED = {
    **dict.fromkeys(
        ("use_sde", "sde_sample_freq", "use_sde_at_warmup"),
        "PWM's policy explores by its own standard deviation, without gSDE; action_noise adds to it.",
    ),
    "n_steps": "PWM's critics have TD(lambda) targets over a horizon of steps: set td_lambda and horizon.",
    "policy_delay": "PWM's actor and critics learn from the same rollouts: set n_critic_epochs for more critic steps.",
    "target_update_interval": "PWM's target critics are a running average: set tau.",
    "world_model_steps": "it is called world_model_updates now.",
    "critic_epochs": "it is called n_critic_epochs now.",
    "critic_minibatches": "it is called n_critic_minibatches now.",
    "behaviour_coef": "it is called bc_coef now.",
    "behaviour_temperature": "it is called bc_temperature now.",
    "checkpoint_rollout": "it is called gradient_checkpointing now.",
    "overlap": "it is called overlap_updates now.",
}
"""Arguments that PWM refuses: those of SB3's other off-policy algorithms, and old names. By name, what to use."""

NOT_AT_LOAD = {
    "policy": "a saved model keeps the class of its policy: leave it out, or replace the class by "
    "custom_objects=dict(policy_class=...).",
    "_init_setup_model": "a loaded model has its networks: leave it out.",
}
"""Arguments of PWM that :meth:`~sb3_pwm.PWM.load` refuses. By name, what to use."""

DEFAULT_LEARNING_RATE = 5e-4
"""Learning rate of the actor if it is ``"auto"``; offline it decays to zero"""

POLICY_OPTIMIZERS = ("adam", "lbfgs")

MIN_LINE_SEARCH_BATCH = 32
"""
Smallest ``batch_size`` for L-BFGS. A line search fits the sample, and a small sample does not stand for the others: in
extraction for Hopper-v5, a round of five evaluations raised the loss of fresh samples with 32 sequences and less,
left it as it was with 64 and 128, and lowered it with 256 and more.
"""

LOSS_COEFFICIENTS = ("dynamics_coef", "reward_coef", "termination_coef", "behavior_coef")

WorldModelArgument = str | Path | Mapping[str, Any] | WorldModelConfig | WorldModel | None
"""Preset, file, fields, configuration or model; see :class:`~sb3_pwm.PWM`."""

DatasetArgument = OfflineDataset | str | Path | Sequence[str | Path] | None
"""Data set, its folder, or Minari ids or folders."""


class UnsupportedSpaceError(AssertionError, NotImplementedError, ValueError):
    """PWM cannot use a space. SB3's own algorithms raise an AssertionError here, or a NotImplementedError."""


def check_env(env: Any) -> None:
    """
    :param env: Environment that a new model is made for.
    :raises ValueError: If there is none.
    """
    if env is None:
        raise ValueError(
            "PWM needs an environment, got env=None: pass it, or its registered id. With offline=True it only gives "
            "the spaces, and is not stepped."
        )


def check_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param observation_space: Observation space of the environment.
    :param action_space: Action space of the environment.
    :raises UnsupportedSpaceError: If PWM cannot use one of them; the message says what to use.
    """
    if not isinstance(action_space, spaces.Box):
        raise UnsupportedSpaceError(
            f"PWM needs a continuous action space (Box), got {action_space}: use DQN or PPO for this environment."
        )
    if not action_space.is_bounded():  # integers have no infinity: their unbounded spaces hold the dtype's limits
        raise UnsupportedSpaceError(
            f"Continuous action space must have a finite lower and upper bound for PWM, got {action_space}: give the "
            "range that is useful in the place of 10, with gymnasium.wrappers.TransformAction(env, lambda action: "
            "action, gymnasium.spaces.Box(np.maximum(env.action_space.low, -10), np.minimum(env.action_space.high, "
            "10), dtype=env.action_space.dtype))."
        )
    if isinstance(observation_space, spaces.Tuple):
        raise UnsupportedSpaceError(
            "PWM takes no Tuple observations: make them a Dict (MultiInputPolicy), or wrap the environment in "
            "gymnasium.wrappers.FlattenObservation."
        )
    entries = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
    for name, space in entries.items():
        _check_observations(space, f" (entry {name!r})" if name else "")


def _check_observations(space: spaces.Space, where: str) -> None:
    """:raises UnsupportedSpaceError: If observations, or an entry of them, cannot become a vector or an image."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        raise UnsupportedSpaceError(
            f"PWM takes no nested observations{where}: wrap the environment in gymnasium.wrappers.FlattenObservation."
        )
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1:
        raise UnsupportedSpaceError(
            f"PWM takes no MultiDiscrete observations of the shape {space.shape}{where}: wrap the environment in "
            "gymnasium.wrappers.FlattenObservation."
        )
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise UnsupportedSpaceError(
            f"PWM takes no {type(space).__name__} observations{where}: wrap the environment in "
            "gymnasium.wrappers.TransformObservation, with a function that makes them an array, and its Box."
        )


def check_policy(policy: Any, policy_kwargs: Any, task: str | None) -> None:
    """
    :param policy: Argument of :class:`~sb3_pwm.PWM`.
    :param policy_kwargs: Argument of :class:`~sb3_pwm.PWM`.
    :param task: Argument of :class:`~sb3_pwm.PWM`.
    :raises ValueError: If one of them is of another kind, or they name two tasks.
    """
    if policy_kwargs is not None and not isinstance(policy_kwargs, dict):
        raise ValueError(f"policy_kwargs must be a dictionary, got {policy_kwargs!r}.")
    theirs = (policy_kwargs or {}).get("task")
    if theirs is not None and task is not None and theirs != task:
        raise ValueError(f"task={task!r} and policy_kwargs=dict(task={theirs!r}) are two tasks: give one of them.")
    if isinstance(policy, type) and not issubclass(policy, PWMPolicy):
        raise ValueError(
            f"policy={policy.__name__} is not one of PWM's: pass a name, or a subclass of sb3_pwm.PWMPolicy. "
            "(A saved model with this policy is another algorithm's: load it with that algorithm.)"
        )


def arguments_of_load(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Check arguments that replace saved ones.

    :param given: Arguments of :meth:`~sb3_pwm.PWM.load`, by name.
    :return: The arguments, with what None stands for in the constructor.
    :raises TypeError: If one of them cannot be replaced.
    """
    for name, reason in NOT_AT_LOAD.items():
        if name in given:
            raise TypeError(f"PWM.load() has no argument {name!r}: {reason}")
    defaults: dict[str, Any] = {"replay_buffer_class": SequenceReplayBuffer}
    for name in ("replay_buffer_kwargs", "world_model_loss_kwargs", "policy_optimizer_kwargs"):
        defaults[name] = {}
    return {name: defaults.get(name) if value is None else value for name, value in given.items()}


def check_policy_kwargs_of_load(given: Any, stored: dict[str, Any]) -> None:
    """
    :param given: Argument of :meth:`~sb3_pwm.PWM.load`.
    :param stored: ``policy_kwargs`` of the saved model.
    :raises ValueError: If they are of other networks than the saved ones.
    """
    if given is not None and any(name not in stored or stored[name] != value for name, value in given.items()):
        raise ValueError(
            f"A saved model keeps its networks: leave policy_kwargs={given} out of load(), or make a new model with "
            f"them. The policy_kwargs of the saved one are {stored}."
        )


def check_arguments(model: Any) -> None:
    """
    Refuse at construction what could only fail later.

    :param model: A :class:`~sb3_pwm.PWM` whose attributes are set and whose networks are not made yet.
    :raises ValueError: If an argument is out of range or of the wrong kind; the message names it.
    """
    for name in ("buffer_size", "batch_size", "horizon", "n_critic_epochs", "n_critic_minibatches"):
        check_number(name, getattr(model, name), 1, integer=True)
    check_number("replay_critic_horizon", model.replay_critic_horizon, 1, integer=True)
    for name in ("td_lambda", "rho", "gamma", "tau"):
        check_number(name, getattr(model, name), 0.0, 1.0)
    check_number("bc_temperature", model.bc_temperature, 0.0, above=True, finite=False)
    _check_number_or_auto(model, "world_model_updates", 0, integer=True)
    _check_number_or_auto(model, "imagined_critic_coef", 0.0)
    _check_number_or_auto(model, "replay_critic_coef", 0.0)
    _check_number_or_auto(model, "target_entropy")
    _check_number_or_auto(model, "replay_critic_expectile", 0.0, 1.0, above=True, below=True)
    _check_number_or_auto(model, "discounted_fraction", 0.0, 1.0)
    _check_number_or_auto(model, "bc_dropout", 0.0, 1.0, below=True)
    _check_number_or_auto(model, "new_fraction", 0.0, 1.0)
    _check_number_or_auto(model, "lr_scale", 0.0, above=True)
    _check_number_or_auto(model, "actor_tau", 0.0, 1.0, above=True)
    parse_bc_coef(model.bc_coef)
    if model.phase.imagined_critic_coef == model.phase.replay_critic_coef == 0.0:
        raise ValueError(
            "The critics learn from nothing if imagined_critic_coef and replay_critic_coef are both 0, which "
            'replay_critic_coef="auto" is online.'
        )
    check_number("gradient_steps", model.gradient_steps, -1, integer=True)
    check_choice("precision", model.precision, PRECISIONS)
    check_choice("compile", model.compile, (True, False, "auto"))
    if model.action_noise is not None and not isinstance(model.action_noise, ActionNoise):
        raise ValueError(f"action_noise must be one of SB3's, got {model.action_noise!r}.")
    check_policy_optimizer(model)
    _check_loss_coefficients(model.world_model_loss_kwargs)
    _check_train_freq(model.train_freq, model.n_envs)
    _check_replay_buffer_class(model.replay_buffer_class)
    _check_room_for_sequences(model)


def _check_number_or_auto(model: Any, name: str, *limits: float, **kinds: bool) -> None:
    """Check an argument that may be ``"auto"``, see :func:`~sb3_pwm.common.checks.check_number`."""
    if getattr(model, name) != "auto":
        check_number(f'{name} (if not "auto")', getattr(model, name), *limits, **kinds)


def check_policy_optimizer(model: Any) -> None:
    """
    :param model: A :class:`~sb3_pwm.PWM` whose attributes are set.
    :raises ValueError: If there is no such optimizer, it lacks an argument, or its sample is too small.
    """
    optimizer, given = model.policy_optimizer, model.policy_optimizer_kwargs
    check_choice("policy_optimizer", optimizer, POLICY_OPTIMIZERS)
    if not isinstance(given, dict):
        raise ValueError(f"policy_optimizer_kwargs must be a dictionary, got {given!r}.")
    cls = LBFGS if optimizer == "lbfgs" else model.policy_kwargs.get("optimizer_class", th.optim.Adam)
    set_elsewhere = ("params",) if optimizer == "lbfgs" else ("params", "lr")  # Adam's is learning_rate
    for name in given:
        known = [parameter for parameter in inspect.signature(cls).parameters if parameter not in set_elsewhere]
        check_name("argument", name, known, f"policy_optimizer={optimizer!r}")
    if optimizer == "lbfgs" and model.batch_size < MIN_LINE_SEARCH_BATCH:
        raise ValueError(
            f"batch_size={model.batch_size} is too small a sample for the line search of policy_optimizer='lbfgs': "
            f"give {MIN_LINE_SEARCH_BATCH} or more (512 or more is better), or policy_optimizer='adam'."
        )


def check_optimizer_state(state: Any, optimizer: th.optim.Optimizer) -> None:
    """
    :param state: State dictionary of an optimizer of the actor; None if there is none.
    :param optimizer: The optimizer that is to load it. torch would load that of any optimizer.
    :raises ValueError: If it is the state of L-BFGS and the optimizer is another one, or the other way around.
    """
    if state is not None and ("line_search_fn" in state["param_groups"][0]) != isinstance(optimizer, LBFGS):
        raise ValueError(
            "The parameters are of a model with another policy_optimizer: leave 'policy.actor_optimizer' out of them, "
            "with exact_match=False."
        )


def _check_loss_coefficients(world_model_loss_kwargs: Any) -> None:
    if not isinstance(world_model_loss_kwargs, dict):
        raise ValueError(f"world_model_loss_kwargs must be a dictionary, got {world_model_loss_kwargs!r}.")
    for name, value in world_model_loss_kwargs.items():
        check_choice("A key of world_model_loss_kwargs", name, LOSS_COEFFICIENTS)
        check_number(f"world_model_loss_kwargs[{name!r}]", value, 0.0)


def _check_train_freq(train_freq: int | tuple[int, str] | TrainFreq, n_envs: int) -> None:
    frequency, unit = train_freq if isinstance(train_freq, tuple) else (train_freq, "step")
    check_number("train_freq", frequency, 1, integer=True)
    if n_envs > 1 and unit in ("episode", TrainFrequencyUnit.EPISODE):
        raise ValueError(
            f"train_freq={tuple(train_freq)} counts episodes, and {n_envs} environments end theirs at "  # type: ignore[arg-type]
            'different times: give steps, such as train_freq=(1, "step"), or a single environment.'
        )


def _check_replay_buffer_class(replay_buffer_class: type[ReplayBuffer]) -> None:
    if issubclass(replay_buffer_class, HerReplayBuffer):
        raise ValueError(
            "PWM replays sequences, whose rewards the world model learns; hindsight relabels single transitions: "
            "leave HerReplayBuffer out, or use SAC or TD3 with it."
        )
    if not issubclass(replay_buffer_class, SequenceReplayBuffer):
        raise ValueError(
            f"replay_buffer_class={replay_buffer_class.__name__} yields no sequences: leave it out, "
            "or pass a subclass of sb3_pwm.SequenceReplayBuffer."
        )


def _check_room_for_sequences(model: Any) -> None:
    if model.env is None:
        return  # A model that is loaded to act alone may have no room to learn.
    steps_per_env = max(model.buffer_size // model.n_envs, 1) - (1 if model.optimize_memory_usage else 0)
    for name in ("horizon", "replay_critic_horizon") if model.phase.replays else ("horizon",):
        steps = getattr(model, name)
        if steps > steps_per_env:
            raise ValueError(
                f"{name}={steps} is longer than the {steps_per_env} steps per environment that "
                f"buffer_size={model.buffer_size} holds: raise buffer_size or lower {name}."
            )


def resolve_world_model(world_model: WorldModelArgument) -> tuple[dict[str, Any] | None, WorldModel | None]:
    """
    What the argument ``world_model`` stands for.

    A configuration or a pretrained model without a termination head gets one: the task may end.

    :param world_model: Argument of :class:`~sb3_pwm.PWM`.
    :return: Fields that the policy makes its world model with, None if none are given; and the pretrained model whose
        weights it takes, None if there is none.
    :raises FileNotFoundError: If it names a file that is not there.
    :raises ValueError: If it is of another kind.
    """
    if world_model is None:
        return None, None
    if isinstance(world_model, str) and world_model in PRESETS:
        return {"size": world_model}, None
    if isinstance(world_model, Mapping):
        return dict(world_model), None
    if isinstance(world_model, WorldModelConfig):
        return {**dataclasses.asdict(world_model), "termination": True}, None
    if isinstance(world_model, str | Path):
        file = model_file(world_model)
        if not file.suffix and not file.is_file():
            raise ValueError(
                f"world_model={world_model!r} is neither a preset ({', '.join(PRESETS)}) nor a file (*.safetensors, "
                f"*.pt) nor a model of the package ({', '.join(packaged_names())}); WorldModel.from_pretrained() reads "
                "a folder or the Hugging Face Hub."
            )
        world_model = WorldModel.load(world_model)
    if isinstance(world_model, WorldModel):
        if world_model.termination_network is None:
            world_model = copy.deepcopy(world_model)  # the caller's model stays as it is
            world_model.add_termination_head()
        return dataclasses.asdict(world_model.config), world_model
    raise ValueError(
        f"world_model must be a preset's name ({', '.join(PRESETS)}), a dictionary of fields, a WorldModelConfig, a "
        f"WorldModel or its file, got {world_model!r}."
    )


def fit_reward_bins(policy_kwargs: dict[str, Any], rewards: tuple[float, float]) -> None:
    """
    Let the reward head of a new world model reach the rewards of the data, if its bins are the default ones.

    :param policy_kwargs: Keyword arguments of the policy. Its ``world_model`` is replaced.
    :param rewards: Smallest and largest reward of the data.
    """
    world_model = policy_kwargs.get("world_model", DEFAULT_SIZE)
    if isinstance(world_model, WorldModelConfig):
        world_model = dataclasses.asdict(world_model)
    fields: dict[str, Any] = {"size": world_model} if isinstance(world_model, str) else dict(world_model)
    bins = fitting_bins(rewards, fields.get("bin_low"), fields.get("bin_high"))
    if bins:
        policy_kwargs["world_model"] = {**fields, **bins}


def check_pretrained(policy: PWMPolicy, vec_normalize: VecNormalize | None) -> None:
    """
    :param policy: The policy that a pretrained world model is for.
    :param vec_normalize: The model's ``VecNormalize``, if any.
    :raises ValueError: If the world model would see other observations than it was trained on.
    """
    if any(True for _ in policy.features_extractor.parameters()):
        raise ValueError(
            "A pretrained world model sees observations as they are, not the features of an untrained "
            f"{type(policy.features_extractor).__name__}: use MlpPolicy, on flat observations."
        )
    if vec_normalize is not None and vec_normalize.norm_obs:
        raise ValueError(
            "The world model was trained on observations as they are: leave VecNormalize out, or give it "
            "norm_obs=False (with rl-zoo3: -params normalize:False)."
        )


def resolve_dataset(dataset: DatasetArgument) -> OfflineDataset | None:
    """
    What the argument ``dataset`` stands for.

    :param dataset: Argument of :class:`~sb3_pwm.PWM`.
    :return: The data set, if one is given.
    :raises FileNotFoundError: If there is no such data set.
    :raises ValueError: If it is of another kind, or damaged.
    """
    if isinstance(dataset, str | Path | list | tuple):
        return OfflineDataset.load(dataset)
    if dataset is None or isinstance(dataset, OfflineDataset):
        return dataset
    raise ValueError(f"dataset must be an OfflineDataset, its folder, or Minari ids or folders, got {dataset!r}.")


def choose_task(task: str | None, tasks: Sequence[str], owner: str, env: VecEnv | None) -> str:
    """
    Choose one of several tasks.

    :param task: The task that was asked for, if any.
    :param tasks: The tasks to choose from.
    :param owner: The name of what has these tasks, for the error.
    :param env: The model's environment.
    :return: The task that was asked for, else the only one, else the task of the environment's name.
    :raises ValueError: If the choice is not clear; the message lists the tasks.
    """
    if task is not None:
        if task not in tasks:
            raise ValueError(f"The {owner} has no task {task!r}; its tasks are {', '.join(tasks)}.")
        return task
    if len(tasks) == 1:
        return tasks[0]
    name = environment_name(env)
    named = task_of_name(name, tasks)
    if named is not None:
        return named
    reason = f"none is named like the environment {name!r}" if name else "the environment does not tell its name"
    raise ValueError(f"The {owner} has {len(tasks)} tasks, and {reason}: give task=, one of {', '.join(tasks)}.")


def tasks_of(world_model: Any) -> Sequence[str]:
    """
    :param world_model: Argument of :class:`~sb3_pwm.PWMPolicy`; None for its default.
    :return: Names of the tasks of a multi-task world model; none for a single-task one.
    """
    if isinstance(world_model, WorldModelConfig):
        return world_model.tasks
    return world_model.get("tasks", ()) if isinstance(world_model, Mapping) else ()


def check_task(task: str | None, policy: PWMPolicy) -> None:
    """
    :param task: Task of a model.
    :param policy: Policy of the model.
    :raises ValueError: If the policy is of another task. Its actor and critics know the latents of its own only.
    """
    if policy.task is not None and task != policy.task:
        raise ValueError(
            f"The policy is for the task {policy.task!r}, and not for {task!r}: leave task out, or make another model, "
            f"PWM(..., world_model=model.world_model, task={task!r})."
        )


def warn_of_other_task(policy: PWMPolicy, env: VecEnv | None) -> None:
    """
    Warn if an environment is of another task than the policy.

    :param policy: The policy.
    :param env: A new environment of the policy's model.
    """
    if policy.task is None:
        return
    named = task_of_name(environment_name(env), policy.world_model.config.tasks)
    if named is not None and named != policy.task:
        warnings.warn(
            f"The environment is named like the task {named!r}, and the policy stays one for {policy.task!r}: for "
            f"{named!r}, make another model, PWM(..., world_model=model.world_model, task={named!r})."
        )


def environment_name(env: VecEnv | None) -> str:
    """
    :param env: The model's environment.
    :return: Registered name of the environment without its namespace; empty if the environment does not tell it.
    """
    if env is None:
        return ""
    try:
        # Gymnasium writes <Wrapper<Class<id>>>. Not the spec: a worker process ends if its spec cannot be pickled.
        description = env.env_method("__str__", indices=0)[0]
    except Exception:  # vector environments of users raise anything for what they do not have
        return ""
    found = re.search(r"<([^<>\s]+)>+$", str(description))
    return found[1].rpartition(":")[2] if found is not None else ""


def task_of_name(name: str, tasks: Sequence[str]) -> str | None:
    """
    :param name: Name of an environment.
    :param tasks: Names of tasks.
    :return: The task of this name, in upper or lower case; None if there is none, or more than one.
    """
    named = [task for task in tasks if task.lower() == name.lower()]
    return named[0] if len(named) == 1 else None


def as_schedule(learning_rate: float | str | Schedule, name: str) -> Schedule:
    """
    :param learning_rate: A float, a function of the progress remaining, or ``"lin_<float>"`` for linear decay to zero.
    :param name: Name of the argument, for the error.
    :return: Learning rate as a function of the progress remaining.
    :raises ValueError: If a string is of another form, or a number is negative or not a number.
    """
    if isinstance(learning_rate, str):
        kind, _, initial = learning_rate.rpartition("_")
        try:
            value = float(initial)
        except ValueError:
            kind = "?"
        if kind not in ("", "lin") or not 0.0 <= value < np.inf:
            raise ValueError(f'{name}={learning_rate!r} is no learning rate: give a float or "lin_<float>".')
        return FloatSchedule(value if kind == "" else LinearSchedule(value, 0.0, 1.0))
    if not callable(learning_rate):
        check_number(name, learning_rate, 0.0)
    return FloatSchedule(learning_rate)


def parse_ent_coef(ent_coef: float | str) -> tuple[float, bool]:
    """
    :param ent_coef: A float of at least zero, ``"auto"`` or ``"auto_<initial value>"``.
    :return: The (initial) coefficient, and whether it is learned.
    :raises ValueError: If it is of another form.
    """
    learned = isinstance(ent_coef, str) and ent_coef.startswith("auto")
    text = str(ent_coef).removeprefix("auto").removeprefix("_") if learned else ent_coef
    try:
        value = 1.0 if text == "" else float(text)
    except (TypeError, ValueError):
        value = -1.0
    if not 0.0 <= value < np.inf or (learned and value == 0.0):
        raise ValueError(f'ent_coef={ent_coef!r} must be a float of at least 0, "auto" or "auto_<positive float>".')
    return value, learned
