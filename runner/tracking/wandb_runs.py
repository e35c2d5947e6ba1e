"""W&B runs that survive a server that fails: they are then kept offline."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from runner.storage.run_folder import WANDB_FOLDER
from runner.storage.storage import Storage
from runner.tracking.wandb_session import (
    Identity,
    WandbSession,
    end_service,
    end_service_if_unused,
    without_side_effects,
)

STATE = f"{WANDB_FOLDER}/state.json"
# The environment variables that decide where on W&B a run is.
_DESTINATION = ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT")


def resolve_mode(wanted: str) -> str:
    """online, offline or off, for the mode that an experiment asks for.

    `auto` is off where WANDB_MODE is disabled or WANDB_DISABLED is set, offline where WANDB_MODE is that, online where
    wandb finds a key (in WANDB_API_KEY, netrc or a settings file), else offline. The key is not kept, and no server is
    contacted.
    """
    if wanted != "auto":
        return wanted
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    if mode == "disabled" or os.environ.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes", "on"):
        return "off"
    if mode in ("offline", "dryrun"):  # the second is what W&B called it
        return "offline"
    with without_side_effects():
        return "online" if _key_is_configured() else "offline"


def _key_is_configured() -> bool:
    # An error here comes again, and is reported, when the first run is opened.
    with contextlib.suppress(Exception, SystemExit):
        import wandb
        import wandb.errors

        try:
            return wandb.login(prompt=False, verify=False)
        except wandb.errors.AuthenticationError:
            return True  # there is a key, a malformed one
        finally:
            end_service_if_unused()
    return False


class WandbDestination:
    """The server, or the files, that the runs of this start of the command go to. For use by one thread."""

    def __init__(self, wanted: str, notify: Callable[[str], None]) -> None:
        """Takes an experiment's `tracking.wandb`; `notify` is called with a line for each failure."""
        self._wanted, self._notify = wanted, notify
        self._mode = ""

    @property
    def mode(self) -> str:
        """online, offline or off. Once a server has failed, it is offline until the command ends."""
        self._mode = self._mode or resolve_mode(self._wanted)
        return self._mode

    def run_safely(self, name: str, work: Callable[[], None]) -> bool:
        """Does some work with wandb and catches whatever it raises; its teardown may even call sys.exit.

        Args:
            name: what is tracked, for messages.
            work: it is repeated offline where it fails online.

        Returns:
            False where it has failed offline, too, or tracking is off.
        """
        while self.mode != "off":
            try:
                with without_side_effects():
                    work()
                return True
            except (Exception, SystemExit) as error:
                if self.mode != "online":
                    self._report(
                        f"W&B tracking of {name} ends: {_first_line(error)} "
                        "(nothing else is affected: metrics.jsonl has every row, and the next start tries again)"
                    )
                    return False

                # From here on all runs are offline: a server that has failed once is not waited for again.
                self._mode = "offline"
                self._report(
                    f"W&B fails ({_first_line(error)}): its runs are kept offline from here on, "
                    "and the next start tries again; the trials do not depend on it"
                )
                with contextlib.suppress(Exception, SystemExit), without_side_effects():
                    end_service()
        return False

    def _report(self, line: str) -> None:
        with contextlib.suppress(Exception, SystemExit):  # a closed terminal is no reason to stop tracking
            self._notify(line)


class WandbRun:
    """The W&B run of a folder, over all starts of the command.

    It is opened when it is needed, opened again offline where the server has failed, and given up where that fails.
    A file in the folder records what W&B has got, so that no start of the command sends it again.
    """

    def __init__(
        self, folder: Storage, identity: Identity, destination: WandbDestination, *, uploads_weights: bool = False
    ) -> None:
        self._folder, self._identity, self._destination = folder, identity, destination
        self._uploads_weights = uploads_weights
        self._run: WandbSession | None = None
        self._is_given_up = False

    def run_safely(self, work: Callable[[], None]) -> None:
        """Does some work of the tracking; nothing once the run is given up."""
        if self._is_given_up:
            return
        self._is_given_up = not self._destination.run_safely(self._identity.name, work)
        if self._is_given_up and self._run is not None:
            self._run.abandon()

    @property
    def is_open(self) -> bool:
        """True where the run is open in the present mode."""
        return self._run is not None and self._run.mode == self._destination.mode

    def open(self) -> WandbSession:
        """Opens the run, unless it is open; raises what WandbSession raises."""
        if self._run is None or not self.is_open:
            # If the next line raises, the run of before must not be used any more.
            self._run = None
            self._run = WandbSession(
                self._folder, self._identity, self._destination.mode, uploads_weights=self._uploads_weights
            )
        return self._run

    def close(self, summary: Mapping[str, Any], contents: Mapping[str, Any], *, failed: bool) -> None:
        """Closes the run and records that W&B has these contents; raises what WandbSession.close raises."""
        run = self.open()
        # Closed even if close raises: then the run is opened again, offline, with all rows.
        self._run = None
        run.close(summary, failed=failed)
        # Written last: a crash before it makes the next start send everything again, which W&B takes as the same run.
        note = {**self._target(), "mode": run.mode, "place": self._folder_hash, **contents}
        self._folder.write(STATE, json.dumps(note).encode())

    def is_recorded(self, contents: Mapping[str, Any], *, with_files: bool = False) -> bool:
        """True where the run was closed with these contents: on the server or, in offline mode, in files.

        Args:
            with_files: the contents have files. An offline run names them by absolute path: if its folder has been
                moved, it has lost them.
        """
        note = self._read_note()
        # What a server has is there whatever the mode of this start is.
        wanted = {**self._target(), **contents}
        if note.get("mode") != "online":
            wanted["mode"] = self._destination.mode
            if with_files:
                wanted["place"] = self._folder_hash
        return not self.is_open and note.items() >= wanted.items()

    def _target(self) -> dict[str, str]:
        return {"id": self._identity.id, "destination": _hash(*(os.environ.get(name) for name in _DESTINATION))}

    @property
    def _folder_hash(self) -> str:
        # Hashed, because no file of a run's folder may hold an absolute path.
        return _hash(self._folder.root)

    def _read_note(self) -> dict[str, Any]:
        try:
            note = json.loads(self._folder.read(STATE))
        except (FileNotFoundError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}


def _hash(*values: str | None) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
