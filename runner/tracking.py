"""Weights & Biases, fed from metrics.jsonl by the main process: the only one that may hold a key.

One W&B run a trial. W&B is a copy and never the record: what it holds can always be written again from
metrics.jsonl and images/, so nothing here may stop a training, and no local W&B file is worth keeping
when a run is opened anew.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.metrics_log import MetricsReader
from runner.storage import Storage

if TYPE_CHECKING:
    import wandb

FOLDER = "wandb"
STATE = f"{FOLDER}/state.json"
NOT_FAILURES = ("finished", "stopped")

# A network that went away may hold the main process up for this long at a run's start and end.
NETWORK_WAIT_S = 20.0
# About half a second of work: after a restart a long log is handed over piece by piece.
ROWS_PER_UPDATE = 1000

# wandb reads these as it starts: print nothing, and send reports about wandb's own errors to nobody.
QUIET_ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}

# Trials of this process whose runs are open. They share one service process, which the last one ends.
_open_ids: set[str] = set()


class TrackingError(RuntimeError):
    """W&B can't be used the way the experiment asks; the text says why and what to do."""


def resolve_mode(wanted: str) -> str:
    """online, offline or off for what an experiment asks: these three stay, `auto` is decided here.

    `auto` is online where W&B finds a key in any of its places (WANDB_API_KEY, netrc, a settings file),
    off where WANDB_MODE says disabled, else offline. The key is not kept, and no server is asked.
    """
    if wanted != "auto":
        return wanted
    if os.environ.get("WANDB_MODE") == "disabled":
        return "off"
    with _contained():
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


def run_id(experiment: str, trial: str) -> str:
    """The trial's W&B id: the same at every start, another one for every other experiment or trial."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", f"{experiment}-{trial}").strip("-")[:48]
    digest = hashlib.sha256(json.dumps([experiment, trial]).encode()).hexdigest()[:12]
    return f"{readable}-{digest}"


def sync_hint(experiment_dir: str | Path) -> str:
    """The line for the screen that says how to upload an experiment's offline runs."""
    return f"wandb sync {shlex.quote(str(experiment_dir))}/trials/*/{FOLDER}/offline-run-*"


def _warn_on_stderr(text: str) -> None:
    print(text, file=sys.stderr)


class TrialTracking:
    """One trial's W&B run; `mode` is online, offline or off, as `resolve_mode` returns it.

    No method raises because of W&B: its first failure is told to `warn` and ends this trial's tracking.
    An epoch's picture must be in images/ before the row that ends the epoch is in metrics.jsonl: a step
    can't be added to later. `config` is recorded as it is and must hold no secret.
    """

    def __init__(
        self,
        trial: Storage,
        experiment: str,
        config: Mapping[str, Any],
        mode: str,
        warn: Callable[[str], None] = _warn_on_stderr,
    ) -> None:
        self._trial = trial
        self._experiment = experiment
        self._config = config
        self._mode = mode
        self._warn = warn
        self._id = run_id(experiment, trial.name)
        self._reader = MetricsReader(trial)
        self._pending: list[dict[str, Any]] = []
        self._run: wandb.Run | None = None
        self._from_step = 0
        self._over = mode == "off"

    def update(self) -> None:
        """Logs rows of metrics.jsonl that are not logged yet, a thousand at most; opens the run for the
        first one, unless an earlier start has recorded a W&B run of exactly these rows."""
        self._guarded(self._update)

    def finish(self, status: str) -> None:
        """Logs what is left, adds `status` to the summary (W&B keeps each metric's last value there by
        itself) and closes the run.

        Does nothing without rows, when called again, or where W&B has all rows and this status already.
        """
        self._guarded(lambda: self._finish(status))
        self._over = True

    def _guarded(self, work: Callable[[], None]) -> None:
        """The one place where W&B's failures end. (Its teardown may call sys.exit.)"""
        if self._over:
            return
        try:
            with _contained():
                work()
        except (Exception, SystemExit) as error:
            self._over = True
            with contextlib.suppress(Exception, SystemExit), _contained():
                self._close(exit_code=1)
            self._warn(
                f"W&B tracking of {self._trial.name} ends: {_first_line(error)} "
                "(nothing else is affected: metrics.jsonl has every row, and the next start tries again)"
            )

    def _update(self) -> None:
        self._pending += self._reader.new_rows()
        if self._run is None and self._is_recorded():
            return
        self._log_pending(ROWS_PER_UPDATE)

    def _finish(self, status: str) -> None:
        self._pending += self._reader.new_rows()
        if self._run is None and self._is_recorded(status):
            return
        self._log_pending(len(self._pending))
        assert self._run is not None
        self._run.summary["status"] = status
        self._close(exit_code=0 if status in NOT_FAILURES else 1)
        # wandb's own logs hold a link to a file in the home folder, which breaks copies of the results.
        for name in self._trial.names(FOLDER):
            self._trial.remove(f"{FOLDER}/{name}/logs")
        self._trial.write(STATE, json.dumps(self._state(status)).encode())

    def _is_recorded(self, status: str | None = None) -> bool:
        """True where an earlier start closed a W&B run of all rows, with this status if one is given."""
        if self._reader.last_step < 0:
            return True
        state = _read_state(self._trial)
        return state == self._state(state.get("status") if status is None else status)

    def _state(self, status: str | None) -> dict[str, Any]:
        return {"id": self._id, "mode": self._mode, "last_step": self._reader.last_step, "status": status}

    def _log_pending(self, limit: int) -> None:
        if self._run is None:
            self._open()
        rows, self._pending = self._pending[:limit], self._pending[limit:]
        for row in rows:
            self._log(row)

    def _log(self, row: Mapping[str, Any]) -> None:
        import wandb

        assert self._run is not None
        if row["step"] < self._from_step:
            return
        # metrics.jsonl says null for what is not finite; W&B has NaN and shows it.
        metrics = {k: math.nan if v is None else v for k, v in row.items() if k != "step"}
        picture = _picture(self._trial, row)
        if picture is not None:
            metrics["images"] = wandb.Image(str(picture), caption="source | target | generated")
        self._run.log(metrics, step=row["step"], commit=True)

    def _open(self) -> None:
        import wandb

        online = self._mode == "online"
        # Runs of one id replace each other when synced, so an older one must not stay beside the new
        # one; and its state.json must not outlive it.
        self._trial.remove(FOLDER)
        self._trial.make_folder(FOLDER)
        _open_ids.add(self._id)
        wandb.setup(_settings(online))
        # Asked here because wandb.init would ask the person at the terminal.
        if online and not wandb.login(prompt=False, verify=False):
            raise TrackingError("no W&B key is configured: run `wandb login`, or set tracking.wandb: offline")
        self._run = wandb.init(
            id=self._id,
            name=self._trial.name,
            group=self._experiment,
            project=os.environ.get("WANDB_PROJECT") or "pix2pix",
            job_type="train",
            config=dict(self._config),
            dir=self._trial.local_path,
            reinit="create_new",
            resume="allow" if online else None,
            settings=_settings(online),
        )
        self._from_step = self._run.starting_step

    def _close(self, exit_code: int) -> None:
        run, self._run = self._run, None
        try:
            if run is not None:
                run.finish(exit_code=exit_code)
        finally:
            _open_ids.discard(self._id)
            _end_service_if_unused()


def _settings(online: bool) -> "wandb.Settings":
    """No output, no hold on the terminal, nothing collected about the machine, the program or its git."""
    import wandb

    return wandb.Settings(
        mode="online" if online else "offline",
        silent=True,
        console="off",
        symlink=False,
        use_dot_wandb=False,
        init_timeout=NETWORK_WAIT_S,
        finish_timeout=NETWORK_WAIT_S,
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


def _end_service_if_unused() -> None:
    import wandb

    if not _open_ids:
        wandb.teardown()


@contextlib.contextmanager
def _contained() -> Iterator[None]:
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


def _read_state(trial: Storage) -> dict[str, Any]:
    try:
        state = json.loads(trial.read(STATE))
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _picture(trial: Storage, row: Mapping[str, Any]) -> Path | None:
    """The picture of the epoch that the row ends, where the row ends one and there is one."""
    if not any(name.startswith("epoch_mean/") for name in row):
        return None
    name = f"images/epoch_{row['epoch']:04d}.png"
    return trial.local_path / name if trial.exists(name) else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
