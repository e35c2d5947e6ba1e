"""The wandb library, kept at arm's length: loaded late, silent, bounded in all its waits, the process left as it was.

W&B is a copy and never the record: what it holds can always be written again from metrics.jsonl and
images/. So a server that fails is not waited for twice: what it was being told is kept in files instead,
which `wandb sync` uploads.
"""

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.process.processes import children
from runner.storage.folder import Storage
from runner.storage.run_folder import WANDB_FOLDER

if TYPE_CHECKING:
    import wandb

STAGED = f"{WANDB_FOLDER}/artifacts"
SERVICE = "wandb-core"
DATA_DIR = "WANDB_DATA_DIR"
DEFAULT_PROJECT = "pix2pix"

# How long a server that does not answer is waited for, at a run's start and at its end.
NETWORK_WAIT_S = 20.0
# How long wandb's own process may take for a run that is kept offline: on a busy machine, or a slow disk.
LOCAL_WAIT_S = 120.0
# At the end of a run that uploads weights: a quarter of a gigabyte at a megabyte a second.
WEIGHTS_WAIT_S = 300.0

# wandb reads these as it starts: print nothing, and send reports about wandb's own errors to nobody.
QUIET_ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}

# What wandb's service writes into a run's own log where it gives up on a part of it, and `finish` does not tell.
UPLOAD_FAILURES = (
    "filestream: fatal error: ",
    "failed to log artifact: ",
    "file transfer: upload: failed to upload: ",
    "runfiles: CreateRunFiles returned error: ",
)

# Runs of this process that are open. They share one service process, which the last one ends.
_open_ids: set[str] = set()


class TrackingError(RuntimeError):
    """W&B can't be used the way the experiment asks, or has not taken what it was given; the text says why."""


@dataclass(frozen=True)
class Identity:
    """Whose run it is; `config` is recorded as it is and must hold no secret."""

    id: str
    name: str
    group: str
    job_type: str
    config: Mapping[str, Any]


class OpenRun:
    """A run that is open: in a folder's `wandb/` and, online, on the server.

    Attributes:
        mode: online or offline, for its whole life.
        first_step: the first that it lacks.
    """

    def __init__(self, folder: Storage, identity: Identity, mode: str, *, uploads_weights: bool = False) -> None:
        """Opens the run of this id again or anew; whatever else is in the folder's `wandb/` is removed.

        Raises:
            TrackingError: there is no key to be online with.
            Exception: whatever wandb raises.
        """
        self.mode, self._folder, self._identity = mode, folder, identity
        # Runs of one id replace each other when synced, so an older one must not stay beside the new one;
        # and its state.json must not outlive it.
        folder.remove(WANDB_FOLDER)
        folder.make_folder(WANDB_FOLDER)
        _open_ids.add(identity.id)
        try:
            self._run = self._init(uploads_weights)
        except BaseException:
            with contextlib.suppress(Exception, SystemExit):
                _release(identity.id)
            raise
        self.first_step = self._run.starting_step

    def _init(self, uploads_weights: bool) -> "wandb.Run":
        import wandb

        online, identity = self.mode == "online", self._identity
        settings = _settings(online, uploads_weights)
        wandb.setup(settings)
        # Asked here because wandb.init would ask the person at the terminal.
        if online and not wandb.login(prompt=False, verify=False):
            raise TrackingError("no W&B key is configured: run `wandb login`, or set tracking.wandb: offline")
        return wandb.init(
            id=identity.id,
            name=identity.name,
            group=identity.group,
            project=os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            job_type=identity.job_type,
            config=dict(identity.config),
            dir=self._folder.local_path,
            reinit="create_new",
            resume="allow" if online else None,
            settings=settings,
        )

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """One row of its history, at the next step where none is given."""
        with self._staging():
            self._run.log(dict(values), step=step, commit=True)

    def log_weights(self, name: str, record: Mapping[str, Any]) -> None:
        """A file of its folder as an artifact that carries its record.

        What is uploaded is a copy, for the trial may go on to other weights before an offline run is synced.
        """
        import wandb

        artifact = wandb.Artifact(f"generator-{self._identity.id}", type="model", metadata=dict(record))
        with self._staging():
            artifact.add_file(str(self._folder.local_path / name), name.rpartition("/")[2], skip_cache=True)
            self._run.log_artifact(artifact)

    @contextlib.contextmanager
    def _staging(self) -> Iterator[None]:
        """Has wandb keep its copies of an artifact's files in the folder, not in the home folder.

        An offline run names them by absolute path: moved elsewhere, it is synced without them.
        """
        before = os.environ.get(DATA_DIR)
        os.environ[DATA_DIR] = str(self._folder.local_path / WANDB_FOLDER)
        try:
            yield
        finally:
            del os.environ[DATA_DIR]
            if before is not None:
                os.environ[DATA_DIR] = before

    def close(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Adds to its summary and closes it; returns once all is in the file or on the server.

        Raises:
            TrackingError: the server has not taken all.
            TimeoutError: it did not answer.
        """
        self._run.summary.update(dict(summary))
        try:
            self._run.finish(exit_code=int(failed))
        finally:
            _release(self._identity.id)
        if self.mode == "online":
            self._check_uploaded()
            self._folder.remove(STAGED)
        # wandb's own logs hold a link to a file in the home folder, which breaks copies of the results.
        for name in self._folder.names(WANDB_FOLDER):
            self._folder.remove(f"{WANDB_FOLDER}/{name}/logs")

    def abandon(self) -> None:
        """Closes it as failed, whatever becomes of it."""
        with contextlib.suppress(Exception, SystemExit), contained():
            self._run.finish(exit_code=1)
        with contextlib.suppress(Exception, SystemExit), contained():
            _release(self._identity.id)

    def _check_uploaded(self) -> None:
        """A server that takes a run may still refuse what belongs to it, as when a quota is used up."""
        for log in (self._folder.local_path / WANDB_FOLDER).glob("run-*/logs/debug-internal.log"):
            for line in log.read_text(errors="replace").splitlines():
                if reason := upload_failure(line):
                    raise TrackingError(reason)


def upload_failure(line: str) -> str:
    """What a line of the service's log says that it has given up, without the signatures of addresses; else ""."""
    for failure in UPLOAD_FAILURES:
        if failure in line:
            try:
                text = str(json.loads(line)["msg"])
            except (ValueError, KeyError, TypeError):
                text = line
            return re.sub(r"\?[^\s\"]*", "", text.partition(failure)[2])[:200]
    return ""


def end_service() -> None:
    """Closes all runs at once, waiting for none longer than at its end; they can't be used any more."""
    _open_ids.clear()
    end_service_if_unused()


def kill_service() -> None:
    """Ends wandb's process, which nothing may wait for any longer."""
    for pid in children(SERVICE):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _release(run_id: str) -> None:
    _open_ids.discard(run_id)
    end_service_if_unused()


def end_service_if_unused() -> None:
    """Ends wandb's process, unless runs are open: of ours, or of the program that calls us."""
    import wandb

    if not _open_ids and wandb.run is None:
        wandb.teardown()


def _settings(online: bool, uploads_weights: bool) -> "wandb.Settings":
    """No output, no hold on the terminal, nothing collected about the machine, the program or its git."""
    import wandb

    start_wait_s = NETWORK_WAIT_S if online else LOCAL_WAIT_S
    return wandb.Settings(
        mode="online" if online else "offline",
        silent=True,
        console="off",
        symlink=False,
        use_dot_wandb=False,
        init_timeout=start_wait_s,
        finish_timeout=max(start_wait_s, WEIGHTS_WAIT_S) if uploads_weights else start_wait_s,
        finish_timeout_raises=True,
        # The web page's stop button would interrupt the main process, and with it every other trial.
        stop_fn=lambda: None,
        host="",
        program="",
        save_code=False,
        disable_code=True,
        disable_git=True,
        label_disable=True,
        sagemaker_disable=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Takes back what wandb does to the process: it replaces sys.exit and sys.excepthook as its service
    starts, once more each time, and an uncaught error would be printed as many times."""
    hooks = sys.exit, sys.excepthook
    added = {name: value for name, value in QUIET_ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        sys.exit, sys.excepthook = hooks
