"""The launch scripts with two CPU processes, and what happens when one of them, or the launcher, is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.train.conftest import environment, start
from tests.train.test_run import lines, wait_for

LAUNCH = ROOT / "launch"
pytestmark = [pytest.mark.dist, pytest.mark.slow]


def launch_environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return environment(PATH=path, PROCESSES="2", DS_ACCELERATOR="cpu", **extra)


def launch(script: list[str], *arguments: Any, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(LAUNCH / script[0]), *script[1:], *(str(one) for one in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=launch_environment(**extra),
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 240) -> str:
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return output


def pids(folder: Path) -> list[int]:
    return [json.loads((folder / "ranks" / f"{rank}.json").read_text())["pid"] for rank in range(2)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


LOAD = """
import sys
sys.modules["deepspeed"] = None  # as if it were not installed
import torch, vlp
model = vlp.from_pretrained(sys.argv[1], trust=["tests.train.toy_tower"])
assert model.embed_texts(["no effusion"]).shape == (1, 16)
from safetensors.torch import load_file
weights = load_file(sys.argv[1] + "/model.safetensors")
assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
"""


def family(ranks: list[int]) -> list[int]:
    """Return processes and their children: the ranks and what reads for them."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {int(stat.split()[0]): int(stat.rpartition(")")[2].split()[1]) for stat in stats}
    return [*ranks, *(pid for pid, parent in parents.items() if parent in ranks)]


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        ("torchrun.sh", ["engine.shard=true"]),
        ("deepspeed.sh", ["engine.zero=3", "engine.precision=bf16"]),
        ("accelerate.sh", []),
    ],
    ids=["torchrun, FSDP2", "deepspeed, ZeRO 3 in bf16", "accelerate, DDP"],
)
def test_each_launcher_trains_on_two_processes(script: str, settings: list[str], recipe: Path, tmp_path: Path) -> None:
    process = launch([script], recipe, "name=two", "train.samples=32", *settings)
    output = finish(process)
    assert process.returncode == 0, output
    folder = tmp_path / "runs" / "two"
    assert lines(folder, "start")[0]["world"] == 2 and lines(folder, "end")[0]["outcome"] == "finished"
    assert lines(folder, "train")[-1]["sources"] == {"synthetic": 8}, "both ranks' samples are counted"
    subprocess.run([sys.executable, "-c", LOAD, str(folder / "last")], check=True, env=environment())


def test_a_dry_run_of_two_processes_is_told_once(recipe: Path, tmp_path: Path) -> None:
    process = launch(["torchrun.sh"], recipe, "--dry-run")
    output = finish(process)
    assert process.returncode == 0, output
    assert output.count("peak of one step, largest process: ") == 1
    assert re.search(r"processes +2 +8 +64\n", output)
    assert len(re.findall(r"^  (?:ddp / zero 0|zero [123]|fsdp2 \(shard\)) ", output, re.MULTILINE)) == 5
    assert not (tmp_path / "runs").exists()


def test_the_readme_shows_each_launcher() -> None:
    readme = (LAUNCH.parent / "README.md").read_text()
    shown = re.findall(r"launch/[a-z]+\.(?:sh|sbatch)", "".join(re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)))
    assert set(shown) == {f"launch/{one.name}" for one in LAUNCH.iterdir()}
    assert all(one.stat().st_mode & 0o111 for one in LAUNCH.glob("*.sh"))


def test_slurms_body_with_slurms_variables(recipe: Path, tmp_path: Path) -> None:
    """`srun` and `scontrol` are stand-ins: two tasks with the variables that Slurm sets, signals passed on to them."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(
        f'#!/bin/bash\n[[ $1 == show ]] && echo 127.0.0.1 || echo "$@" >> {tmp_path}/scontrol.txt\n'
    )
    (tools / "srun").write_text(
        "#!/bin/bash\nshift\n"
        'for id in 0 1; do SLURM_PROCID=$id SLURM_LOCALID=$id SLURM_NTASKS=2 "$@" & tasks+=($!); done\n'
        "trap 'kill -USR1 \"${tasks[@]}\"' USR1\n"
        'code=0; for task in "${tasks[@]}"; do\n'
        'while kill -0 "$task" 2>/dev/null; do wait "$task"; code=$?; done; done; exit $code\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "127.0.0.1", "PATH": path}
    process = subprocess.Popen(
        ["bash", str(LAUNCH / "slurm.sbatch"), str(recipe), "name=slurm", "train.samples=1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**variables),
        start_new_session=True,
    )
    folder = tmp_path / "runs" / "slurm"
    wait_for(lambda: (folder / "log.jsonl").exists() and len(lines(folder, "train")) >= 2)
    process.send_signal(signal.SIGUSR1)  # what --signal=B:USR1@300 sends
    output = finish(process)
    assert process.returncode == 0, output
    assert output.count("resumable: ") == 2, "each rank says so"
    assert lines(folder, "end")[-1]["step"] == lines(folder, "checkpoint")[-1]["step"]
    assert (tmp_path / "scontrol.txt").read_text() == f"requeue {os.getpid()}\n"


def test_a_killed_rank_is_named_leaves_no_orphan_and_the_next_try_resumes(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "killed"
    process = launch(
        ["retry.sh", str(LAUNCH / "torchrun.sh")], recipe, "name=killed", "train.samples=2400", TRIES="2"
    )  # fmt: skip
    wait_for(lambda: (folder / "last").exists())
    first = pids(folder)
    everyone = family(first)
    assert len(everyone) >= 4, "each rank has a worker that reads"
    os.kill(first[1], signal.SIGKILL)
    wait_for(lambda: not any(is_running(pid) for pid in everyone), 60)
    output = finish(process)
    assert process.returncode == 0, output
    assert "rank 1 (pid" in output or f"rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: {first[1]})" in output, (
        output
    )
    assert lines(folder, "resume")[0]["step"] >= 10
    assert lines(folder, "end")[-1]["outcome"] == "finished"
    assert [line["step"] for line in lines(folder, "train")] == list(range(1, 301))


def test_the_next_try_after_a_killed_launcher_waits_for_its_ranks(recipe: Path, tmp_path: Path) -> None:
    """The ranks outlive their launcher by the checkpoint that they save, and hold the folder as long."""
    folder = tmp_path / "runs" / "again"
    process = launch(
        ["retry.sh", str(LAUNCH / "torchrun.sh")], recipe, "name=again", "train.samples=1600", "--resume", TRIES="2"
    )  # fmt: skip
    wait_for(lambda: (folder / "last").exists())
    (launcher,) = map(int, json.loads((folder / ".vlp.lock").read_text())["launchers"])
    os.kill(launcher, signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 0, output
    assert "try 1 of 2 ended with 137" in output and "is being written by" not in output, output
    assert [line["step"] for line in lines(folder, "train")] == list(range(1, 201))


@pytest.mark.parametrize("script", ["deepspeed.sh", "accelerate.sh"])
def test_a_killed_rank_ends_the_job_under_each_launcher(script: str, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "killed"
    process = launch([script], recipe, "name=killed", "train.samples=1000000")
    wait_for(lambda: (folder / "log.jsonl").exists() and len(lines(folder, "train")) >= 2)
    ranks = pids(folder)
    everyone = family(ranks)
    os.kill(ranks[1], signal.SIGKILL)
    output = finish(process, 60)
    assert process.returncode != 0
    assert (
        f"rank 1 (pid {ranks[1]}" in output
        or f"rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: {ranks[1]})" in output
    )
    wait_for(lambda: not any(is_running(pid) for pid in everyone), 10)


@pytest.mark.parametrize("script", ["torchrun.sh", "deepspeed.sh", "accelerate.sh"])
def test_killing_the_launcher_leaves_no_orphan(script: str, recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "orphans"
    process = launch([script], recipe, "name=orphans", "train.samples=1000000")
    wait_for(lambda: (folder / "log.jsonl").exists() and len(lines(folder, "train")) >= 2)
    everyone = family(pids(folder))
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not any(is_running(pid) for pid in everyone), 90)
    process.communicate(timeout=60)
    assert (folder / "last").exists(), "they had the time to save"


def test_a_signal_to_the_launcher_stops_all_ranks_at_one_step(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "term"
    process = launch(["torchrun.sh"], recipe, "name=term", "train.samples=1000000")
    wait_for(lambda: (folder / "log.jsonl").exists() and len(lines(folder, "train")) >= 2)
    process.send_signal(signal.SIGTERM)
    output = finish(process, 90)
    assert output.count("resumable: ") == 2, output
    assert not any(is_running(pid) for pid in pids(folder))
    step = lines(folder, "end")[-1]["step"]
    assert json.loads((folder / "last/state/counters.json").read_text())["step"] == step

    # One process goes on where two stopped.
    alone = start(recipe, "name=term", "train.samples=1000000", "--resume")
    wait_for(lambda: len(lines(folder, "train")) >= step + 2)
    alone.send_signal(signal.SIGTERM)
    _, errors = alone.communicate(timeout=60)
    assert alone.returncode == 0, errors
    resumed = lines(folder, "resume")[0]
    assert (resumed["step"], resumed["world"]) == (step, 1)
    assert [line["samples"] for line in lines(folder, "train")] == [
        8 * (number + 1) for number in range(len(lines(folder, "train")))
    ]


def test_nan_on_one_rank_ends_all(recipe: Path, tmp_path: Path) -> None:
    text = "model.text={kind: 'tests.train.toy_tower:ToyText', nan_on_rank: 1}"
    process = launch(["torchrun.sh"], recipe, "name=nan", text, "train.log_every=4")  # found in step 4, named as 1
    output = finish(process)
    assert process.returncode != 0
    assert "step 1: the loss is not finite" in output and "keys of the batch: " in output
    assert len(lines(tmp_path / "runs" / "nan", "stopped")[0]["keys"]) in (4, 8)
    assert not any(is_running(pid) for pid in pids(tmp_path / "runs" / "nan"))


def test_a_rank_that_hangs_ends_all(recipe: Path, tmp_path: Path) -> None:
    """Stopped, not dead: only the collectives' timeout can tell."""
    folder = tmp_path / "runs" / "hung"
    process = launch(["torchrun.sh"], recipe, "name=hung", "train.samples=1000000", "engine.timeout_minutes=0.1")
    wait_for(lambda: (folder / "last").exists())
    ranks = pids(folder)
    os.kill(ranks[1], signal.SIGSTOP)
    output = finish(process, 120)
    assert process.returncode != 0
    assert re.search(r"vlp-train: rank 0: .*[Tt]imed out", output), output
    assert not any(is_running(pid) for pid in ranks)


@pytest.mark.parametrize("damage", ["corrupt", "ends early"])
def test_damaged_data_on_one_rank_ends_all(damage: str, recipe: Path, tmp_path: Path, shards: Path) -> None:
    """The images of one shard are no images any more, or half of a shard goes while it is trained on."""
    broken, folder = tmp_path / "broken", tmp_path / "runs" / "cut"
    shutil.copytree(shards, broken)
    victim = sorted(broken.glob("train-*.tar"))[0]
    content = victim.read_bytes()
    if damage == "corrupt":
        victim.write_bytes(content.replace(b"\xff\xd8\xff", b"\0\0\0").replace(b"\x89PNG", b"\0\0\0\0"))
    process = launch(["torchrun.sh"], recipe, "name=cut", f"data.train={broken}", "train.samples=1000000")
    if damage == "ends early":
        wait_for(lambda: (folder / "log.jsonl").exists() and len(lines(folder, "train")) >= 2)
        os.truncate(victim, len(content) // 2)
    output = finish(process)
    assert process.returncode != 0
    assert "the data failed: rank" in output and "are damaged" in output, output
    assert not any(is_running(pid) for pid in pids(folder))
    if damage == "ends early":
        assert f"saved at step {lines(folder, 'checkpoint')[-1]['step']}, --resume goes on" in output
