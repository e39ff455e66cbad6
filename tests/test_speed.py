"""The speed benchmark: the reference computes the same updates as PWM, and the commands write results."""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("timing.measuring")


@pytest.mark.parametrize("terminations", [False, True])
def test_plain_reference_computes_the_same_update(speed, terminations):
    from timing.models import Updates, make_model
    from timing.plain_update import PlainUpdate, separate

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
    model = make_model(arguments)
    model.terminations_seen = terminations
    plain = PlainUpdate(model)
    networks = (plain.world_model, plain.actor, plain.critics, plain.target_critics)
    initial = [[value.detach().clone() for value in network.parameters()] for network in networks]
    for seed in range(2):
        updates = Updates(model, arguments.batch)
        th.manual_seed(seed)
        updates.world_model()
        updates.extraction()
        th.manual_seed(seed)
        plain.update_world_model(updates.batch)
        plain.update_actor_and_critics(updates.batch)

    policy = model.policy
    ours = (policy.world_model, policy.actor, separate(policy.critic), separate(policy.critic_target))
    for network, reference, before in zip(ours, networks, initial, strict=True):
        named = zip(network.named_parameters(), reference.parameters(), before, strict=True)
        for (name, value), expected, start in named:
            # Adam makes a full step even if a gradient is only a rounding error, so single entries may differ.
            assert (value - expected).norm() <= 0.01 * (expected - start).norm() + 1e-8, name


def test_flops_of_a_matrix_product_and_its_backward(speed):
    a, b = th.randn(3, 4, requires_grad=True), th.randn(4, 5, requires_grad=True)
    # 2 * 3 * 4 * 5 forward, and the same number for the gradient of each factor
    assert speed.count_flops(lambda: (a @ b).sum().backward()) == 3 * 2 * 3 * 4 * 5


def test_updates_command_writes_json_table_and_plot(tmp_path):
    def speed_py(*arguments):
        command = [sys.executable, str(BENCHMARKS / "speed.py"), *arguments, "--out", str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout

    small = ["--sizes", "1M", "--batches", "4", "--horizons", "2", "--compiled", "no", "--rounds", "1"]
    speed_py("updates", *small, "--n-critic-epochs", "1")
    (result,) = json.loads((tmp_path / "updates-cpu.json").read_text())["results"]
    assert min(result[name] for name in ("extraction_ms", "plain_extraction_ms", "extraction_gflop")) > 0
    assert "| 1M | 4 | 2 | - |" in speed_py("table")
    speed_py("plot")
    picture = np.asarray(Image.open(tmp_path / "scaling-cpu.png").convert("RGB"))
    assert picture.shape == (880, 1210, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50  # axes and text, not a blank page
