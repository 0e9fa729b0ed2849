"""`accelerate_configs/`: every file is taken as far as Accelerate's and torch's own code go without starting a process.

The command is the one the file opens with, so what a reader copies is what is checked.
"""

import argparse
import dataclasses
import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from accelerate.commands import launch as launching
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import launch as preparing
from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin
from torch.distributed import run as torchrun
from torch.distributed.launcher.api import LaunchConfig

from making.models import tiny_backbone
from pfm.commands.train import train

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "accelerate_configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
SCRIPTS = ("hosts.slurm", "torchrun.sh")


@dataclass(frozen=True)
class Expected:
    """What a config file is there for.

    Attributes:
        starter: the function of Accelerate's that would start it.
        hosts, processes: in all.
        device: of the main process, as the second line of a run names it.
        variables: what else the processes find in their environment.
    """

    starter: str
    processes: int
    device: str
    precision: str
    hosts: int = 1
    variables: dict[str, str] = field(default_factory=dict)


EXPECTED = {
    "cpu": Expected("simple_launcher", 1, "cpu", "no", variables={"ACCELERATE_USE_CPU": "True"}),
    "cpu_2": Expected("multi_gpu_launcher", 2, "cpu", "no"),
    "gpu": Expected("simple_launcher", 1, "cuda:0", "bf16", variables={"CUDA_VISIBLE_DEVICES": "0"}),
    "gpu_8": Expected("multi_gpu_launcher", 8, "cuda:0", "bf16"),
    "hosts_2x8": Expected("multi_gpu_launcher", 16, "cuda:0", "bf16", hosts=2),
    "fsdp2_8": Expected(
        "multi_gpu_launcher", 8, "cuda:0", "bf16", variables={"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    ),
    "zero2_8": Expected(
        "multi_gpu_launcher", 8, "cuda:0", "bf16", variables={"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    ),
}
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@dataclass(frozen=True)
class Launch:
    """What an `accelerate launch` command would start, and as what.

    Attributes:
        config: what torch's launcher is told; None where Accelerate starts the one process itself.
        environment: of the processes.
        options: of `pfm train`, parsed.
    """

    starter: str
    config: LaunchConfig | None
    environment: dict[str, str]
    options: dict[str, Any]

    @property
    def processes(self) -> int:
        return 1 if self.config is None else self.config.min_nodes * self.config.nproc_per_node


@pytest.fixture
def gpu_host(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host with eight GPUs, as far as the launchers look; no variable that a test run may have set."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(preparing, "is_port_in_use", lambda port: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_", "PET_", "SLURM_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


def commands(path: Path) -> list[list[str]]:
    """The commands a file opens with: the lines indented within its first comment."""
    found = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("#   ") and path.name in line:
            found.append(shlex.split(line.removeprefix("#")))
    return found


def parsed_options(arguments: list[str]) -> dict[str, Any]:
    """The options of `pfm train`; an unknown one, or a value it does not take, is an error."""
    return train.make_context("pfm train", list(arguments)).params


def torch_config(args: argparse.Namespace) -> LaunchConfig:
    script = ["--training_script", args.training_script, "--training_script_args", args.training_script_args]
    return torchrun.config_from_args(preparing._filter_args(args, torchrun.get_args_parser(), script))[0]


def launched(command: list[str], patch: pytest.MonkeyPatch) -> Launch:
    """Accelerate's own way from a command to the processes, up to where it would start them."""
    assert command[:2] == ["accelerate", "launch"]
    started: list[tuple[str, argparse.Namespace]] = []
    for name in ("simple_launcher", "multi_gpu_launcher"):
        patch.setattr(launching, name, lambda args, name=name: started.append((name, args)))
    patch.chdir(ROOT)
    launching.launch_command(launching.launch_command_parser().parse_args(command[2:]))
    ((starter, args),) = started
    assert args.training_script == "pfm/train.py"
    options = parsed_options(args.training_script_args)
    if starter == "simple_launcher":
        return Launch(starter, None, preparing.prepare_simple_launcher_cmd_env(args)[1], options)
    environment = preparing.prepare_multi_gpu_env(args)  # which also writes to args
    return Launch(starter, torch_config(args), environment, options)


def only_launch(stem: str, patch: pytest.MonkeyPatch) -> Launch:
    (command,) = commands(FOLDER / f"{stem}.yaml")
    return launched(command, patch)


def test_every_file_is_covered_here() -> None:
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {f"{stem}.yaml" for stem in EXPECTED} | set(SCRIPTS)


@every_config
def test_a_config_file_is_accepted_by_accelerate_and_says_what_to_expect(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    expected = EXPECTED[path.stem]
    assert (config.num_processes, config.num_machines) == (expected.processes, expected.hosts)
    assert path.read_text().startswith("# ")
    assert "\n# Expect: " in path.read_text()
    if path.stem != "cpu":  # it expects numbers
        line = f"{expected.processes} process(es) on {expected.device}"
        assert f"{line}, precision {expected.precision}" in path.read_text() or f'"{line}"' in path.read_text()


def test_no_config_asks_for_multi_cpu_which_starts_one_process_in_silence() -> None:
    for path in CONFIGS:
        assert yaml.safe_load(path.read_text())["distributed_type"] != "MULTI_CPU"


@every_config
def test_the_command_a_config_opens_with_starts_what_it_says(path: Path, gpu_host: pytest.MonkeyPatch) -> None:
    found = commands(path)
    assert found
    expected = EXPECTED[path.stem]
    for command in found:
        launch = launched(command, gpu_host)
        assert launch.starter == expected.starter
        assert launch.processes == expected.processes
        assert launch.environment["ACCELERATE_MIXED_PRECISION"] == expected.precision
        for name, value in expected.variables.items():
            assert launch.environment[name] == value
        others = {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} - set(expected.variables)
        assert not others & set(launch.environment)
        assert launch.options["dataset"] in ("digits", "bloodmnist")


def test_two_hosts_run_the_same_command_but_for_their_rank(gpu_host: pytest.MonkeyPatch) -> None:
    pair = commands(FOLDER / "hosts_2x8.yaml")
    configs = [launched(command, gpu_host).config for command in pair]
    ranks = [config.rdzv_configs.pop("rank") for config in configs if config is not None]
    assert ranks == [0, 1]
    for config in configs:
        assert config is not None
        assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 8)
        assert (config.rdzv_backend, config.rdzv_endpoint) == ("static", "host0:29500")
    assert len({shlex.join(command).replace("machine_rank 1", "machine_rank 0") for command in pair}) == 1


def test_more_hosts_than_the_file_has_are_given_on_the_command_line(gpu_host: pytest.MonkeyPatch) -> None:
    command = commands(FOLDER / "hosts_2x8.yaml")[1]
    said = re.search(r"(--num_machines \d+ --num_processes \d+)", (FOLDER / "hosts_2x8.yaml").read_text())
    assert said
    config = launched([*command[:2], *said[1].split(), *command[2:]], gpu_host).config
    assert config is not None
    assert (config.min_nodes, config.nproc_per_node) == (4, 8)


@pytest.mark.parametrize(("stem", "frees_after_forward"), [("fsdp2_8", True), ("zero2_8", False)])
def test_fsdp_shards_each_block_and_gathers_whole_tensors_for_a_checkpoint(
    stem: str, frees_after_forward: bool, gpu_host: pytest.MonkeyPatch
) -> None:
    launch = only_launch(stem, gpu_host)
    assert launch.options["tune"] == "full"
    for name, value in launch.environment.items():
        gpu_host.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()  # as Accelerate makes it in every process
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is frees_after_forward
    assert plugin.cpu_ram_efficient_loading is False
    assert plugin.activation_checkpointing is False
    assert str(plugin.state_dict_type) == "StateDictType.FULL_STATE_DICT"
    model = tiny_backbone()
    plugin.set_auto_wrap_policy(model)  # refuses a class that the model does not have
    wrapped: set[type] = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]  # type: ignore[union-attr]
    assert sum(type(module) in wrapped for module in model.modules()) == model.num_layers


@pytest.mark.parametrize("stem", ["fsdp2_8", "zero2_8"])
def test_what_has_not_run_on_several_gpus_says_so(stem: str) -> None:
    assert "on one GPU, with --num_processes 1 (tests/gpu); not on several" in (FOLDER / f"{stem}.yaml").read_text()


# --- the shell scripts, run with stand-ins for the programs they call ------------------------------

STAND_INS = {
    # starts its command once a host, as one step
    "srun": 'for node in 0 1; do SLURM_NODEID=$node "$@" & pids="$pids $!"; done\n'
    "status=0\n"
    "for pid in $pids; do wait $pid || status=$?; done\n"
    "exit $status",
    "scontrol": 'if [ "$1" = show ]; then printf "node7\\nnode8\\n"; else echo "scontrol $*" >>"$CALLS/order"; fi',
    # what Slurm does with a signal other than KILL: the processes of the step get it, the batch shell does not
    "scancel": 'echo "scancel $*" >>"$CALLS/order"; kill -TERM $(cat "$CALLS"/pid.*)',
    "accelerate": 'printf "%s\\n" "$@" >"$CALLS/accelerate.$SLURM_NODEID"\n'
    "trap 'echo saved >>\"$CALLS/order\"; exit 1' TERM\n"
    'echo $$ >"$CALLS/pid.$SLURM_NODEID"\n'
    'for i in $(seq 1 "${STAND_IN_LASTS:-0}"); do sleep 0.05; done\n'
    "exit ${STAND_IN_STATUS:-0}",
    "torchrun": 'printf "%s\\n" "$@" >"$CALLS/torchrun"; env >"$CALLS/environment"',
}


@dataclass(frozen=True)
class Shell:
    """A folder of stand-ins first on the path, and what they were called with."""

    calls: Path
    environment: dict[str, str]

    def start(self, arguments: list[str], **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", *arguments],
            cwd=ROOT,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def called_with(self, name: str) -> list[str]:
        return (self.calls / name).read_text().splitlines()

    @property
    def order(self) -> list[str]:
        path = self.calls / "order"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.mkdir()
    environment = {
        "PATH": f"{programs}:{os.defpath}",
        "CALLS": str(calls),
        "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_CPUS_PER_TASK": sbatch_options()["cpus-per-task"],
    }
    return Shell(calls, environment)


def sbatch_options() -> dict[str, str]:
    """The #SBATCH lines, which end where the first command stands."""
    options: dict[str, str] = {}
    for line in (FOLDER / "hosts.slurm").read_text().splitlines():
        if line and not line.startswith("#"):
            break
        if line.startswith("#SBATCH --"):
            name, _, value = line.removeprefix("#SBATCH --").partition("=")
            options[name] = value
    return options


def shell_arguments(name: str) -> list[str]:
    """The script and its arguments, from the command the file opens with."""
    (command,) = commands(FOLDER / name)
    return command[command.index(f"accelerate_configs/{name}") :]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_bash_and_says_what_to_expect(name: str) -> None:
    subprocess.run(["bash", "-n", str(FOLDER / name)], check=True)
    text = (FOLDER / name).read_text()
    assert text.startswith("#!/bin/bash\n# ")
    assert '\n# Expect: "16 process(es) on cuda:0, precision bf16"' in text


def test_a_slurm_job_asks_for_what_the_config_starts() -> None:
    options = sbatch_options()
    config = load_config_from_file(str(FOLDER / "hosts_2x8.yaml"))
    assert isinstance(config, ClusterConfig)
    assert int(options["nodes"]) == config.num_machines
    assert int(options["nodes"]) * int(options["gpus-per-node"]) == config.num_processes
    assert options["ntasks-per-node"] == "1"
    assert options["open-mode"] == "append"  # or a job that starts again empties its log
    assert "requeue" in options
    assert options["signal"].startswith("B:TERM@")


def test_a_slurm_job_launches_once_a_host_and_goes_on_from_the_last_checkpoint(
    shell: Shell, gpu_host: pytest.MonkeyPatch
) -> None:
    arguments = [*shell_arguments("hosts.slurm"), "--data_dir", "a folder"]
    job = shell.start(arguments)
    _, errors = job.communicate(timeout=600)
    assert (job.returncode, errors, shell.order) == (0, "", [])
    options = sbatch_options()
    for rank in (0, 1):
        command = shell.called_with(f"accelerate.{rank}")
        launch = launched(["accelerate", *command], gpu_host)
        assert launch.config is not None
        assert (launch.config.min_nodes, launch.config.nproc_per_node) == (2, 8)
        assert launch.config.rdzv_endpoint == "node7:21234"
        assert launch.config.rdzv_configs["rank"] == rank
        threads = int(launch.environment["OMP_NUM_THREADS"])
        assert threads * int(options["gpus-per-node"]) == int(options["cpus-per-task"])
        assert launch.options["resume"] == "auto"
        assert launch.options["data_dir"] == "a folder"
        assert launch.options["dataset"] == "bloodmnist"


def test_a_slurm_job_near_its_end_lets_the_run_save_and_queues_itself_again(shell: Shell) -> None:
    job = shell.start(shell_arguments("hosts.slurm"), STAND_IN_LASTS="2400")
    deadline = time.monotonic() + 600
    while not all(
        path.exists() and path.read_text().endswith("\n") for path in (shell.calls / "pid.0", shell.calls / "pid.1")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)  # what B:TERM does
    _, errors = job.communicate(timeout=600)
    assert shell.order == ["scancel --signal=TERM 41234", "saved", "saved", "scontrol requeue 41234"], errors
    assert job.returncode == 1


def test_a_slurm_job_that_fails_is_not_queued_again(shell: Shell) -> None:
    job = shell.start(shell_arguments("hosts.slurm"), STAND_IN_STATUS="3")
    job.communicate(timeout=600)
    assert job.returncode == 3
    assert shell.order == []


def test_torchrun_meets_at_one_host_and_passes_the_precision_on(shell: Shell, gpu_host: pytest.MonkeyPatch) -> None:
    run = shell.start([*shell_arguments("torchrun.sh"), "--data_dir", "a folder"], HEAD="host0")
    _, errors = run.communicate(timeout=600)
    assert (run.returncode, errors) == (0, "")
    args = torchrun.parse_args(shell.called_with("torchrun"))
    assert args.training_script == "pfm/train.py"
    config = torchrun.config_from_args(args)[0]
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 8)
    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "host0:29500", "pfm")
    options = parsed_options(args.training_script_args)
    assert (options["mixed_precision"], options["resume"], options["data_dir"]) == ("bf16", "auto", "a folder")


def test_torchrun_script_without_its_meeting_place_says_what_is_missing(shell: Shell) -> None:
    run = shell.start(shell_arguments("torchrun.sh"))
    _, errors = run.communicate(timeout=600)
    assert run.returncode != 0
    assert "HEAD=host0" in errors


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_stopped_run_has_longer_to_save_than_torch_gives_it_by_itself(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = re.search(r"^export (TORCH_ELASTIC_SHUTDOWN_TIMEOUT)=(\d+)$", (FOLDER / name).read_text(), re.MULTILINE)
    assert said
    if name == "hosts.slurm":
        assert int(said[2]) < int(sbatch_options()["signal"].removeprefix("B:TERM@"))
    if not any(entry.name == "shutdown_timeout" for entry in dataclasses.fields(LaunchConfig)):
        pytest.skip("this torch always gives 30 s")
    monkeypatch.setenv(said[1], said[2])
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2)
    assert config.shutdown_timeout == int(said[2]) > 30


def test_an_option_that_does_not_exist_would_be_found() -> None:
    with pytest.raises(click.NoSuchOption):
        parsed_options(["--dataset", "digits", "--no_such_option", "1"])
