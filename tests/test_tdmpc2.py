"""World models of TD-MPC2 and PWM: the same numbers from each version of the files, and no code executed."""

import itertools
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F

from sb3_pwm import WorldModel
from sb3_pwm.tasks import MT30

OBSERVATION, ACTION, LATENT, ENCODER, HIDDEN, TASK, BINS = 7, 3, 16, 12, 20, 5, 101


def release(n_tasks=3, layout="released", bins=BINS, episodic=False):
    """A state dict as TD-MPC2 saves it, with the networks that are not part of the world model."""
    generator = th.Generator().manual_seed(0)

    def random(*shape):
        return th.randn(*shape, generator=generator)

    task = TASK if n_tasks else 0
    sizes = {
        "_encoder.state": [OBSERVATION + task, ENCODER, LATENT],
        "_dynamics": [LATENT + task + ACTION, HIDDEN, HIDDEN, LATENT],
        "_reward": [LATENT + task + ACTION, HIDDEN, HIDDEN, bins],
        "_pi": [LATENT + task, HIDDEN, HIDDEN, 2 * ACTION],
    }
    if episodic:
        sizes["_termination"] = [LATENT + task, HIDDEN, HIDDEN, 1]
    state = OrderedDict()
    if n_tasks:
        state["_task_emb.weight"] = 0.5 * random(n_tasks, task)
    for network, widths in sizes.items():
        for layer, (before, after) in enumerate(itertools.pairwise(widths)):
            state[f"{network}.{layer}.weight"] = random(after, before) / before**0.5
            state[f"{network}.{layer}.bias"] = 0.1 * random(after)
            if layer < len(widths) - 2 or network in ("_encoder.state", "_dynamics"):
                state[f"{network}.{layer}.ln.weight"] = 1 + 0.1 * random(after)
                state[f"{network}.{layer}.ln.bias"] = 0.1 * random(after)
    if layout == "released":
        state["_Qs.params.0"] = random(2, HIDDEN, LATENT)
    else:
        state["_action_masks"], state["log_std_min"] = th.ones(max(n_tasks, 1), ACTION), th.tensor(-10)
        state["_Qs.params.0.weight"] = state["_detach_Qs_params.0.weight"] = random(2, HIDDEN, LATENT)
    return state


def theirs(state, network, x):
    """A network as the TD-MPC2 paper describes it: Linear, LayerNorm, Mish, and SimNorm for latents."""
    layers = sorted({int(name.split(".")[-2]) for name in state if name.startswith(network) and ".ln." not in name})
    for layer in layers:
        x = x @ state[f"{network}.{layer}.weight"].T + state[f"{network}.{layer}.bias"]
        if f"{network}.{layer}.ln.weight" in state:
            scale, shift = state[f"{network}.{layer}.ln.weight"], state[f"{network}.{layer}.ln.bias"]
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * scale + shift
            last = layer == layers[-1]
            x = th.softmax(x.reshape(len(x), -1, 8), -1).flatten(1) if last else x * th.tanh(F.softplus(x))
    return x


def written(path, content):
    th.save(content, path)
    return path


@pytest.mark.parametrize("layout", ["released", "current"])
@pytest.mark.parametrize("container", ["model", "world_model", None])
def test_multi_task_model_computes_the_same(tmp_path, layout, container):
    state = release(layout=layout)
    content = state if container is None else {container: state, "actor": {"weight": th.zeros(2)}}
    model = WorldModel.load(written(tmp_path / "model.pt", content))
    assert model.config.tasks == ("task-0", "task-1", "task-2")
    sizes = (model.config.observation_dim, model.config.action_dim, model.config.latent_dim, model.config.task_dim)
    assert sizes == (OBSERVATION, ACTION, LATENT, TASK)
    observations, actions, task = th.randn(6, OBSERVATION), th.rand(6, ACTION) * 2 - 1, th.tensor([0, 1, 2] * 2)
    rows = state["_task_emb.weight"][task]
    embedding = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1.0)  # the embedding's norm is at most one
    latents = theirs(state, "_encoder.state", th.cat([observations, embedding], -1))
    step = th.cat([latents, embedding, actions], -1)
    with th.no_grad():
        th.testing.assert_close(model.encode(observations, task), latents, atol=1e-5, rtol=1e-5)
        th.testing.assert_close(model.next(latents, actions, task), theirs(state, "_dynamics", step), atol=1e-5, rtol=0)
        logits = model.reward_logits(latents, actions, task)
        th.testing.assert_close(logits, theirs(state, "_reward", step), atol=1e-5, rtol=1e-5)


def test_single_task_model_with_a_scalar_reward_and_compiled_names(tmp_path):
    state = release(n_tasks=0, bins=1)
    compiled = {f"_orig_mod.{name}": value for name, value in state.items()}
    model = WorldModel.load(written(tmp_path / "model.pt", {"model": compiled}))
    assert (model.config.tasks, model.config.reward_head) == ((), "scalar")
    observations, actions = th.randn(4, OBSERVATION), th.rand(4, ACTION)
    with th.no_grad():
        latents = theirs(state, "_encoder.state", observations)
        th.testing.assert_close(model.encode(observations), latents, atol=1e-5, rtol=0)
        reward = theirs(state, "_reward", th.cat([latents, actions], -1)).squeeze(-1)
        th.testing.assert_close(model.reward(latents, actions), reward, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_tasks", [0, 3])
def test_termination_of_an_episodic_model(tmp_path, n_tasks):
    """Its sigmoid is the probability that the step to a latent terminated the episode."""
    state = release(n_tasks, episodic=True)
    model = WorldModel.load(written(tmp_path / "model.pt", {"model": state}))
    assert model.config.termination
    assert not WorldModel.load(written(tmp_path / "endless.pt", {"model": release(n_tasks)})).config.termination
    latents, task = th.softmax(th.randn(6, LATENT), -1), th.tensor([0, 1, 2] * 2) if n_tasks else None
    inputs = latents
    if n_tasks:
        rows = state["_task_emb.weight"][task]
        inputs = th.cat([latents, rows / rows.norm(dim=-1, keepdim=True).clamp(min=1.0)], -1)
    expected = th.sigmoid(theirs(state, "_termination", inputs)).squeeze(-1)
    assert expected.max() - expected.min() > 0.05
    with th.no_grad():
        th.testing.assert_close(1.0 - model.continuation(latents, task), expected, atol=1e-5, rtol=0)


def test_tasks_are_named(tmp_path):
    path = written(tmp_path / "three.pt", {"model": release()})
    assert WorldModel.load(path, tasks=["walk", "run", "stand"]).config.tasks == ("walk", "run", "stand")
    with pytest.raises(ValueError, match="it has 3 tasks; 2 names were given"):
        WorldModel.load(path, tasks=["walk", "run"])
    assert WorldModel.load(written(tmp_path / "mt30.pt", {"model": release(30)})).config.tasks == MT30.tasks
    with pytest.raises(ValueError, match="it is a single-task model: leave tasks out"):
        WorldModel.load(written(tmp_path / "one.pt", {"model": release(0)}), tasks=["walk"])


def test_a_model_of_tdmpc2_is_saved_as_safetensors(tmp_path):
    model = WorldModel.load(written(tmp_path / "model.pt", {"model": release()}))
    model.save(tmp_path / "model.safetensors")
    again = WorldModel.load(tmp_path / "model.safetensors")
    assert again.config == model.config
    observations = th.randn(3, OBSERVATION)
    th.testing.assert_close(again.encode(observations, 2), model.encode(observations, 2))


class Payload:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_payload_is_refused_and_not_executed(tmp_path):
    harm = tmp_path / "harm"
    for number, content in enumerate(({"model": {**release(), "x": Payload(harm)}}, Payload(harm))):
        with pytest.raises(ValueError, match="holds more than plain tensors, and was not read"):
            WorldModel.load(written(tmp_path / f"{number}.pt", content))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Payload(harm)))
    with pytest.raises(ValueError, match=r"plain\.pt is damaged, or holds more than plain tensors"):
        WorldModel.load(tmp_path / "plain.pt")
    assert not harm.exists()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        WorldModel.load(tmp_path / "nothing.pt")
    whole = written(tmp_path / "whole.pt", {"model": release()}).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.pt is damaged"):
        WorldModel.load(tmp_path / "cut.pt")
    cases = {
        r"holds a list, not a dict of tensors": [th.zeros(2)],
        r"holds more than plain tensors: epoch": {"model": {**release(), "epoch": 3}},
        r"has no dynamics\.2\.weight": {"model": {"weight": th.zeros(2)}},
        r"that this package reads: its dynamics, reward and termination networks must have two hidden layers": {
            "model": {**release(), "_dynamics.3.weight": th.zeros(LATENT, LATENT)},
        },
        r"does not fit its configuration: .*encoder\.1\.weight": {
            "model": {**release(), "_encoder.state.1.weight": th.zeros(LATENT, 3)},
        },
    }
    for number, (message, content) in enumerate(cases.items()):
        with pytest.raises(ValueError, match=message):
            WorldModel.load(written(tmp_path / f"{number}.pt", content))


@pytest.mark.parametrize("name", ["tdmpc2_multitask_3tasks.pt", "tdmpc2_multitask_3tasks.new.pt"])
def test_parity_with_the_original(name):
    """Files that TD-MPC2 has written. They are not part of this repository."""
    folder = os.environ.get("SB3_PWM_REFERENCE_FILES")
    if not folder:
        pytest.skip("needs files of TD-MPC2: set SB3_PWM_REFERENCE_FILES to their folder")
    expected = np.load(Path(folder) / "tdmpc2_multitask_3tasks.expected.npz")
    observations, actions, task, latents = (th.as_tensor(expected[k]) for k in ("obs", "action", "task", "latent"))
    model = WorldModel.load(Path(folder) / name)
    with th.no_grad():
        results = {
            "latent": model.encode(observations, task),
            "next_latent": model.next(latents, actions, task),
            "reward_logits": model.reward_logits(latents, actions, task),
            "reward": model.reward(latents, actions, task).unsqueeze(-1),
        }
    for key, result in results.items():
        np.testing.assert_allclose(result.numpy(), expected[key], atol=1e-5, rtol=0)
