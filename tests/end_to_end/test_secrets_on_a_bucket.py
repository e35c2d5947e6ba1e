"""What a process is given to reach its bucket stays with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bucket_files import list_objects, read_object
from tests.support.bucket_runs import BucketRuns
from tests.support.commands import TINY, finish, start, write_experiment
from tests.support.object_proxy import FaultProxy, on

pytestmark = pytest.mark.slow

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEYNAME00",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+key/of/forty/characters01",
    "AWS_SESSION_TOKEN": "planted-session-token-with-many-characters",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdefplanted0",
}


def contents(runs: BucketRuns) -> Iterator[tuple[str, bytes]]:
    """All that a run has left, with its name: in the bucket, in the cache folder and in its working folder."""
    for key in list_objects(runs.server, runs.bucket):
        yield key, read_object(runs.server, runs.bucket, key)
    for path in runs.folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


@pytest.mark.parametrize("how", ["finished", "stopped by the store"])
def test_no_credential_is_in_what_a_run_leaves_or_prints(
    bucket_runs: BucketRuns, fault_proxy: FaultProxy, tmp_path: Path, how: str
) -> None:
    runs = bucket_runs.through(fault_proxy.endpoint)
    (tmp_path / "home").mkdir()
    experiment = write_experiment(tmp_path, **{**TINY, "tracking": {"wandb": "offline", "tensorboard": True}})
    if how != "finished":
        fault_proxy.status("InvalidAccessKeyId", on("put", "*/step_00000009/*"))
    process = start(
        "runner.train", experiment, "--in-process", "--storage", runs.storage, "--traceback",
        env={**runs.environment, **SECRETS, "HOME": str(tmp_path / "home"), "PIX2PIX_STORE_RETRY_S": "0.5"},
        cwd=tmp_path,
    )  # fmt: skip
    printed = finish(process)
    assert process.returncode == (0 if how == "finished" else 75), printed

    left = {"what was printed": printed.encode(), **dict(contents(runs))}
    kinds = (
        ["/wandb/", "/events.out.tfevents", "/report.html", "/log.txt", "/cache/"]
        if how == "finished"
        else ["/log.txt"]
    )
    for kind in kinds:
        assert any(kind in name for name in left), (kind, sorted(left))
    for name, content in left.items():
        for variable, secret in SECRETS.items():
            assert secret.encode() not in content, f"{variable} in {name}"
