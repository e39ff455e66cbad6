"""`sb3-pwm extract`: policies for several tasks and seeds from one world model."""

import contextlib
import json
import re
import signal
import sys
import threading
from multiprocessing.popen_spawn_posix import Popen

import numpy as np
import pandas as pd
import psutil
import pytest
import torch as th
from PIL import Image
from rich.console import Console
from stable_baselines3 import SAC
from test_offline import episodes

from sb3_pwm import PWM, OfflineDataset, WorldModel, WorldModelConfig
from sb3_pwm.cli import main
from sb3_pwm.extract import extract_policy, make_report, read_results, table
from sb3_pwm.extract.jobs import Job, Outcome
from sb3_pwm.extract.live_table import LiveTable
from sb3_pwm.tasks import published_scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A world model of Cup-catch, and data of Cup-catch and Cup-spin."""
    folder = tmp_path_factory.mktemp("extraction")
    parts = [*episodes("cup-catch", "Cup-catch", 2), *episodes("cup-spin", "Cup-spin", 2)]
    OfflineDataset.from_episodes(parts).save(folder / "data")
    th.manual_seed(0)
    sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16, task_dim=4)
    config = WorldModelConfig(observation_dim=8, action_dim=2, tasks=("cup-catch",), **sizes)
    WorldModel(config).save(folder / "wm.safetensors")
    return folder


def extract(folder, *arguments):
    line = ["--world-model", folder / "wm.safetensors", "--dataset", folder / "data", "--out", folder / "out"]
    line += ["--updates", 4, "--eval-every", 2, "--eval-episodes", 1, "--params", "{'batch_size': 8}"]
    main(["extract", *map(str, line), "--threads", str(th.get_num_threads()), *map(str, arguments)])


def test_from_the_replay_buffer_of_an_sb3_model_by_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SAC("MlpPolicy", "Pendulum-v1", learning_starts=10**6, seed=0, device="cpu").learn(600).save_replay_buffer("b.pkl")
    main(["describe", "Pendulum-v1=b.pkl"])
    assert re.search(r"^Pendulum-v1 +3 +1 +3 +600 ", capsys.readouterr().out, re.MULTILINE)

    data = ["--dataset", "Pendulum-v1=b.pkl"]
    main(["pretrain", *data, "--steps", "3", "--size", "200K", "--batch-size", "8", "--out", "wm.safetensors"])
    updates = ["--updates", "2", "--eval-every", "1", "--eval-episodes", "1", "--params", "{'batch_size': 8}"]
    common = ["--tasks", "Pendulum-v1", "--out", "out", "--threads", str(th.get_num_threads())]
    main(["extract", "--world-model", "wm.safetensors", *data, *updates, *common])
    assert "pendulum-v1, seed 0: return" in capsys.readouterr().out
    model = PWM("MlpPolicy", "Pendulum-v1", world_model="wm.safetensors", dataset="Pendulum-v1=b.pkl", offline=True)
    assert model.replay_buffer.size() == 600


def test_policies_results_and_resuming(folder, capsys):
    # A task that the world model does not have is reported, and stops no other.
    with pytest.raises(SystemExit) as error:
        extract(folder, "--tasks", "cup-spin", "cup-catch", "--seeds", 0, 1)
    assert error.value.code == 1
    output = capsys.readouterr()
    assert "2 of 4 extractions failed: cup-spin (seed 0), cup-spin (seed 1)" in output.err
    assert "cup-spin, seed 0: failed: The world model has no task 'cup-spin'; its tasks are cup-catch" in output.out

    results = [json.loads((folder / f"out/cup-catch/default-seed{seed}.json").read_text()) for seed in (0, 1)]
    for result in results:
        assert [row["timesteps"] for row in result["evaluations"]] == [0, 2, 4]
        assert result["data"]["episodes"] == 2
        assert result["online"] == []
    model = PWM.load(folder / "out/cup-catch/default-seed1.zip", device="cpu")
    assert (model.policy.task, model.n_updates, model.batch_size) == ("cup-catch", 4, 8)
    returns = [result["evaluations"][-1]["return"] for result in results]
    scores = pd.read_csv(folder / "out/scores.csv")
    np.testing.assert_allclose(scores["return"], returns)
    line = table(read_results(folder / "out")).splitlines()[2]
    assert line.startswith("| cup-catch | default | 4 |")
    assert f"**{np.mean(returns):.0f}** ({returns[0]:.0f}, {returns[1]:.0f})" in line
    report = (folder / "out/report.md").read_text()
    assert f"| cup-catch | **{np.mean(returns) / 1_000:.3f}** " in report
    assert report in output.out
    picture = np.asarray(Image.open(folder / "out/returns.png").convert("RGB")).reshape(-1, 3).astype(int)
    assert (np.abs(picture - [31, 119, 180]).max(axis=1) < 30).sum() > 50  # the curve

    # Given again, nothing is extracted again; what is missing is.
    before = (folder / "out/cup-catch/default-seed0.zip").stat().st_mtime_ns
    extract(folder, "--tasks", "Cup-catch", "--seeds", 0, 1)
    assert "2 policies, 2 of them extracted before" in capsys.readouterr().out
    assert (folder / "out/cup-catch/default-seed0.zip").stat().st_mtime_ns == before


def test_a_new_task_and_going_on_online(folder):
    new = ("--tasks", "cup-spin", "--like", "cup-catch", "--seeds", 0, "--online-steps", 3, "--tag", "new")
    extract(folder, *new)
    result = json.loads((folder / "out/cup-spin/new-seed0.json").read_text())
    assert [row["timesteps"] for row in result["online"]] == [0, 2, 3]


def test_the_data_may_write_the_task_as_the_environment_id(tmp_path):
    data = OfflineDataset.from_episodes(episodes("Cup-catch", "Cup-catch", 2))
    data.save(tmp_path / "data")
    config = WorldModelConfig(8, 2, tasks=data.tasks, latent_dim=16, encoder_dim=16, mlp_dim=16, task_dim=4)
    WorldModel(config).save(tmp_path / "wm.safetensors")
    for written in ("cup-catch", "Cup-catch"):
        extract(tmp_path, "--tasks", written, "--seeds", 0)
    result = json.loads((tmp_path / "out/cup-catch/default-seed0.json").read_text())
    assert result["task"] == "cup-catch"
    assert PWM.load(tmp_path / "out/cup-catch/default-seed0.zip", device="cpu").policy.task == "Cup-catch"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "cup-ctch"), "There is no task 'cup-ctch'; nearest: cup-catch"),
        (("--tasks", "cup-catch", "--params", "3"), "--params must be a dictionary"),
        (("--tasks", "cup-catch", "--world-model", "no.safetensors"), "There is no world model file no.safetensors"),
        (("--tasks", "cup-catch", "--dataset", "nowhere"), "nowhere"),
        (("--tasks", "cup-catch", "--update", "3"), "--update"),
        (("--tasks",), "Argument --tasks: expected at least one argument"),
        (("--tasks", "cup-catch", "--episodes", "3"), "The option --episodes is called --eval-episodes now"),
        (("--tasks", "cup-catch", "--updates", "0"), "updates must be an integer of at least 1, got 0"),
        (("--tasks", "cup-catch", "--seeds", "-1"), "A seed must be an integer of at least 0"),
        (("--tasks", "cup-catch", "--jobs", "0"), "jobs must be an integer of at least 1, got 0"),
        (("--tasks", "cup-catch", "--threads", "-1"), "threads must be an integer of at least 0, got -1"),
        (("--tasks", "cup-catch", "--device", "tpu"), "device must be auto, cpu, or a GPU of this machine"),
        (("--tasks", "cup-catch", "--tag", "a/b"), "--tag must be usable in the name of a file, got 'a/b'"),
        (("--tasks", "cup-catch", "--params", "{'horizn': 8}"), "PWM has no argument 'horizn': did you mean 'horizon'"),
        (("--tasks", "cup-catch", "--params", "{'behaviour_coef': 1}"), "it is called bc_coef now"),
        (("--tasks", "cup-catch", "--params", "{'seed': 1}"), "--params must not have 'seed': give --seeds"),
        (("--tasks", "cup-catch", "--out", __file__), "--out must be a folder"),
    ],
)
def test_command_says_what_is_wrong(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        extract(folder, *arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused(folder, capsys):
    extract(folder, "--tasks", "cup-catch", "--seeds", 5, "--tag", "run")
    result = folder / "out/cup-catch/run-seed5.json"
    before = result.read_bytes()
    for seed in (5, 6):  # seeds that the folder does not have are of another run, too
        with pytest.raises(SystemExit) as error:
            extract(folder, "--tasks", "cup-catch", "--seeds", seed, "--tag", "run", "--updates", 6)
        assert error.value.code == 2
        message = f"{result} is the result of another run (updates 4, not 6): choose another --out or --tag"
        assert message in capsys.readouterr().err
    assert result.read_bytes() == before
    assert not result.with_name("run-seed6.json").exists()


def test_damaged_results_are_named(folder, tmp_path, capsys):
    file = tmp_path / "cup-catch/default-seed0.json"
    file.parent.mkdir()
    for content in (
        "{",
        "{}",
        "[]",
        '{"task": "cup-catch", "tag": "default", "seed": 0, "data": {}, "evaluations": []}',
    ):
        file.write_text(content)
        with pytest.raises(SystemExit) as error:
            extract(folder, "--tasks", "cup-catch", "--out", tmp_path)
        assert error.value.code == 2
        assert f"{file} is damaged, or is no result of an extraction" in capsys.readouterr().err


def test_a_failed_extraction_stops_no_other_and_is_tried_again(folder, tmp_path, capsys, monkeypatch):
    def failing(world_model, dataset, task, seed, *arguments):
        if task == "Cup-spin":
            raise RuntimeError("broken")
        if seed == 0:  # diverges
            with th.no_grad():
                next(world_model.reward_network.parameters()).fill_(th.nan)
        return extract_policy(world_model, dataset, task, seed, *arguments)

    arguments = ("--tasks", "cup-spin", "cup-catch", "--seeds", 0, 1, "--out", tmp_path, "--like", "cup-catch")
    with monkeypatch.context() as patch:
        patch.setattr("sb3_pwm.extract.jobs.extract_policy", failing)
        with pytest.raises(SystemExit) as error:
            extract(folder, *arguments)
    assert error.value.code == 1
    output = capsys.readouterr()
    traceback = tmp_path / "cup-spin/default-seed0.error.txt"
    sentence = f"cup-spin, seed 0: failed: RuntimeError: broken. The traceback is in {traceback}.\n"
    assert sentence in output.out
    assert "RuntimeError: broken" in traceback.read_text()
    assert re.search(r"^cup-catch, seed 0: failed: .* not finite.*$", output.out, re.MULTILINE)
    failed = "cup-spin (seed 0), cup-spin (seed 1), cup-catch (seed 0)"
    assert output.err.endswith(f"error: 3 of 4 extractions failed: {failed}. Give the command again to retry.\n")

    finished = tmp_path / "cup-catch/default-seed1.zip"
    before = finished.stat().st_mtime_ns
    extract(folder, *arguments)
    assert "4 policies, 1 of them extracted before" in capsys.readouterr().out
    assert finished.stat().st_mtime_ns == before
    assert not traceback.exists()
    assert len(pd.read_csv(tmp_path / "scores.csv")) == 4


TWO_TASKS = ("--tasks", "cup-spin", "cup-catch", "--like", "cup-catch", "--seeds", 0)


def workers():
    """:return: The worker processes of this process."""
    children = psutil.Process().children()
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child for child in children if any("spawn_main" in word for word in child.cmdline())]
    return []


@contextlib.contextmanager
def each_worker(action, workers=workers):
    """Call a function with each new worker process, and with the number of those before it."""
    ended, seen = threading.Event(), []

    def watch():
        while not ended.wait(0.02):
            for worker in workers():
                if worker not in seen:
                    seen.append(worker)
                    action(worker, len(seen) - 1)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def kill_the_first(worker, before):
    if before == 0:
        worker.kill()


def check_same_policies(*folders):
    """Check that two runs of :data:`TWO_TASKS` have the same evaluations and policies, bit for bit."""
    for task in ("cup-spin", "cup-catch"):
        files = [folder / task / "default-seed0.json" for folder in folders]
        one, two = (json.loads(file.read_text()) for file in files)
        for first, second in zip(one["evaluations"], two["evaluations"], strict=True):
            assert first["return"] == second["return"]
        one, two = (PWM.load(file.with_suffix(".zip"), device="cpu").policy.state_dict() for file in files)
        assert one.keys() == two.keys()
        assert all(th.equal(one[name], two[name]) for name in one)


def test_several_at_a_time_are_the_same_also_after_a_kill(folder, tmp_path):
    extract(folder, *TWO_TASKS, "--out", tmp_path / "one")
    with each_worker(kill_the_first) as seen:
        extract(folder, *TWO_TASKS, "--out", tmp_path / "two", "--jobs", 2)
    assert len(seen) == 3
    assert not workers()
    check_same_policies(tmp_path / "one", tmp_path / "two")


def test_an_extraction_whose_process_is_killed_twice_fails(folder, tmp_path, capsys):
    with each_worker(lambda worker, _: worker.kill()) as seen, pytest.raises(SystemExit) as error:
        extract(folder, *TWO_TASKS, "--out", tmp_path, "--jobs", 2)
    assert error.value.code == 1
    assert len(seen) >= 4
    output = capsys.readouterr()
    for task in ("cup-spin", "cup-catch"):
        assert f"{task}, seed 0: failed: Its process was killed 2 times" in output.out
    assert "2 of 2 extractions failed" in output.err


@pytest.fixture
def interruptible():
    """Python's usual handler of Ctrl-C: the workers of pytest-xdist ignore it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_the_workers(folder, tmp_path, capsys):
    def interrupt(worker, before):
        if before == 1:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with each_worker(interrupt), pytest.raises(SystemExit) as error:
        extract(folder, *TWO_TASKS, "--out", tmp_path, "--jobs", 2)
    assert error.value.code == 130
    assert not workers()
    assert "sb3-pwm extract: interrupted.\n" in capsys.readouterr().err


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_while_a_worker_starts_ends_it(folder, tmp_path, monkeypatch):
    """The process runs already, and is not yet known to be a child."""
    launch = Popen._launch

    def launch_and_interrupt(self, process):
        launch(self, process)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Popen, "_launch", launch_and_interrupt)
    with pytest.raises(SystemExit) as error:
        extract(folder, *TWO_TASKS, "--out", tmp_path, "--jobs", 2)
    assert error.value.code == 130
    assert not workers()


def test_live_table_tells_what_runs_and_what_is_done(tmp_path, capsys):
    jobs = [Job(index, "cup-catch", "Cup-catch", index, tmp_path / f"{index}.json") for index in range(4)]
    live = LiveTable(jobs, updates=4_000)
    live.progress[2:4] = [1_000, 12.34]
    live.report(Outcome(jobs[0], score=5.04))
    live.report(Outcome(jobs[3], "It diverged."))
    assert capsys.readouterr().out == "cup-catch, seed 0: return 5.0\ncup-catch, seed 3: failed: It diverged.\n"
    console = Console(width=80)
    with console.capture() as capture:
        console.print(live.render())
    lines = capture.get().splitlines()
    assert re.findall(r"[\w,.-]+(?: of [\d,]+)?", lines[3]) == ["cup-catch", "1", "1,000 of 4,000", "12.3"]
    assert lines[-1].strip() == "1 done, 1 failed, 1 running, 1 waiting"


def results_of(scores):
    """:return: Results of a run, from the returns or the success rates of Meta-World of each seed."""
    results = {}
    for task, values in scores.items():
        key = "success" if task.startswith("mw-") else "return"
        results[task, "default"] = [
            {"seed": seed, "evaluations": [{"return": 0.0, key: value}]} for seed, value in enumerate(values)
        ]
    return results


def test_report_by_hand():
    pytest.importorskip("rliable", reason="needs rliable: pip install 'sb3-pwm[benchmarks]'")
    scores = {"walker-walk": [800, 900, 0], "cup-catch": [600, 1000], "mw-reach": [0.5, 0.7], "hopper-hop": [100, 200]}
    results = results_of({**scores, "hopper-v5": [3000, 3000]})
    results["mw-push", "default"] = [{"seed": 0, "evaluations": [{"return": 500.0}]}]  # without a success rate
    results["cup-spin", "other"] = [{"seed": 0, "evaluations": [{"return": 500.0}]}]
    report = make_report(results, "default")
    cells = re.search(r"^\| this run \| (.*) \|$", report, re.MULTILINE)[1].split(" | ")
    numbers = [[float(number) for number in re.findall(r"[\d.]+", cell)] for cell in cells]
    # Means of the tasks: 0.85, 0.8, 0.6 and 0.15. The middle half of all scores: 0.5, 0.6, 0.7 and 0.8
    assert [points[0] for points in numbers] == [0.6, 0.7, 0.65]
    mean, low, high = numbers[0]
    assert 0.5 <= low < mean < high <= 0.7  # all tasks with their worst seed, and with their best
    published = published_scores("mt80")
    theirs = np.mean([published[task]["tdmpc2"] for task in scores])
    assert f"| TD-MPC2, published | {theirs:.3f} |" in report
    assert "4 tasks; all rows are of these tasks. All tasks count with 2 seeds, the fewest" in report
    assert report.endswith("Left out, because there is no normalized score: hopper-v5, mw-push.\n")
    assert "cup-spin" not in report


def test_report_of_one_seed_beside_mt30():
    pytest.importorskip("rliable", reason="needs rliable: pip install 'sb3-pwm[benchmarks]'")
    report = make_report(results_of({"acrobot-swingup": [400]}), "default")
    assert "| this run | 0.400 | 0.400 | 0.400 |" in report
    assert "| acrobot-swingup | **0.400** (0.400) | 0.116 | 0.010 |" in report
    assert "One seed, so there are no intervals." in report


def test_report_without_scores_or_without_rliable(monkeypatch):
    monkeypatch.setitem(sys.modules, "rliable", None)
    report = make_report(results_of({"hopper-v5": [3000]}), "default")
    assert "No task has a normalized score." in report
    with pytest.raises(ImportError, match=r"The report needs rliable: pip install 'sb3-pwm\[benchmarks\]'"):
        make_report(results_of({"walker-walk": [800]}), "default")
