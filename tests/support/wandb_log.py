"""What W&B was told: a reader of its offline log, and a server that plays its part on this machine."""

import json
import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # wandb takes a second to load
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

FILE_HEADER_SIZE = 7
BLOCK_SIZE = 32 * 1024
CHUNK_HEADER = struct.Struct("<IHB")  # CRC-32C, length, type
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_records(path: Path) -> Iterator["Record"]:
    """Every record of a `run-ID.wandb` file, which is framed as LevelDB's log is."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data = path.read_bytes()
    assert data[:4] == b":W&B", data[:FILE_HEADER_SIZE]
    position, record = FILE_HEADER_SIZE, b""
    while position < len(data):
        left_in_block = BLOCK_SIZE - position % BLOCK_SIZE
        if left_in_block < CHUNK_HEADER.size:
            position += left_in_block
            continue
        _, length, kind = CHUNK_HEADER.unpack_from(data, position)
        assert kind in (WHOLE, FIRST, MIDDLE, LAST), f"type {kind} at {position}"
        position += CHUNK_HEADER.size
        record = data[position : position + length] if kind in (WHOLE, FIRST) else record + data[position:][:length]
        position += length
        if kind in (WHOLE, LAST):
            yield Record.FromString(record)


@dataclass
class RecordedRun:
    """One run as W&B has it.

    Attributes:
        history: its rows, with their `_step`.
        artifacts: of an offline run as recorded, with the places of their files; of a server's run those
            that have been uploaded whole, with their files' bytes.
    """

    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    job_type: str = ""
    host: str = ""
    program: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    artifacts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for row in self.history]


def read_run(path: Path) -> RecordedRun:
    """The run that a `run-ID.wandb` file holds."""
    run = RecordedRun()
    for record in read_records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name, run.group = record.run.run_id, record.run.display_name, record.run.run_group
            run.project, run.job_type, run.host = record.run.project, record.run.job_type, record.run.host
            run.config = _items(record.run.config.update)
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "summary":
            run.summary.update(_items(record.summary.update))
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
        elif kind == "artifact":
            run.artifacts.append(_artifact(record.artifact))
        elif kind == "request" and record.request.HasField("log_artifact"):
            run.artifacts.append(_artifact(record.request.log_artifact.artifact))
    return run


def _artifact(record: Any) -> dict[str, Any]:
    return {
        "name": record.name,
        "type": record.type,
        "metadata": json.loads(record.metadata or "{}"),
        "files": {entry.path: entry.local_path for entry in record.manifest.contents},
    }


def _items(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *parents, name = item.nested_key or [item.key]
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = json.loads(item.value_json)
    return values


class LocalServer:
    """As much of a W&B server as online runs need: `with LocalServer() as server`, then `server.url`.

    Attributes:
        answers: while it is cleared, requests are taken and not answered.
        faults: parts of addresses, with the status that all requests there get.
    """

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.faults: dict[str, int] = {}
        self.runs: dict[str, RecordedRun] = {}
        self.received: list[tuple[str, bytes]] = []
        self._artifacts: list[dict[str, Any]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.block_on_close = False
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def uploads(self) -> list[str]:
        """Names of the files that were uploaded, in order."""
        return [path.removeprefix("/upload/") for path, _ in self.received if path.startswith("/upload/")]

    def __enter__(self) -> "LocalServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answers.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answer(self, operation: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data that a GraphQL operation returns."""
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "me"}}
        if operation == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            return {"model": {**project, "bucket": run and _resume_status(run)}}
        if operation == "UpsertBucket":
            return {"upsertBucket": {"bucket": self._upsert(variables) | {"project": project}, "inserted": True}}
        if operation == "Viewer":
            return {
                "viewer": {
                    "id": "v",
                    "entity": "me",
                    "username": "me",
                    "email": "",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            }
        if operation == "ArtifactType":
            return {"project": None}
        if operation == "CreateArtifact":
            self._artifacts.append(variables["input"])
            artifact = {"id": str(len(self._artifacts) - 1), "state": "PENDING", "artifactSequence": {}}
            return {"createArtifact": {"artifact": artifact}}
        if operation == "CreateArtifactFiles":
            places = [
                f"{self._artifact_url(file['artifactID'])}{file['name']}"
                for file in variables["input"]["artifactFiles"]
            ]
            nodes = [{"uploadUrl": place, "uploadHeaders": [], "artifact": {"id": "a"}} for place in places]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if operation == "CreateArtifactManifest":
            file = {"id": "f", "uploadUrl": f"{self.url}/upload/{variables['name']}", "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": self._commit(variables["artifactID"])}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def _artifact_url(self, artifact_id: str) -> str:
        return f"{self.url}/upload/artifacts/{artifact_id}/"

    def _commit(self, artifact_id: str) -> dict[str, Any]:
        artifact, place = self._artifacts[int(artifact_id)], self._artifact_url(artifact_id).removeprefix(self.url)
        files = {path.removeprefix(place): body for path, body in self.received if path.startswith(place)}
        self.runs[artifact["runName"]].artifacts.append(artifact | {"files": files})
        return {"id": artifact_id, "digest": artifact["digest"]}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(variables["name"], RecordedRun(id=variables["name"]))
        run.name, run.group = (
            variables.get("displayName") or run.name,
            variables.get("groupName") or run.group,
        )
        run.program = variables.get("program") or run.program
        if variables.get("config"):
            run.config = {key: entry["value"] for key, entry in json.loads(variables["config"]).items()}
        return {"id": "b", "name": run.id, "displayName": run.name, "config": "{}"}

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        """Takes a piece of a run's history and summary, and its end."""
        run, files = self.runs[run_id], body.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            run.history[history["offset"] :] = map(json.loads, history["content"])
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        if body.get("complete"):
            run.exit_code = body["exitcode"]


def _resume_status(run: RecordedRun) -> dict[str, Any]:
    return {
        "name": run.id,
        "displayName": run.name,
        "summaryMetrics": json.dumps(run.summary),
        "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
        "historyLineCount": len(run.history),
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
        "eventsLineCount": 0,
        "eventsTail": "[]",
        "logLineCount": 0,
        "tags": [],
        "wandbConfig": json.dumps({"t": 1}),
    }


def _handler(server: LocalServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_PUT(self) -> None:
            self._body()
            if not self._fails():
                self._reply({})

        def do_POST(self) -> None:
            body = self._body()
            if self._fails():
                return
            if self.path == "/graphql":
                request = json.loads(body)
                match = re.match(r"\s*\w+ (\w+)", request["query"])
                operation = match.group(1) if match else ""
                self._reply({"data": server.answer(operation, request["query"], request.get("variables") or {})})
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
                self._reply({})
            else:
                self._reply({})

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.received.append((self.path, body))
            return body

        def _fails(self) -> bool:
            server.answers.wait()
            status = next((status for part, status in server.faults.items() if part in self.path), 0)
            if status:
                self._reply({"error": "no more of this"}, status)
            return bool(status)

        def _reply(self, answer: Any, status: int = 200) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    return Handler
