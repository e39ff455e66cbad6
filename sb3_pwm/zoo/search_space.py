"""Search space of ``rl_zoo3.train --algo pwm -optimize``, in the form of rl-zoo3's samplers."""

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    import optuna

# Each entry is a complete policy_kwargs, because rl-zoo3 replaces policy_kwargs as a whole. World models are not larger
# than 1M, and long horizons and large batches are rare, so that a study on a CPU can finish.
NETWORKS: dict[str, dict[str, Any]] = {
    "small": dict(
        world_model=dict(size="1M", latent_dim=64, encoder_dim=128, mlp_dim=256),
        net_arch=dict(pi=[128, 64], vf=[128, 64]),
    ),
    "medium": dict(world_model=dict(size="1M", mlp_dim=256), net_arch=dict(pi=[256, 128], vf=[256, 128])),
    "big": dict(world_model=dict(size="1M"), net_arch=dict(pi=[400, 200, 100], vf=[400, 200])),
}
"""Sizes of the networks, by name"""
ACTIVATION_FNS: dict[str, type[nn.Module]] = {"mish": nn.Mish, "silu": nn.SiLU, "elu": nn.ELU}
"""Activations, by name"""


def convert_pwm_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Convert the parameters of a trial to arguments of PWM.

    :param sampled_params: Parameters of the trial, by the names in :func:`sample_pwm_params`.
    :return: Keyword arguments of :class:`~sb3_pwm.PWM`.
    """
    params = dict(sampled_params)
    params["gamma"] = 1 - params.pop("one_minus_gamma")
    params["td_lambda"] = 1 - params.pop("one_minus_td_lambda")
    params["batch_size"] = 2 ** params.pop("batch_size_pow")
    params["bc_coef"] = f"auto_{params['bc_coef']}"  # a plain number would add the term to online learning too
    # One update per round, whatever pwm.yml says: train_freq alone sets the number of updates per step.
    params["gradient_steps"] = 1
    # The world model is in policy_kwargs, so that the argument world_model of pwm.yml replaces it.
    params["policy_kwargs"] = dict(
        NETWORKS[params.pop("networks")], activation_fn=ACTIVATION_FNS[params.pop("activation_fn")]
    )
    return params


def sample_pwm_params(
    trial: "optuna.Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """
    Sample hyperparameters of PWM. The constructor of PWM accepts every combination.

    :param trial: Trial of Optuna.
    :param n_actions: Number of action dimensions. It is unused: rl-zoo3 passes it to every sampler.
    :param n_envs: Number of environments. It is unused: rl-zoo3 passes it to every sampler.
    :param additional_args: Replay buffer settings for HER. They are unused: rl-zoo3 passes them to every sampler.
    :return: Keyword arguments of :class:`~sb3_pwm.PWM`.
    """
    params = {
        "horizon": trial.suggest_int("horizon", 2, 16, log=True),
        "one_minus_td_lambda": trial.suggest_float("one_minus_td_lambda", 0.01, 0.3, log=True),
        "rho": trial.suggest_float("rho", 0.5, 1.0),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.001, 0.05, log=True),
        "policy_optimizer": trial.suggest_categorical("policy_optimizer", ["adam", "lbfgs"]),
        # L-BFGS does not use it.
        "learning_rate": trial.suggest_float("learning_rate", 5e-5, 3e-3, log=True),
        "critic_learning_rate": trial.suggest_float("critic_learning_rate", 5e-5, 3e-3, log=True),
        "world_model_learning_rate": trial.suggest_float("world_model_learning_rate", 5e-5, 3e-3, log=True),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 5, 8),
        "n_critic_epochs": trial.suggest_int("n_critic_epochs", 1, 4),
        "n_critic_minibatches": trial.suggest_categorical("n_critic_minibatches", [1, 2, 4]),
        "replay_critic_coef": trial.suggest_categorical("replay_critic_coef", [0.0, 0.3, 1.0]),
        # The behavior term, which online learning does not have: see "auto" in convert_pwm_params.
        "bc_coef": trial.suggest_float("bc_coef", 0.1, 10.0, log=True),
        "bc_temperature": trial.suggest_float("bc_temperature", 0.03, 1.0, log=True),
        "replay_critic_expectile": trial.suggest_float("replay_critic_expectile", 0.5, 0.9),
        "train_freq": trial.suggest_int("train_freq", 1, 4),
        "tau": trial.suggest_float("tau", 0.005, 0.1, log=True),
        "ent_coef": trial.suggest_categorical("ent_coef", ["auto_0.03", 0.0, 1e-3, 1e-2, 3e-2, 1e-1]),
        "networks": trial.suggest_categorical("networks", list(NETWORKS)),
        "activation_fn": trial.suggest_categorical("activation_fn", list(ACTIVATION_FNS)),
    }
    converted = convert_pwm_params(params)
    # The study shows these arguments too, beside the values that it samples.
    for name in ("gamma", "td_lambda", "batch_size", "bc_coef"):
        trial.set_user_attr(name, converted[name])
    return converted
