"""All use of the wandb library: loaded late, silent, with limited waits, and without side effects on the process.

W&B holds copies only: everything can be written again from metrics.jsonl and images/. So a server that has failed is
not waited for a second time: the runs are kept in files instead, which `wandb sync` uploads.
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
from runner.storage.folder import Folder
from runner.storage.run_folder import WANDB_FOLDER
from runner.storage.storage import Storage

if TYPE_CHECKING:
    import wandb

_STAGED = f"{WANDB_FOLDER}/artifacts"
_SERVICE = "wandb-core"
_DATA_DIR = "WANDB_DATA_DIR"
_DEFAULT_PROJECT = "pix2pix"

# The wait for a server that does not answer, at the start of a run and at its end.
NETWORK_WAIT_S = 20.0
# The wait for wandb's own process where a run is kept offline: the machine may be busy, or the disk slow.
_LOCAL_WAIT_S = 120.0
# The wait at the end of a run that uploads weights: a quarter of a gigabyte at a megabyte a second.
_WEIGHTS_WAIT_S = 300.0

# wandb reads these when it starts: it prints nothing, and sends no reports about its own errors.
_QUIET_ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}

# The variables of the person's environment that have an effect: who and where, what to note, and how the network is.
# Every other setting of wandb can be given by a variable, too, and would be meant for a run of another program: an
# agent's sweep, the id of one run, a folder, a service to connect to. Each of our runs would be mistaken for that one.
KEPT_VARIABLES = frozenset(
    f"WANDB_{name}"
    for name in (
        *("API_KEY", "IDENTITY_TOKEN_FILE", "CREDENTIALS_FILE", "BASE_URL", "APP_URL", "ENTITY", "PROJECT"),
        *("TAGS", "NOTES"),
        *("HTTP_PROXY", "HTTPS_PROXY", "HTTP_TIMEOUT", "FILE_PUSHER_TIMEOUT", "INSECURE_DISABLE_SSL"),
        *("_PROXIES", "_EXTRA_HTTP_HEADERS", "X_EXTRA_HTTP_HEADERS"),
        *("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"),
    )
)

# Lines in the log of wandb's service where it has given up a part of a run. `finish` does not report them.
_UPLOAD_FAILURES = (
    "filestream: fatal error: ",
    "failed to log artifact: ",
    "file transfer: upload: failed to upload: ",
    "runfiles: CreateRunFiles returned error: ",
)

# The open runs of this process. They share one service process, which ends with the last of them.
_open_ids: set[str] = set()


class TrackingError(RuntimeError):
    """W&B can't be used as the experiment asks, or has not taken everything; the text says why."""


@dataclass(frozen=True)
class Identity:
    """How W&B shows a run. `config` is uploaded as it is and must hold no secret."""

    id: str
    name: str
    group: str
    job_type: str
    config: Mapping[str, Any]


class WandbSession:
    """A W&B run from its opening to its closing: in a folder's `wandb/` and, online, on the server.

    Attributes:
        mode: online or offline.
        first_step: the first step that the run does not have yet.
    """

    def __init__(self, folder: Storage, identity: Identity, mode: str, *, uploads_weights: bool = False) -> None:
        """Opens the run of this id, a new one or that of an earlier session. Other content of `wandb/` is removed.

        Raises:
            TrackingError: there is no key to be online with.
            Exception: whatever wandb raises.
        """
        self.mode, self._trial_folder, self._identity = mode, folder, identity
        # wandb writes into a folder of this machine: see `close`.
        self._folder = Folder.at_path(folder.scratch(""))
        # Runs of one id replace each other when they are synced: an older one must not stay, nor its state.json.
        folder.remove(WANDB_FOLDER)
        self._folder.remove(WANDB_FOLDER)
        self._folder.make_folder(WANDB_FOLDER)
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
        # Without a key, wandb.init would ask for one on the terminal, and wait.
        if online and not wandb.login(prompt=False, verify=False):
            raise TrackingError("no W&B key is configured: run `wandb login`, or set tracking.wandb: offline")

        return wandb.init(
            id=identity.id,
            name=identity.name,
            group=identity.group,
            project=os.environ.get("WANDB_PROJECT") or _DEFAULT_PROJECT,
            job_type=identity.job_type,
            config=dict(identity.config),
            dir=self._folder.scratch(""),
            reinit="create_new",
            resume="allow" if online else None,
            settings=settings,
        )

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Logs a row, at the next step where none is given."""
        with self._staging():
            self._run.log(dict(values), step=step, commit=True)

    def log_weights(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds a file of the folder as an artifact.

        wandb gets a copy, because the trial may have other weights by the time that an offline run is synced.

        Args:
            name: of the file, in the folder.
            record: the metadata of the artifact.
        """
        import wandb

        artifact = wandb.Artifact(f"generator-{self._identity.id}", type="model", metadata=dict(record))
        with self._staging():
            artifact.add_file(str(self._trial_folder.local_copy(name)), name.rpartition("/")[2], skip_cache=True)
            self._run.log_artifact(artifact)

    @contextlib.contextmanager
    def _staging(self) -> Iterator[None]:
        """Makes wandb keep its copies of an artifact's files in the run's folder instead of the home folder.

        An offline run names them by absolute path: if it is moved, it is synced without them.
        """
        before = os.environ.get(_DATA_DIR)
        os.environ[_DATA_DIR] = str(self._folder.scratch(WANDB_FOLDER))
        try:
            yield
        finally:
            del os.environ[_DATA_DIR]
            if before is not None:
                os.environ[_DATA_DIR] = before

    def close(self, summary: Mapping[str, Any], *, failed: bool) -> None:
        """Updates the run's summary and closes it. Returns once everything is in the file or on the server.

        Raises:
            TrackingError: the server has not taken everything.
            TimeoutError: the server did not answer.
        """
        self._run.summary.update(dict(summary))
        try:
            self._run.finish(exit_code=int(failed))
        finally:
            _release(self._identity.id)

        if self.mode == "online":
            self._check_uploaded()
            self._folder.remove(_STAGED)
        # wandb's own logs hold a link to a file in the home folder, which is broken in a copy of the results.
        for name in self._folder.names(WANDB_FOLDER):
            self._folder.remove(f"{WANDB_FOLDER}/{name}/logs")
        self._trial_folder.keep_scratch(WANDB_FOLDER)

    def abandon(self) -> None:
        """Closes the run as failed, and ignores all errors."""
        with contextlib.suppress(Exception, SystemExit), without_side_effects():
            self._run.finish(exit_code=1)
        with contextlib.suppress(Exception, SystemExit), without_side_effects():
            _release(self._identity.id)

    def _check_uploaded(self) -> None:
        """Raises TrackingError where the server took the run but not all of its content, as when a quota is used up."""
        for log in self._folder.scratch(WANDB_FOLDER).glob("run-*/logs/debug-internal.log"):
            for line in log.read_text(errors="replace").splitlines():
                if reason := upload_failure(line):
                    raise TrackingError(reason)


def upload_failure(line: str) -> str:
    """What a line of the service's log reports as given up, without the signatures of URLs; "" for other lines."""
    for failure in _UPLOAD_FAILURES:
        if failure in line:
            try:
                text = str(json.loads(line)["msg"])
            except (ValueError, KeyError, TypeError):
                text = line
            return re.sub(r"\?[^\s\"]*", "", text.partition(failure)[2])[:200]
    return ""


def end_service() -> None:
    """Closes all runs. Each waits no longer than at its normal end, and can't be used afterwards."""
    _open_ids.clear()
    end_service_if_unused()


def kill_service() -> None:
    """Kills wandb's service process, for when its end can't be waited for."""
    for pid in children(_SERVICE):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _release(run_id: str) -> None:
    _open_ids.discard(run_id)
    end_service_if_unused()


def end_service_if_unused() -> None:
    """Ends wandb's service process, unless it has open runs: ours, or those of a program that uses this library."""
    import wandb

    if not _open_ids and wandb.run is None:
        wandb.teardown()


def _settings(online: bool, uploads_weights: bool) -> "wandb.Settings":
    """Settings without output, and without data about the machine, the program or its git repository."""
    import wandb

    start_wait_s = NETWORK_WAIT_S if online else _LOCAL_WAIT_S
    return wandb.Settings(
        mode="online" if online else "offline",
        silent=True,
        console="off",
        symlink=False,
        use_dot_wandb=False,
        init_timeout=start_wait_s,
        finish_timeout=max(start_wait_s, _WEIGHTS_WAIT_S) if uploads_weights else start_wait_s,
        finish_timeout_raises=True,
        # Otherwise the stop button of the web page interrupts the main process, and with it every other trial.
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
def without_side_effects() -> Iterator[None]:
    """Keeps wandb and the process apart inside the block.

    Each start of wandb's service replaces sys.exit and sys.excepthook once more, so that an error would be printed many
    times. wandb sees those of its environment variables only that have an effect here, and those that silence it; an
    empty one counts as not set. Nobody else gets to see a difference.
    """
    hooks = sys.exit, sys.excepthook
    before = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    for name, value in before.items():
        if name not in KEPT_VARIABLES or not value:
            del os.environ[name]
    os.environ.update(_QUIET_ENVIRONMENT)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(before)
        sys.exit, sys.excepthook = hooks
