"""Pretraining a world model on offline data: alone, in processes, killed and resumed."""

import csv
import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch as th
from minari_sets import steps, write
from PIL import Image

from sb3_pwm import OfflineDataset, WorldModel, WorldModelConfig
from sb3_pwm.cli import main
from sb3_pwm.data.types import Episode, SourceEpisode
from sb3_pwm.pretrain import PretrainConfig, pretrain
from sb3_pwm.pretrain.batches import columns_of, task_rows, to_device
from sb3_pwm.pretrain.validation import open_loop_errors, validate
from sb3_pwm.world_model.losses import world_model_loss

SETTINGS = PretrainConfig(steps=30, batch_size=16, horizon=4, learning_rate=3e-3, warmup_steps=5)


def linear_system(rng, observation_dim, action_dim, n_steps=40, terminated=False):
    """An episode of a system that a world model can learn: x' = 0.9 x + B a, r = x_0."""
    effect = np.eye(observation_dim, action_dim, dtype=np.float32)
    actions = rng.uniform(-1, 1, (n_steps, action_dim)).astype(np.float32)
    states = [rng.normal(size=observation_dim).astype(np.float32)]
    for action in actions:
        states.append(0.9 * states[-1] + 0.3 * effect @ action)
    return Episode(np.stack(states), actions, np.stack(states)[:-1, 0], terminated)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    episodes = [SourceEpisode("large", linear_system(rng, 4, 2), f"large {n}") for n in range(12)]
    episodes += [SourceEpisode("small", linear_system(rng, 3, 1, 20), f"small {n}") for n in range(12)]
    return OfflineDataset.from_episodes(episodes)


def config(dataset, **fields):
    sizes = dict(latent_dim=16, encoder_dim=24, mlp_dim=24, task_dim=4, activation="silu")
    dimensions = dict(observation_dim=dataset.observation_dim, action_dim=dataset.action_dim, tasks=dataset.tasks)
    return WorldModelConfig(**{**sizes, **dimensions, **fields})


def read_table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def run(dataset, out, settings=SETTINGS, **options):
    return pretrain(dataset, config(dataset), out, settings, **{"progress_bar": False, "device": "cpu", **options})


def command(folder, out, *arguments, processes=None):
    start = [sys.executable, "-m"]
    if processes is not None:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    line = [*start, "sb3_pwm.pretrain", "--dataset", str(folder), "--out", str(out), "--device", "cpu"]
    line += ["--size", "200K", "--batch-size", "16", "--horizon", "4", "--activation", "silu"]
    return [*line, *map(str, arguments)]


# --- Learning -------------------------------------------------------------------------------------------------------


def test_learns_to_predict_held_out_episodes(dataset, tmp_path):
    settings = dataclasses.replace(SETTINGS, steps=640, validation_fraction=0.2, balance="size")
    model = run(dataset, tmp_path / "wm.safetensors", settings, checkpoint_every=160, log_every=40)
    rows = read_table(tmp_path / "wm.csv")
    training = [float(row["loss"]) for row in rows if row["data"] == "training"]
    validation = [row for row in rows if row["data"] == "validation"]
    assert [int(row["step"]) for row in validation] == [160, 320, 480, 640]
    assert training[-1] < 0.5 * training[0]
    # Better by far than the prediction of the mean reward
    rewards = np.concatenate([task.episode(n).rewards for task in dataset.data for n in range(len(task.lengths))])
    baseline = np.abs(rewards - rewards.mean()).mean()
    assert float(validation[-1]["reward_error_1"]) < 0.6 * baseline
    assert float(validation[-1]["reward_error_1"]) < 0.8 * float(validation[0]["reward_error_1"])
    # The files
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "wm.best.safetensors",
        "wm.csv",
        "wm.png",
        "wm.safetensors",
    ]
    saved = WorldModel.load(tmp_path / "wm.safetensors")
    assert saved.config.tasks == ("large", "small")
    for name, value in saved.state_dict().items():
        assert th.equal(value, model.state_dict()[name])
    # The best file has the loss that the table says was the lowest one.
    held_out = dataset.split(0.2, settings.seed)[1]
    best = WorldModel.load(tmp_path / "wm.best.safetensors")
    loss = validate(best, held_out, task_rows(best, held_out), settings, th.device("cpu"))["loss"]
    assert loss == pytest.approx(min(float(row["loss"]) for row in validation), rel=1e-4)
    picture = np.asarray(Image.open(tmp_path / "wm.png").convert("RGB")).reshape(-1, 3)
    assert (np.abs(picture - [214, 39, 40]).max(axis=1) < 30).sum() > 100  # the line of the predictions


def test_a_model_is_trained_further(dataset, tmp_path):
    first = run(dataset, tmp_path / "first.safetensors", log_every=1)
    again = pretrain(
        dataset, first, tmp_path / "second.safetensors", SETTINGS, log_every=1, progress_bar=False, device="cpu"
    )
    assert again is first
    # Both runs have the same batches. The second one starts where the first one ended.
    new, trained = (float(read_table(tmp_path / f"{name}.csv")[0]["loss"]) for name in ("first", "second"))
    assert trained < 0.9 * new


def test_a_model_without_a_termination_head_gets_one_where_episodes_terminate(dataset, tmp_path):
    rng = np.random.default_rng(0)
    parts = [SourceEpisode("small", linear_system(rng, 3, 1, 20, terminated=True), f"small {n}") for n in range(4)]
    terminating = OfflineDataset.from_episodes(parts)
    first = run(dataset, tmp_path / "first.safetensors", dataclasses.replace(SETTINGS, steps=2))
    assert first.termination_network is None
    models = {
        "further": first,
        "new": config(dataset),  # whose termination is False
    }
    for name, model in models.items():
        out = tmp_path / f"{name}.safetensors"
        trained = pretrain(terminating, model, out, SETTINGS, progress_bar=False, device="cpu")
        assert WorldModel.load(out).config.termination
        assert not trained.has_new_termination_head
        row = next(row for row in read_table(tmp_path / f"{name}.csv") if row["data"] == "training")
        assert float(row["termination_loss"]) > 0.0
    code = ["pretrain", "--dataset", str(tmp_path / "data"), "--out", str(tmp_path / "command.safetensors")]
    terminating.save(tmp_path / "data")
    settings = ["--init", str(tmp_path / "first.safetensors"), "--steps", "2", "--batch-size", "4", "--horizon", "4"]
    main([*code, *settings, "--device", "cpu"])
    assert WorldModel.load(tmp_path / "command.safetensors").config.termination


def test_errors_are_those_of_a_loop_by_hand(dataset):
    model = WorldModel(config(dataset))
    batch = to_device(dataset.sample(32, 5, np.random.default_rng(0)), task_rows(model, dataset), th.device("cpu"))
    latent, reward, loss = open_loop_errors(model, batch, SETTINGS.rho)
    with th.no_grad():
        for horizon in range(5):
            latents, rewards = [], []
            for b in range(32):
                task = int(batch.task[b])
                z = model.encode(batch.observations[0, b], task)
                for t in range(horizon + 1):
                    predicted = model.reward(z, batch.actions[t, b], task)
                    z = model.next(z, batch.actions[t, b], task)
                target = model.encode(batch.observations[horizon + 1, b], task)
                latents.append(float(((z - target) ** 2).mean()))
                rewards.append(abs(float(predicted - batch.rewards[horizon, b])))
            assert float(latent[horizon]) == pytest.approx(np.mean(latents), rel=1e-4)
            assert float(reward[horizon]) == pytest.approx(np.mean(rewards), rel=1e-4)
        assert float(loss) == pytest.approx(float(world_model_loss(model, batch, SETTINGS.rho).total))


def test_accumulated_parts_are_one_update(dataset, tmp_path):
    whole = run(dataset, tmp_path / "whole.safetensors")
    parts = run(dataset, tmp_path / "parts.safetensors", dataclasses.replace(SETTINGS, grad_accumulation_steps=4))
    for name, value in whole.state_dict().items():
        th.testing.assert_close(parts.state_dict()[name], value, atol=2e-4, rtol=1e-3, msg=name)


def test_parts_of_a_batch_know_which_sequences_are_representative(dataset):
    batch = dataset.sample(32, 3, np.random.default_rng(0))._replace(representative=th.arange(32.0))
    part = to_device(columns_of(batch, slice(1, None, 4)), None, th.device("cpu"))
    assert part.representative.tolist() == list(range(1, 32, 4))


def test_bfloat16(dataset, tmp_path):
    model = run(dataset, tmp_path / "wm.safetensors", dataclasses.replace(SETTINGS, precision="bfloat16"))
    assert all(parameter.dtype == th.float32 for parameter in model.parameters())
    run(dataset, tmp_path / "single.safetensors")
    losses = [float(read_table(tmp_path / f"{name}.csv")[0]["loss"]) for name in ("wm", "single")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_learning_rate_rises_and_falls():
    settings = PretrainConfig(steps=110, warmup_steps=10, learning_rate=1.0, final_lr_fraction=0.2)
    rates = [settings.learning_rate_at(step) for step in range(111)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.6)
    assert rates[110] == pytest.approx(0.2)


def test_tensorboard(dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(dataset, tmp_path / "wm.safetensors", tensorboard_log=tmp_path / "logs", checkpoint_every=15, log_every=10)
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/loss")] == [10, 15, 20, 30]
    assert [event.step for event in events.Scalars("validation/reward_error_4")] == [15, 30]


# --- Processes ------------------------------------------------------------------------------------------------------


def test_killed_and_resumed_is_as_if_nothing_had_happened(dataset, tmp_path):
    dataset.save(tmp_path / "data")
    options = ("--steps", 80, "--checkpoint-every", 20, "--log-every", 10)
    main(["pretrain", *command(tmp_path / "data", tmp_path / "whole.safetensors", *options)[3:]])

    line = command(tmp_path / "data", tmp_path / "killed.safetensors", *options)
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed.checkpoint.pt"
    for _ in range(2400):
        if checkpoint.exists() or process.poll() is not None:
            break
        time.sleep(0.025)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    assert not (tmp_path / "killed.safetensors").exists()
    main(["pretrain", *line[3:]])
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "killed.best.safetensors").read_bytes() == (tmp_path / "whole.best.safetensors").read_bytes()
    assert (tmp_path / "killed.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert not checkpoint.exists()


def test_two_processes_learn_what_one_learns(dataset, tmp_path):
    dataset.save(tmp_path / "data")
    options = ("--steps", 40, "--checkpoint-every", 20, "--log-every", 10, "--grad-accumulation-steps", 2)
    options = (*options, "--no-behavior-head")  # whose spread is fitted to each part of a batch
    main(["pretrain", *command(tmp_path / "data", tmp_path / "one.safetensors", *options)[3:]])
    line = command(tmp_path / "data", tmp_path / "two.safetensors", *options, processes=2)
    result = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    one, two = ([float(row["loss"]) for row in read_table(tmp_path / f"{name}.csv")] for name in ("one", "two"))
    assert len(one) == 6
    np.testing.assert_allclose(one, two, rtol=1e-4)
    models = [WorldModel.load(tmp_path / f"{name}.safetensors") for name in ("one", "two")]
    th.testing.assert_close(models[0].task_embedding.weight, models[1].task_embedding.weight, atol=1e-4, rtol=1e-3)


# --- Bad input ------------------------------------------------------------------------------------------------------


def test_data_that_does_not_fit_is_refused(dataset, tmp_path):
    out = tmp_path / "wm.safetensors"
    for fields, message in (
        ({"observation_dim": 3}, "has observation_dim 4, the world model 3"),
        ({"action_dim": 1}, "has action_dim 2, the world model 1"),
        ({"tasks": ()}, "has 2 tasks, but the world model is single-task"),
        ({"tasks": ("large",)}, "has no task 'small'"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain(dataset, config(dataset, **fields), out, SETTINGS, progress_bar=False, device="cpu")
    assert not list(tmp_path.iterdir())


def test_rewards_beyond_the_reward_head(dataset, tmp_path):
    """A new model gets bins that reach them; a model that is trained further, or other bins, are refused."""
    rng, parts = np.random.default_rng(0), []
    for number in range(4):
        episode = linear_system(rng, 4, 2)
        parts.append(SourceEpisode("large", episode._replace(rewards=1e5 * episode.rewards), f"{number}"))
    large, settings = OfflineDataset.from_episodes(parts), dataclasses.replace(SETTINGS, steps=2)
    new = run(large, tmp_path / "new.safetensors", settings)
    low, high = large.reward_range
    edge = new.config.bin_high
    assert edge == -new.config.bin_low > 10.0
    assert np.expm1(edge - 1.0) < max(-low, high) <= np.expm1(edge)
    logits = th.zeros(2, 101)
    assert new.reward_loss(logits, th.tensor([0.0, high])).isfinite().all()
    options = ["--size", "200K", "--steps", "2", "--batch-size", "4", "--horizon", "4", "--device", "cpu"]
    large.save(tmp_path / "data")
    main(["pretrain", "--dataset", str(tmp_path / "data"), "--out", str(tmp_path / "command.safetensors"), *options])
    assert WorldModel.load(tmp_path / "command.safetensors").config.bin_high == edge
    for world_model in (WorldModel(config(large)), config(large, bin_low=-3.0, bin_high=3.0)):
        with pytest.raises(ValueError, match=r"The data set has a reward of .*PWM\(world_model=dict\(bin_low=-1\d\.0"):
            pretrain(large, world_model, tmp_path / "other.safetensors", settings, progress_bar=False, device="cpu")


def test_bad_arguments_are_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="must be a multiple of the number of processes"):
        run(dataset, tmp_path / "wm.safetensors", dataclasses.replace(SETTINGS, grad_accumulation_steps=3))
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        run(dataset, tmp_path / "wm.zip")
    wrong = dict(
        steps=0,
        learning_rate=0.0,
        rho=2.0,
        balance="no",
        ends_fraction=-0.1,
        precision="int8",
        seed=-1,
        validation_fraction=1.0,
    )
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name} must"):
            dataclasses.replace(SETTINGS, **{name: value})
    for name, value in (("checkpoint_every", 0), ("log_every", 2.5), ("device", "tpu"), ("device", "cuda:99")):
        with pytest.raises(ValueError, match=f"{name} must .*, got {value!r}"):
            run(dataset, tmp_path / "wm.safetensors", **{name: value})
    assert not list(tmp_path.iterdir())


def test_a_model_is_not_overwritten_and_a_checkpoint_of_another_run_not_taken(dataset, tmp_path):
    out = tmp_path / "wm.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="exists already"):
        run(dataset, out)
    assert out.read_bytes() == b"precious"
    out.unlink()

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb3_pwm.pretrain.run.draw_predictions", stop)
        with pytest.raises(Stop):
            run(dataset, out)
    checkpoint = tmp_path / "wm.checkpoint.pt"
    with pytest.raises(ValueError, match=r"of a run with another config: .*Give the same again, or delete"):
        run(dataset, out, dataclasses.replace(SETTINGS, seed=1))
    whole = checkpoint.read_bytes()
    for content in (whole[:-500], pickle.dumps(PretrainConfig)):
        checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match=r"wm\.checkpoint\.pt is damaged, or is no checkpoint") as error:
            run(dataset, out)
        assert "\n" not in str(error.value)
    checkpoint.write_bytes(whole)
    run(dataset, out)
    assert not checkpoint.exists()


def test_a_loss_that_is_not_finite_stops(dataset, tmp_path):
    with pytest.raises(ValueError, match="loss of the world model is not finite at update 10"):
        run(dataset, tmp_path / "wm.safetensors", dataclasses.replace(SETTINGS, learning_rate=1e30), log_every=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "walk"), "no task 'walk'; its tasks are large, small"),
        (("--steps", "0"), "steps must be an integer of at least 1, got 0"),
        (("--init", "no.safetensors"), "There is no world model file no.safetensors"),
        (("--out", "wm.zip"), "out must end in .safetensors"),
        (("--accumulate", "2"), "The option --accumulate is called --grad-accumulation-steps now"),
        (("--final-learning-rate=0.5",), "The option --final-learning-rate is called --final-lr-fraction now"),
        (("--horizons", "2"), "--horizons"),
        (("--size", "2M"), "2M"),
    ],
)
def test_command_says_what_is_wrong(dataset, tmp_path, capsys, arguments, message):
    dataset.save(tmp_path / "data")
    line = command(tmp_path / "data", tmp_path / "wm.safetensors", *arguments)
    with pytest.raises(SystemExit) as error:
        main(["pretrain", *line[3:]])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_command_takes_its_storage_for_no_other_data(minari_folder, tmp_path, capsys):
    a, b, c = (write(f"{name}-v0", *[steps(6)] * 4) for name in "abc")

    def line(out, *sources):
        start = command(sources[0], tmp_path / out, "--storage", tmp_path / "st", "--steps", 2)[3:]
        return ["pretrain", *start, "--dataset", *sources]

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # also torch's, of arrays that cannot be written
        main(line("first.safetensors", a, b))
        main(line("second.safetensors", b, a))
    for sources, message in (((a, c), "it also holds b-v0; it lacks c-v0"), (("no-v0", b), "no-v0 does not exist")):
        with pytest.raises(SystemExit) as error:
            main(line("third.safetensors", *sources))
        assert error.value.code == 2
        assert message in capsys.readouterr().err


def test_old_names_are_refused_with_the_new_ones():
    for old, new in (("accumulate", "grad_accumulation_steps"), ("validation", "validation_fraction")):
        with pytest.raises(TypeError, match=f"no argument '{old}': it is called {new} now"):
            PretrainConfig(**{old: 1})
