"""The speed benchmark measures what it says: its reference computes PWM's updates, its commands write results."""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch as th

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("speed")


@pytest.mark.parametrize("terminations", [False, True])
def test_plain_reference_computes_the_same_update(speed, terminations):
    from plain_update import PlainUpdate, separate

    arguments = argparse.Namespace(
        size="1M",
        batch=8,
        horizon=4,
        n_critic_epochs=2,
        n_critic_minibatches=2,
        activation="mish",
        device="cpu",
        compile=False,
        precision="float32",
        gradient_checkpointing=False,
    )
    model = speed.make_model(arguments)
    model._terminations_seen = terminations
    plain = PlainUpdate(model)
    networks = (plain.world_model, plain.actor, plain.critics, plain.target_critics)
    initial = [[value.detach().clone() for value in network.parameters()] for network in networks]
    for seed in range(2):
        batch = model._sample(arguments.batch, arguments.horizon)
        th.manual_seed(seed)
        model._update_world_model(batch, speed.defaultdict(list))
        model._update_actor_and_critics(batch, speed.defaultdict(list))
        th.manual_seed(seed)
        plain.update_world_model(batch)
        plain.update_actor_and_critics(batch)

    policy = model.policy
    ours = (policy.world_model, policy.actor, separate(policy.critic), separate(policy.critic_target))
    for network, reference, before in zip(ours, networks, initial, strict=True):
        named = zip(network.named_parameters(), reference.parameters(), before, strict=True)
        for (name, value), expected, start in named:
            # Adam makes a whole step of a gradient that is only rounding, so single entries may differ.
            assert (value - expected).norm() <= 0.01 * (expected - start).norm() + 1e-8, name


def test_flops_of_a_matrix_product_and_its_backward(speed):
    a, b = th.randn(3, 4, requires_grad=True), th.randn(4, 5, requires_grad=True)
    # 2 * 3 * 4 * 5 forward, and as many again for the gradient of either factor
    assert speed.count_flops(lambda: (a @ b).sum().backward()) == 3 * 2 * 3 * 4 * 5


def test_updates_command_writes_json_table_and_plot(tmp_path):
    def speed_py(*arguments):
        command = [sys.executable, str(BENCHMARKS / "speed.py"), *arguments, "--out", str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout

    small = ["--sizes", "1M", "--batches", "4", "--horizons", "2", "--compiled", "no", "--rounds", "1"]
    speed_py("updates", *small, "--critic-epochs", "1")
    (result,) = json.loads((tmp_path / "updates-cpu.json").read_text())["results"]
    assert min(result[name] for name in ("extraction_ms", "plain_extraction_ms", "extraction_gflop")) > 0
    assert "| 1M | 4 | 2 | - |" in speed_py("table")
    speed_py("plot")
    assert (tmp_path / "scaling-cpu.png").stat().st_size > 1000
