"""What the files of deploy/ for Kubernetes, SkyPilot and Docker say fits together, and fits this project.

Their form was checked once against the schemas of KubeRay 1.7 and SkyPilot 0.14 (deploy/README.md). Here are the rules
that a schema does not know.
"""

import importlib.metadata
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

import runner.tune
from runner.errors import Exit
from tests.deploy.desk import DEPLOY
from tests.support.commands import ROOT

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
RAY_JOB: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay" / "rayjob.yaml").read_text())
SKY: dict[str, Any] = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
CLUSTER = RAY_JOB["spec"]["rayClusterSpec"]
WORKERS = CLUSTER["workerGroupSpecs"]
PODS = [group["template"]["spec"] for group in (CLUSTER["headGroupSpec"], *WORKERS)]


def options_of(command: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the runner's own parser makes of `python -m runner.tune ...`."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "runner.tune"]
    seen = []
    monkeypatch.setattr(runner.tune, "run_training", lambda arguments, single: seen.append(arguments) or Exit.FINISHED)
    assert runner.tune.main(words[3:]) == 0
    return seen[0]


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    for line in joined.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            yield name, " ".join(rest.split())


# Kubernetes.


def test_the_ray_job_has_the_ray_that_is_installed() -> None:
    assert CLUSTER["rayVersion"] == importlib.metadata.version("ray")
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob")


def test_the_ray_job_keeps_its_results_on_a_volume_that_every_pod_has(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = options_of(RAY_JOB["spec"]["entrypoint"], monkeypatch).storage
    for pod in PODS:
        (container,) = pod["containers"]
        (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == storage)
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
        assert volume["persistentVolumeClaim"] == {"claimName": "pix2pix-results"}


def test_the_experiment_of_the_ray_job_is_in_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = PurePosixPath(options_of(RAY_JOB["spec"]["entrypoint"], monkeypatch).experiment)
    (workdir,) = (rest for name, rest in instructions() if name == "WORKDIR")
    inside = experiment.relative_to(workdir)
    assert (ROOT / inside).is_file()
    assert ("COPY", f"{inside.parts[0]} {inside.parts[0]}") in instructions()


def test_the_ray_job_waits_for_workers_that_are_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CLUSTER["enableInTreeAutoscaling"]
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["minReplicas"] == 0 < group["maxReplicas"] for group in WORKERS)
    assert options_of(RAY_JOB["spec"]["entrypoint"], monkeypatch).wait == 30 * 60


def test_a_ray_job_that_was_stopped_early_is_tried_again_and_its_machines_go_in_the_end() -> None:
    assert RAY_JOB["spec"]["backoffLimit"] > 0
    assert RAY_JOB["spec"]["shutdownAfterJobFinishes"] is True


def test_the_ray_of_the_ray_job_asks_for_a_token() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token"}


def test_a_worker_has_told_ray_before_kubernetes_kills_it() -> None:
    for group in WORKERS:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        *_, script = container["lifecycle"]["preStop"]["exec"]["command"]
        deadline, sleep = (int(re.search(rf"{word}[ ](\d+)", script)[1]) for word in ("remaining-seconds", "sleep"))  # type: ignore[index]
        assert 30 <= deadline < sleep < pod["terminationGracePeriodSeconds"]


def test_no_pod_runs_as_root_and_all_may_write_what_the_image_s_user_wrote() -> None:
    (user,) = (int(rest) for name, rest in instructions() if name == "USER")
    assert user > 0
    for pod in PODS:
        assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user}


def test_all_pods_have_the_same_image_and_say_what_they_need() -> None:
    containers = [container for pod in PODS for container in pod["containers"]]
    assert {container["image"] for container in containers} == {re.search(r"--tag (\S+)", DOCKERFILE)[1]}  # type: ignore[index]
    for container in containers:
        assert container["resources"]["requests"] == container["resources"]["limits"]  # not the first to be evicted


# Docker.


def test_the_image_copies_what_is_there_and_what_docker_is_sent() -> None:
    sent = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    copied = [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_has_a_python_that_the_project_runs_on_and_pinned_packages() -> None:
    (base,) = (rest for name, rest in instructions() if name == "FROM")
    assert re.fullmatch(r"python:3\.1[1-9]-slim-\w+", base)
    installs = re.findall(r"pip install [^&]+", " ".join(rest for name, rest in instructions() if name == "RUN"))
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in install or "--no-deps" in install for install in installs)


def test_the_image_holds_no_secrets() -> None:
    assert not {name for name, _ in instructions()} & {"ENV", "ARG", "ADD"}
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert next(line for line in ignored if line and not line.startswith("#")) == "*"  # what is sent is listed


# SkyPilot.


def test_the_sky_task_keeps_its_results_on_a_volume_and_goes_on_after_75(monkeypatch: pytest.MonkeyPatch) -> None:
    command = SKY["run"].strip().splitlines()[-1].replace("$EXPERIMENT", SKY["envs"]["EXPERIMENT"])
    options = options_of(command, monkeypatch)
    assert options.storage in SKY["volumes"]
    assert (options.address, (ROOT / options.experiment).is_file()) == ("local", True)

    resources: Mapping[str, Any] = SKY["resources"]
    assert resources["use_spot"] is True
    assert resources["job_recovery"] == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [int(Exit.STOPPED)]}


# All.


def test_each_file_is_in_the_list_that_says_how_far_it_was_tried() -> None:
    table = (DEPLOY / "README.md").read_text()
    files = [path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*") if path.is_file()]
    assert [
        name for name in files if name != "README.md" and "__pycache__" not in name and f"`{name}`" not in table
    ] == []
