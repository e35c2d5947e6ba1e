"""The object store that tests use: what it promises as S3 does, and what it leaves alone."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, PreconditionError
from packaging.requirements import Requirement

from tests.support.commands import ROOT
from tests.support.object_server import (
    ObjectServer,
    WholeRequests,
    client_environment,
    make_bucket,
    object_server,
    open_bucket,
)


def test_an_object_is_created_once(s3_server: ObjectServer, bucket: str) -> None:
    store = open_bucket(s3_server.endpoint, bucket)
    obstore.put(store, "lock", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "lock", b"second", mode="create")
    assert obstore.get(store, "lock").bytes() == b"first"


def test_an_object_is_replaced_only_by_who_knows_its_tag(s3_server: ObjectServer, bucket: str) -> None:
    store = open_bucket(s3_server.endpoint, bucket)
    first = obstore.put(store, "lock", b"first")
    second = obstore.put(store, "lock", b"second", mode={"e_tag": first["e_tag"]})
    assert second["e_tag"] != first["e_tag"]
    with pytest.raises(PreconditionError):
        obstore.put(store, "lock", b"third", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.put(store, "missing", b"third", mode={"e_tag": first["e_tag"]})
    assert obstore.get(store, "lock").bytes() == b"second"


def test_of_clients_that_create_an_object_at_once_one_does(s3_server: ObjectServer, bucket: str) -> None:
    num_clients = 8
    store = open_bucket(s3_server.endpoint, bucket)
    together = threading.Barrier(num_clients)
    created: list[tuple[str, int]] = []

    def create(client: int) -> None:
        for key in keys:
            together.wait()
            try:
                obstore.put(store, key, b"%d" % client, mode="create")
            except AlreadyExistsError:
                continue
            created.append((key, client))

    keys = [f"lock-{number}" for number in range(25)]
    clients = [threading.Thread(target=create, args=(client,)) for client in range(num_clients)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert sorted(key for key, _ in created) == sorted(keys)
    assert {(key, int(bytes(obstore.get(store, key).bytes()))) for key in keys} == set(created)


@pytest.mark.parametrize(("method", "meets"), [("PUT", False), ("POST", False), ("DELETE", False), ("GET", True)])
def test_writes_come_one_by_one_and_reads_do_not_wait(method: str, meets: bool) -> None:
    meeting = threading.Barrier(2)
    have_met: list[bool] = []

    def application(environ: dict[str, Any], start_response: object) -> list[bytes]:
        try:
            meeting.wait(timeout=60 if meets else 0.1)
        except threading.BrokenBarrierError:
            meeting.reset()
        else:
            have_met.append(True)
        return [environ["wsgi.input"].read()]

    def ask() -> None:
        environ = {"REQUEST_METHOD": method, "CONTENT_LENGTH": "4", "wsgi.input": io.BytesIO(b"body, and more")}
        answers.append(list(server(environ, lambda *_: None)))

    server, answers = WholeRequests(application), []
    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert bool(have_met) == meets
    assert meets or answers == [[b"body"]] * 2


def test_a_request_whose_client_stops_in_the_middle_changes_nothing(s3_server: ObjectServer, bucket: str) -> None:
    host, _, port = s3_server.endpoint.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"PUT /{bucket}/half HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\n01234".encode())
        connection.shutdown(socket.SHUT_WR)
        assert b" 400 " in connection.recv(100)
    with pytest.raises(FileNotFoundError):
        obstore.head(open_bucket(s3_server.endpoint, bucket), "half")


def test_each_test_has_a_bucket_of_its_own(s3_server: ObjectServer, bucket: str) -> None:
    obstore.put(open_bucket(s3_server.endpoint, bucket), "key", b"value")
    other = open_bucket(s3_server.endpoint, make_bucket(s3_server.endpoint))
    assert obstore.list(other).collect() == []


def test_a_process_finds_the_server_by_its_environment(s3_server: ObjectServer, bucket: str) -> None:
    code = f"import obstore, obstore.store; obstore.put(obstore.store.S3Store({bucket!r}), 'key', b'value')"
    others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    subprocess.run([sys.executable, "-c", code], env=others | client_environment(s3_server.endpoint), check=True)
    assert obstore.get(open_bucket(s3_server.endpoint, bucket), "key").bytes() == b"value"


def normalized(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


def installed_with(names: Iterable[str]) -> set[str]:
    """Distributions that come with these, which may have extras."""
    found: set[tuple[str, str]] = set()
    wanted = [Requirement(name) for name in names]
    while wanted:
        requirement = wanted.pop()
        name = normalized(requirement.name)
        for extra in requirement.extras or {""}:
            if (name, extra) in found:
                continue
            found.add((name, extra))
            for line in metadata.requires(name) or []:
                needed = Requirement(line)
                if not needed.marker or any(needed.marker.evaluate({"extra": one}) for one in {extra, ""}):
                    wanted.append(needed)
    return {name for name, _ in found}


def test_the_server_needs_few_packages_and_prints_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = installed_with(["moto[s3]", "flask", "flask-cors", "boto3"])
    absent = [
        module
        for module, owners in metadata.packages_distributions().items()
        if module != "tests" and not {normalized(owner) for owner in owners} & there
    ]
    assert {"numpy", "pytest", "obstore"} < set(absent)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({absent}))")  # no import
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with object_server() as server:
        store = open_bucket(server.endpoint, make_bucket(server.endpoint))
        tag = obstore.put(store, "folder/key", b"value", attributes={"generation": "7"})["e_tag"]
        obstore.put(store, "folder/key", b"other", mode={"e_tag": tag})
        obstore.put(store, "large", bytes(12 << 20), chunk_size=6 << 20)
        obstore.copy(store, "large", "copied")
        assert obstore.head(store, "copied")["size"] == 12 << 20
        assert [found["path"] for found in obstore.list_with_delimiter(store, "folder")["objects"]] == ["folder/key"]
        obstore.delete(store, ["large", "copied"])
        with pytest.raises(FileNotFoundError):
            obstore.get(store, "large")
        assert server.errors == ""


def test_the_server_ends_with_whoever_started_it(tmp_path: Path) -> None:
    code = (
        "import time\nfrom tests.support.object_server import object_server\n"
        "with object_server() as server: print(server.process.pid, flush=True); time.sleep(3600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)  # a poll


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
