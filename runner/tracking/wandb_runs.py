"""Where W&B runs are sent, and what becomes of each of them when a server fails."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from runner.storage.folder import Storage
from runner.storage.run_folder import WANDB_FOLDER
from runner.tracking.wandb_session import Identity, OpenRun, contained, end_service, end_service_if_unused

STATE = f"{WANDB_FOLDER}/state.json"
# With another value of these the runs go elsewhere.
DESTINATION = ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT")


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
    with contextlib.suppress(Exception, SystemExit):
        import wandb
        import wandb.errors

        try:
            return wandb.login(prompt=False, verify=False)
        except wandb.errors.AuthenticationError:
            return True  # there is one, malformed
        finally:
            end_service_if_unused()
    return False


class WandbDestination:
    """Where this start of the command sends its runs. Belongs to one thread."""

    def __init__(self, wanted: str, notify: Callable[[str], None]) -> None:
        """As an experiment's `tracking.wandb` wants it; `notify` is told of each failure, in one line."""
        self._wanted, self._notify = wanted, notify
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
                    self._tell(
                        f"W&B tracking of {name} ends: {_first_line(error)} "
                        "(nothing else is affected: metrics.jsonl has every row, and the next start tries again)"
                    )
                    return False
                self._mode = "offline"
                self._tell(
                    f"W&B fails ({_first_line(error)}): its runs are kept offline from here on, "
                    "and the next start tries again; the trials do not depend on it"
                )
                with contextlib.suppress(Exception, SystemExit), contained():
                    end_service()
        return False

    def _tell(self, line: str) -> None:
        with contextlib.suppress(Exception, SystemExit):  # a screen that is gone is no reason to stop tracking
            self._notify(line)


class WandbRun:
    """The one W&B run of a folder: opened when it is needed, again where the server has failed since, given up where
    it fails offline. Beside it stands what W&B has of it, so that no start of the command does it again.
    """

    def __init__(
        self, folder: Storage, identity: Identity, destination: WandbDestination, *, uploads_weights: bool = False
    ) -> None:
        self._folder, self._identity, self._destination = folder, identity, destination
        self._uploads_weights = uploads_weights
        self._run: OpenRun | None = None
        self._is_over = False

    def attempt(self, work: Callable[[], None]) -> None:
        """Does some of the tracking, or nothing once that has failed offline."""
        if self._is_over:
            return
        self._is_over = not self._destination.attempt(self._identity.name, work)
        if self._is_over and self._run is not None:
            self._run.abandon()

    @property
    def is_open(self) -> bool:
        """False where it must be opened before anything is logged."""
        return self._run is not None and self._run.mode == self._destination.mode

    def open(self) -> OpenRun:
        """The open run; raises what OpenRun raises."""
        if self._run is None or not self.is_open:
            self._run = None
            self._run = OpenRun(
                self._folder, self._identity, self._destination.mode, uploads_weights=self._uploads_weights
            )
        return self._run

    def close(self, summary: Mapping[str, Any], contents: Mapping[str, Any], *, failed: bool) -> None:
        """Closes the run, opened before, and notes that W&B has these contents; raises what OpenRun.close raises."""
        run = self.open()
        self._run = None
        run.close(summary, failed=failed)
        note = {**self._whose(), "mode": run.mode, "place": self._place, **contents}
        self._folder.write(STATE, json.dumps(note).encode())

    def is_recorded(self, contents: Mapping[str, Any], *, with_files: bool = False) -> bool:
        """True where a run that is closed has these contents, on the server or, where there is none to use, offline.

        Args:
            with_files: whether files belong to it. An offline run names them by absolute path: in a folder that has
                been moved since, it has lost them.
        """
        note = self._read_note()
        wanted = {**self._whose(), **contents}
        if note.get("mode") != "online":
            wanted["mode"] = self._destination.mode
            if with_files:
                wanted["place"] = self._place
        return not self.is_open and note.items() >= wanted.items()

    def _whose(self) -> dict[str, str]:
        return {"id": self._identity.id, "destination": _hashed(*(os.environ.get(name) for name in DESTINATION))}

    @property
    def _place(self) -> str:
        # Hashed: no file of a run's folder says where it lay.
        return _hashed(str(self._folder.local_path))

    def _read_note(self) -> dict[str, Any]:
        try:
            note = json.loads(self._folder.read(STATE))
        except (FileNotFoundError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}


def _hashed(*values: str | None) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
