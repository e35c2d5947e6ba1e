"""The wandb library, kept at arm's length: loaded late, silent, bounded in all its waits, the process left as it was.

W&B is a copy and never the record: what it holds can always be written again from metrics.jsonl and
images/. So a server that fails is not waited for twice: what it was being told is kept in files instead,
which `wandb sync` uploads.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.processes import children
from runner.storage import Storage

if TYPE_CHECKING:
    import wandb

FOLDER = "wandb"
WEIGHTS_COPY = f"{FOLDER}/weights"
SERVICE = "wandb-core"
DEFAULT_PROJECT = "pix2pix"

# How long a server that does not answer is waited for, at a run's start and at its end.
NETWORK_WAIT_S = 20.0
# At the end of a run that uploads weights: a quarter of a gigabyte at a megabyte a second.
WEIGHTS_WAIT_S = 300.0

# wandb reads these as it starts: print nothing, and send reports about wandb's own errors to nobody.
QUIET_ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}

# What wandb's service writes into a run's own log where it gives up on a part of it, and `finish` does not tell.
UPLOAD_FAILURES = ("filestream: fatal error: ", "failed to log artifact: ")

# Runs of this process that are open. They share one service process, which the last one ends.
_open_ids: set[str] = set()


class TrackingError(RuntimeError):
    """W&B can't be used the way the experiment asks, or has not taken what it was given; the text says why."""


def resolve_mode(wanted: str) -> str:
    """online, offline or off for what an experiment asks: these three stay, `auto` is decided here.

    `auto` is online where W&B finds a key in any of its places (WANDB_API_KEY, netrc, a settings file),
    off where WANDB_MODE says disabled, else offline. The key is not kept, and no server is asked.
    """
    if wanted != "auto":
        return wanted
    if os.environ.get("WANDB_MODE") == "disabled":
        return "off"
    with contained():
        return "online" if _key_is_configured() else "offline"


def _key_is_configured() -> bool:
    # What fails here fails again, and is said, as the first run is opened.
    with contextlib.suppress(Exception):
        import wandb
        import wandb.errors

        try:
            return wandb.login(prompt=False, verify=False)
        except wandb.errors.AuthenticationError:
            return True  # there is one, malformed
        finally:
            _end_service_if_unused()
    return False


class Uplink:
    """Where this start of the command sends its runs. Belongs to one thread."""

    def __init__(self, wanted: str, say: Callable[[str], None]) -> None:
        """As an experiment's `tracking.wandb` wants it; `say` is told of each failure, in one line."""
        self._wanted, self._say = wanted, say
        self._mode = ""

    @property
    def mode(self) -> str:
        """online, offline or off; once a server has failed, offline to the end of this start."""
        self._mode = self._mode or resolve_mode(self._wanted)
        return self._mode

    def attempt(self, name: str, work: Callable[[], None]) -> bool:
        """The one place where W&B's failures end. (Its teardown may call sys.exit.)

        Args:
            name: what is tracked, for people.
            work: whatever is to be done; done again, offline, where it fails online.

        Returns:
            False where the tracking of it is over.
        """
        while self.mode != "off":
            try:
                with contained():
                    work()
                return True
            except (Exception, SystemExit) as error:
                if self.mode != "online":
                    self._say(
                        f"W&B tracking of {name} ends: {_first_line(error)} "
                        "(nothing else is affected: metrics.jsonl has every row, and the next start tries again)"
                    )
                    return False
                self._mode = "offline"
                self._say(
                    f"W&B fails ({_first_line(error)}): its runs are kept offline from here on, "
                    "and the next start tries again; the trials do not depend on it"
                )
                with contextlib.suppress(Exception, SystemExit), contained():
                    end_service()
        return False


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
        folder.remove(FOLDER)
        folder.make_folder(FOLDER)
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
        self._run.log(dict(values), step=step, commit=True)

    def log_weights(self, name: str, record: Mapping[str, Any]) -> None:
        """A file of its folder as an artifact that carries its record.

        What is uploaded is a copy: the trial may go on to other weights before an offline run is synced, and earlier
        versions of `wandb sync` delete what they have uploaded.
        """
        import wandb

        self._folder.copy(name, WEIGHTS_COPY)
        artifact = wandb.Artifact(f"generator-{self._identity.id}", type="model", metadata=dict(record))
        copied = str(self._folder.local_path / WEIGHTS_COPY)
        artifact.add_file(copied, name.rpartition("/")[2], skip_cache=True, policy="immutable")
        self._run.log_artifact(artifact)

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
            self._folder.remove(WEIGHTS_COPY)
        # wandb's own logs hold a link to a file in the home folder, which breaks copies of the results.
        for name in self._folder.names(FOLDER):
            self._folder.remove(f"{FOLDER}/{name}/logs")

    def abandon(self) -> None:
        """Closes it as failed, whatever becomes of it."""
        with contextlib.suppress(Exception, SystemExit), contained():
            self._run.finish(exit_code=1)
        with contextlib.suppress(Exception, SystemExit), contained():
            _release(self._identity.id)

    def _check_uploaded(self) -> None:
        """A server that takes a run may still refuse what belongs to it, as when a quota is used up."""
        for log in (self._folder.local_path / FOLDER).glob("run-*/logs/debug-internal.log"):
            for line in log.read_text(errors="replace").splitlines():
                for failure in UPLOAD_FAILURES:
                    if failure in line:
                        raise TrackingError(line.partition(failure)[2].partition('"')[0][:200])


def end_service() -> None:
    """Closes all runs at once, waiting for none longer than at its end; they can't be used any more."""
    _open_ids.clear()
    _end_service_if_unused()


def kill_service() -> None:
    """Ends wandb's process, which nothing may wait for any longer."""
    for pid in children(SERVICE):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _release(run_id: str) -> None:
    _open_ids.discard(run_id)
    _end_service_if_unused()


def _end_service_if_unused() -> None:
    import wandb

    if not _open_ids:
        wandb.teardown()


def _settings(online: bool, uploads_weights: bool) -> "wandb.Settings":
    """No output, no hold on the terminal, nothing collected about the machine, the program or its git."""
    import wandb

    return wandb.Settings(
        mode="online" if online else "offline",
        silent=True,
        console="off",
        symlink=False,
        use_dot_wandb=False,
        init_timeout=NETWORK_WAIT_S,
        finish_timeout=WEIGHTS_WAIT_S if uploads_weights else NETWORK_WAIT_S,
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
