"""commands.jsonl of an experiment: a row for each start of the command that ran it, with the revision of its code.

A folder of results is kept and sent to others, so that no row has an absolute path, a password in an address, or the
value of a field that is named like a secret.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from runner.storage.run_folder import COMMANDS
from runner.storage.storage import Storage

_PACKAGE = "pix2pix-runner"
_ROOT = Path(__file__).resolve().parents[2]
_CODE = ("runner", "gan")  # what a commit stands for: changes elsewhere change no training
_GIT_TIMEOUT_S = 10.0

_HIDDEN = "..."
_CREDENTIALS = re.compile(r"(\w+://)\S*@")
_QUERY = re.compile(r"(\w+://[^?\s]*\?)\S+")
_SECRET = re.compile(r"(?i)([\w.-]*(?:token|password|passwd|secret|credential|key)[\w.-]*\s*[=:]).+")

# A place in a bucket stays as it is: a URI with anything else in it is refused before a run begins.
_BUCKET = re.compile(r"(?P<option>[\w.-]*=)?(?:s3|gs|az)://[^/@?:]+(?:/[^?]*)?")

# Of an absolute path, its folders: a folder of results may be moved to where they mean nothing.
_FOLDERS = re.compile(r"(?<![\w.~:/-])/+(?:[^/\s'\"=,{}]+/+)+")


class Revision(NamedTuple):
    """Which code it is.

    Attributes:
        version: of the package; empty where it is not installed.
        commit: of the checkout that the code lies in; empty where it lies in none, or git is not there.
        is_changed: whether the checkout has changes of the code that were not committed.
    """

    version: str = ""
    commit: str = ""
    is_changed: bool = False


class Command(NamedTuple):
    """A start of the command.

    Attributes:
        attempt: how often the command had been started for the experiment.
        time: in UTC, as 2026-01-31T23:59:59Z.
        text: as it was typed; empty where Python called the library.
    """

    attempt: int
    time: str
    text: str
    revision: Revision


def command_text(program: str, arguments: Sequence[str], home: Path | None = None) -> str:
    """A command as it is recorded, without what is hidden.

    Args:
        program: such as `python -m runner.tune`.
        home: the home folder, for which `~` stands; None for that of this process.
    """
    # A user that the system does not know, as in some containers, has none.
    with contextlib.suppress(RuntimeError):
        home = home or Path.home()
    # A link may lead to it. Where it is `/`, nothing is to be hidden.
    folders = [str(path) for path in (home, home.resolve()) if str(path) != "/"] if home else []
    return " ".join([program, *(_recorded(text, folders) for text in arguments)])


def record_command(experiment: Storage, attempt: int, text: str) -> None:
    """Adds a row for a start of the command, with the revision of the code that runs now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    row = {"attempt": attempt, "time": now, "command": text, **find_revision()._asdict()}
    experiment.append(COMMANDS, json.dumps(row).encode() + b"\n")


def read_commands(experiment: Storage) -> list[Command]:
    """The rows so far, without those that are damaged; none where an earlier release ran it."""
    commands = []
    for line in experiment.read_if_there(COMMANDS).splitlines():
        try:
            row = json.loads(line)
            commands.append(_command_of(row))
        except (ValueError, KeyError, TypeError):
            continue
    return commands


def find_revision(root: Path = _ROOT) -> Revision:
    """The version of the installed package, and the commit of the checkout whose topmost folder is `root`."""
    try:
        version = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        version = ""
    # Without this check git would find a repository further up, which may be of anything.
    if not (root / ".git").exists():
        return Revision(version)
    commit = _git(root, "rev-parse", "HEAD").strip()
    changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_CODE) if commit else ""
    return Revision(version, commit, bool(changes.strip()))


def _command_of(row: Mapping[str, Any]) -> Command:
    revision = Revision(str(row["version"]), str(row["commit"]), bool(row["is_changed"]))
    return Command(int(row["attempt"]), str(row["time"]), str(row["command"]), revision)


def _recorded(argument: str, homes: Sequence[str]) -> str:
    """An argument as it is recorded."""
    uri = _BUCKET.fullmatch(argument)
    if uri and not _SECRET.match(f"{uri['option'] or ''}x"):
        return _shell_word(argument)
    return _quoted(_without_secrets(argument), homes)


def _without_secrets(text: str) -> str:
    text = _CREDENTIALS.sub(rf"\1{_HIDDEN}@", text)
    return _SECRET.sub(rf"\1{_HIDDEN}", _QUERY.sub(rf"\1{_HIDDEN}", text))


def _quoted(argument: str, homes: Sequence[str]) -> str:
    """An argument as a shell takes it, with `~` for the home folder."""
    for folder in homes:
        # Its path may also stand after `--storage=` or `data.source=`.
        path = re.escape(folder).replace("/", "/+")
        argument = re.sub(rf"(?<![\w.-]){path}(?![\w.-])", "~", argument)
    return _shell_word(_FOLDERS.sub(f"{_HIDDEN}/", argument))


def _shell_word(argument: str) -> str:
    # A shell leaves a quoted `~` as it is, but so does this program: it expands it itself.
    return argument if re.fullmatch(r"[\w@%+=:,./~-]+", argument) else shlex.quote(argument)


def _git(root: Path, *arguments: str) -> str:
    """What git prints; empty where it fails or is not there."""
    # Nothing is written into the checkout, not even git's own notes.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout
