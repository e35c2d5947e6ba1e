"""Every command of README.md, CONTRIBUTING.md and docs/ works as it is printed.

Each is in COMMANDS, with the way in which it is tried. A command is run in this process, in a folder that has what the
pages speak of, with small settings behind its own. What can't be run here is parsed by the command's own parser.
"""

import argparse
import functools
import importlib
import importlib.util
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from PIL import Image

import runner
import runner.data.__main__
import runner.export
from runner.config.loading import load_experiment
from tests.docs.pages import PAGES, blocks, commands, inline_code
from tests.support.commands import ROOT
from tests.support.experiment_folder import write_experiment_folder
from tests.support.sharing import made_once

TINY = [
    "data.patch_size=64", "data.patching=resize", "data.synthetic.train=2", "data.synthetic.val=1", "model.channels=2",
    "model.receptive_field=16", "training.epochs=1", "training.precision=fp32", "evaluation.num_patches=2",
    "resources.cpus_per_worker=1", "resources.workers=1", "tracking.wandb=off",
]  # fmt: skip
SET_TINY = [word for override in TINY for word in ("--set", override)]


class Way(NamedTuple):
    """How a command is tried.

    Attributes:
        is_run: run in this process; otherwise its arguments are parsed.
        more: arguments that are put behind its own.
        reason: why it is not run.
    """

    is_run: bool
    more: Sequence[str] = ()
    reason: str = ""


def run(*more: str) -> Way:
    return Way(True, more)


def parsed(reason: str) -> Way:
    return Way(False, (), reason)


AS_PRINTED, DRY = run(), run("--dry-run")
# A training from its first step: a storage of its own, in this process.
TRAINED = run("--in-process", "--storage", "fresh", *SET_TINY)

LONG = parsed("takes minutes; it has tests of its own")
CLUSTER = parsed("needs a cluster")
BUCKET = parsed("needs a bucket")
GPU = parsed("needs GPUs")
NETWORK = parsed("needs a network, or an account")
WEIGHTS = parsed("needs published weights")
OUTSIDE = parsed("is another program's, or the shell's")

BASELINE = "results/baseline/trials/trial"
QUICKSTART = "results/quickstart/trials/batch_size=2,lambda_l1=100"

COMMANDS = {
    # Set up, and make.
    "make demo": LONG,
    "make test": LONG,
    "make check": LONG,
    "make bench": LONG,
    "make soak": LONG,
    "make docs": LONG,
    "source .venv/bin/activate": OUTSIDE,
    "pip install '.[metrics]'": NETWORK,
    "pip install '.[export]'": NETWORK,
    # Data.
    "python -m runner.data synthesize data/drawn --train 20 --val 5 --seed 0": run("--train", "2", "--val", "1"),
    "python -m runner.data fetch maps data/maps": NETWORK,
    "python -m runner.data check data/drawn --sheet sheet.jpg": AS_PRINTED,
    # Training.
    "python -m runner.tune experiments/batch_sweep.yaml --set data.source=data/maps": DRY,
    "python -m runner.tune experiments/batch_sweep.yaml --dry-run": AS_PRINTED,
    "python -m runner.tune experiments/batch_sweep.yaml": DRY,
    "python -m runner.tune experiments/batch_sweep.yaml --set tracking.artifacts=true": DRY,
    "python -m runner.tune experiments/batch_sweep.yaml --set resources.gpus_per_worker=0.25": GPU,
    "python -m runner.tune experiments/batch_sweep.yaml --address HEAD:6379 --storage /shared/results": CLUSTER,
    "python -m runner.tune experiments/batch_sweep.yaml --storage s3://BUCKET/PREFIX": BUCKET,
    "python -m runner.tune experiments/batch_sweep.yaml --set sweep.seeds=3 --dry-run": AS_PRINTED,
    "python -m runner.tune experiments/receptive_field.yaml --set sweep.seeds=3 --dry-run": AS_PRINTED,
    "python -m runner.tune experiments/quickstart.yaml --set name=my_pairs --set data.source=data/drawn": run(
        "--dry-run", "--storage", "fresh"
    ),
    "python -m runner.train experiments/baseline.yaml": TRAINED,
    "python -m runner.train experiments/baseline.yaml --in-process": TRAINED,
    "python -m runner.train experiments/baseline.yaml --set name=from_pretrained "
    "--set model.initial_weights=latest_net_G.pth": TRAINED,
    "python -m runner.train experiments/baseline.yaml --set name=from_there "
    "--set model.initial_weights=latest_net_G.pth": TRAINED,
    "python -m runner.train experiments/interrupted.yaml": TRAINED,
    "python -m runner.train experiments/interrupted.yaml --set training.epochs=250": DRY,
    "python -m runner.drill --minutes 20": LONG,
    "python -m runner.drill --trace spot --minutes 5": LONG,
    "python -m runner.drill --minutes 20 --address HEAD:6379 --storage /shared/drill": CLUSTER,
    f"python -m runner.reproduce {BASELINE}": AS_PRINTED,
    f"python -m runner.reproduce {BASELINE} --epochs 2": parsed("the trial has one epoch here"),
    # Looking.
    "pix2pix-runner --version": AS_PRINTED,
    "pix2pix-runner status results/quickstart": AS_PRINTED,
    "python -m runner.status results/quickstart": AS_PRINTED,
    "python -m runner.status results/quickstart --watch": parsed("goes on while the run does"),
    "python -m runner.report results/quickstart": AS_PRINTED,
    "python -m runner.report results/quickstart results/my_pairs --out comparison.html": AS_PRINTED,
    "python -m runner.tune experiments/batch_sweep.yaml --set tracking.tensorboard=true": DRY,
    "tensorboard --logdir results/batch_sweep/trials": OUTSIDE,
    "wandb login": NETWORK,
    "wandb sync results/quickstart/trials/*/wandb/offline-run-* results/quickstart/wandb/offline-run-*": NETWORK,
    "prometheus --config.file=/tmp/ray/session_latest/metrics/prometheus/prometheus.yml": OUTSIDE,
    # Using.
    f"python -m runner.evaluate {QUICKSTART} --json evaluation.json": AS_PRINTED,
    f"python -m runner.evaluate {BASELINE} --json evaluation.json --csv patches.csv": AS_PRINTED,
    f"python -m runner.evaluate {BASELINE} --data data/drawn": AS_PRINTED,
    f"python -m runner.evaluate {BASELINE} --inception-weights weights-inception-2015-12-05-6726825d.pth "
    "--lpips-weights alexnet-owt-7be5be79.pth": WEIGHTS,
    f"python -m runner.translate {QUICKSTART} data/drawn/val --pairs --out translated": AS_PRINTED,
    f"python -m runner.translate {BASELINE} data/city.tif data/photos --out translated": AS_PRINTED,
    f"python -m runner.export {QUICKSTART} --format onnx --out generator.onnx": AS_PRINTED,
    f"python -m runner.export {BASELINE} --format onnx --out generator.onnx": AS_PRINTED,
    f"python -m runner.export {BASELINE} --format safetensors --out generator.safetensors": AS_PRINTED,
    f"python -m runner.export {BASELINE} --format pytorch-cyclegan --out latest_net_G.pth": AS_PRINTED,
    # On clusters.
    "deploy/spot_loop.sh python -m runner.tune experiments/batch_sweep.yaml --storage /mnt/disk/results": OUTSIDE,
    "python deploy/notebook.py experiments/baseline.yaml --time-limit 11.5h --before /kaggle/input/pix2pix/results "
    "--storage /kaggle/working/results": LONG,
    "python deploy/notebook.py experiments/baseline.yaml --time-limit 30m --before /content/drive/MyDrive/results "
    "--storage /content/results --after /content/drive/MyDrive/results": LONG,
    "python -m runner.tune experiments/batch_sweep.yaml --address HEAD:6379 --storage /shared/results --dry-run": (
        CLUSTER
    ),
    "ray get-auth-token --generate": OUTSIDE,
    "chmod 600 ~/.ray/auth_token": OUTSIDE,
    "export RAY_AUTH_MODE=token": OUTSIDE,
    "ray start --head --port=6379 --dashboard-host=127.0.0.1": OUTSIDE,
    "ray start --address=HEAD:6379": OUTSIDE,
    "ssh -N -L 8265:127.0.0.1:8265 HEAD": OUTSIDE,
    "ray job submit --address http://127.0.0.1:8265 --working-dir . "
    """--runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}' """
    "-- python -m runner.tune experiments/batch_sweep.yaml --storage /shared/results": OUTSIDE,
    "sbatch deploy/slurm/one_node.sbatch experiments/batch_sweep.yaml --set data.source=data/maps": OUTSIDE,
    "sbatch --nodes=4 deploy/slurm/several_nodes.sbatch experiments/batch_sweep.yaml --set data.source=data/maps": (
        OUTSIDE
    ),
    "sbatch deploy/slurm/array.sbatch experiments/baseline.yaml --set data.source=data/maps": OUTSIDE,
    "scancel --batch --signal=TERM JOBID": OUTSIDE,
    "scancel JOBID": OUTSIDE,
    "docker build --file deploy/Dockerfile --tag REGISTRY/pix2pix-runner:0.1.0 .": OUTSIDE,
    "docker push REGISTRY/pix2pix-runner:0.1.0": OUTSIDE,
    "kubectl apply -f deploy/kuberay/rayjob.yaml": OUTSIDE,
    "kubectl logs --follow job/pix2pix": OUTSIDE,
    "sky volumes apply --name pix2pix-results --type k8s-pvc --size 200Gi --infra k8s": OUTSIDE,
    "sky jobs launch --name pix2pix deploy/skypilot.yaml --env EXPERIMENT=experiments/batch_sweep.yaml": OUTSIDE,
    # Working on the code.
    "python -m benchmarks.train_step --batch-size 4 --peer DIR": LONG,
    "python -m benchmarks.evaluation": LONG,
    "python -m benchmarks.data --pairs DIR": LONG,
    "python -m benchmarks.checkpoint": LONG,
    "python -m benchmarks.runner": LONG,
    "python -m benchmarks.scale": LONG,
    "python -m benchmarks.storage": LONG,
    ".venv/bin/python -m pytest tests/gan/training/test_loop.py tests/gan/gpu/test_step.py": LONG,
    ".venv/bin/python -m pytest tests/gan/networks": LONG,
    ".venv/bin/python -m pytest tests/runner/config": LONG,
    ".venv/bin/python -m pytest tests/runner/records": LONG,
    ".venv/bin/python -m pytest tests/runner/report": LONG,
    ".venv/bin/python -m pytest tests/docs": LONG,
    '.venv/bin/python -m pytest tests/end_to_end/test_crashes.py -k "[0]"': LONG,
    '.venv/bin/python -m pytest -m "not slow" tests/runner': LONG,
}


@pytest.fixture(scope="module")
def desk_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of: experiments, pictures, results, weights from elsewhere."""
    return made_once(tmp_path_factory, "documented_commands", _lay_out)


def _lay_out(folder: Path) -> None:
    (folder / "experiments").symlink_to(ROOT / "experiments")

    assert runner.data.__main__.main(["synthesize", str(folder / "data/drawn"), "--train", "2", "--val", "1"]) == 0
    # What is fetched from the network elsewhere.
    shutil.copytree(folder / "data/drawn", folder / "data/maps")
    (folder / "data/photos").mkdir()
    for name in ("city.tif", "photos/roof.jpg"):
        Image.new("RGB", (150, 100), "brown").save(folder / "data" / name)

    storage = folder / "results"
    for name in ("quickstart", "baseline"):
        file = ROOT / "experiments" / f"{name}.yaml"
        results = runner.run_experiment(file, overrides=TINY, storage=storage, in_process=True, quiet=True)
        assert results.is_finished
    write_experiment_folder(storage, "my_pairs", sweep={"batch_size": [2, 8], "lambda_l1": [10, 100]}, epochs=2)

    weights = ["--format", "pytorch-cyclegan", "--out", str(folder / "latest_net_G.pth")]
    assert runner.export.main([str(folder / BASELINE), *weights]) == 0


@pytest.fixture
def desk(desk_of_all: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, in which the test works."""
    folder = tmp_path / "desk"
    shutil.copytree(desk_of_all, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return folder


def test_each_documented_command_has_its_way_to_be_tried_and_no_other_has() -> None:
    documented = {command for page in PAGES for command in commands(page)}
    assert documented - COMMANDS.keys() == set(), "new in the documentation: add them to COMMANDS"
    assert COMMANDS.keys() - documented == set(), "not in the documentation any more: take them out of COMMANDS"


@pytest.mark.parametrize("command", [command for command, way in COMMANDS.items() if way.is_run])
def test_a_documented_command_runs(command: str, desk: Path) -> None:
    main, arguments = _main_of(command)
    assert main([*arguments, *COMMANDS[command].more]) == 0


@pytest.mark.parametrize("command", [command for command, way in COMMANDS.items() if not way.is_run])
def test_the_arguments_of_a_documented_command_are_right(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(command)
    if command.startswith(("python -m pytest", ".venv/bin/python -m pytest")):
        for path in (word for word in arguments if word.startswith("tests/")):
            assert (ROOT / path).exists()
    elif program in ("python", ".venv/bin/python"):
        # Apart from its own two options, the notebook's script takes those of the runner.
        as_runner = re.sub(r" --(before|after) \S+", "", command.replace("deploy/notebook.py", "-m runner.tune"))
        _parse(as_runner, monkeypatch)
    elif program == "make":
        assert set(arguments) <= _make_targets()
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert arguments[0] == "install" and re.fullmatch(r"\.\[(.*)\]", arguments[1])[1] in extras  # type: ignore[index]
    elif program == "wandb":
        from wandb.cli.cli import cli

        # Its parser wants each folder to be there, and the shell would have put folders in the patterns' place.
        verb, *others = ("." if "/" in word else word for word in arguments)
        with cli.commands[verb].make_context(verb, others):
            pass
    else:
        assert COMMANDS[command] is OUTSIDE
        # What is ours in it.
        files = [word for word in shlex.split(command) if word.startswith(("deploy/", "experiments/"))]
        assert [file for file in files if not (ROOT / file).exists()] == []
        if ours := re.search("python -m runner.*", command):
            _parse(ours[0], monkeypatch)


def test_commands_in_sentences_and_tables_exist() -> None:
    for code in (code for page in PAGES for code in inline_code(page)):
        if module := re.match(r"python -m ([a-z_.]+)", code):
            assert importlib.util.find_spec(module[1]), code
        if target := re.fullmatch(r"make ([a-z]+)", code):
            assert target[1] in _make_targets(), code


def test_experiments_in_the_documentation_are_valid() -> None:
    examples = ["\n".join(block.lines) for page in PAGES for block in blocks(page) if block.language == "yaml"]
    assert len(examples) >= 3
    for example in examples:
        # Some show a section alone.
        load_experiment({"name": "example"} | yaml.safe_load(example))


def test_the_python_of_the_readme_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (block for block in blocks(ROOT / "README.md") if block.language == "python")
    run_experiment = runner.run_experiment

    def run_small(file: str, overrides: dict[str, Any]) -> Any:
        settings = [*(f"{key}={value}" for key, value in overrides.items()), *TINY]
        return run_experiment(file, overrides=settings, in_process=True, quiet=True)

    monkeypatch.setattr(runner, "run_experiment", run_small)
    exec("\n".join(block.lines), {"picture": Image.new("RGB", (80, 70))})


def _main_of(command: str) -> tuple[Callable[[Sequence[str]], int], list[str]]:
    """The function behind `python -m MODULE` or `pix2pix-runner`, and the arguments."""
    words = shlex.split(command)
    if words[0] == "pix2pix-runner":
        words[:1] = ["python", "-m", "runner"]
    python, option, name, *arguments = words
    assert (python, option) == ("python", "-m")
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"there is no module {name}"
    return importlib.import_module(f"{name}.__main__" if spec.submodule_search_locations else name).main, arguments


class _Parsed(Exception):
    """The arguments are right."""


def _parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a command parse its arguments, and no more; SystemExit where they are wrong."""
    main, arguments = _main_of(command)
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> None:
        parse(parser, argv)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    with pytest.raises(_Parsed):
        main(arguments) if command.startswith("python -m runner") else main()  # type: ignore[call-arg]


@functools.cache
def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
