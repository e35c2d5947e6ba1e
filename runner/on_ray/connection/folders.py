"""Where a Ray of our own keeps its sockets and the token of its dashboard, on machines of all kinds. Loads no Ray."""

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from runner.errors import ResourceError
from runner.process.home import own_folder, shown_below_home

TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
# With these a user gives the token, or does without.
_TOKEN, TOKEN_MODE = "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"

# A socket's path may have 107 bytes, of which Ray's own part takes 64.
MAX_FOLDER_BYTES = 43


def temporary_folder() -> str:
    """The absolute path of the folder for Ray's sockets and logs; it need not exist yet.

    It is `ray` in RAY_TMPDIR, else in TMPDIR, else in /tmp, as Ray chooses. Where that path is too long for a socket or
    can't be written, it is one in /tmp, and in /dev/shm at last.

    Raises:
        ResourceError: none of them can be used.
    """
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    own = f"ray-{os.getuid()}"  # another user may have made the others
    candidates = [str(Path(chosen, "ray").absolute()), "/tmp/ray", f"/tmp/{own}", f"/dev/shm/{own}"]
    for folder in candidates:
        if len(os.fsencode(folder)) <= MAX_FOLDER_BYTES and _can_be_written(Path(folder)):
            return folder

    longest = MAX_FOLDER_BYTES - len("/ray")
    raise ResourceError(
        f"Ray finds no folder for its sockets: {', '.join(candidates)} can't be written, or their paths are too long. "
        f"Set RAY_TMPDIR to a folder that can be written, with a path of at most {longest} bytes."
    )


def notes_on_folders() -> list[str]:
    """What of the environment a Ray of our own can't use, a sentence each.

    Raises:
        ResourceError: there is no place for its sockets.
    """
    folder = temporary_folder()
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen and folder != str(Path(chosen, "ray").absolute()):
        longest = MAX_FOLDER_BYTES - len("/ray")
        return [
            f"Ray's sockets and logs go to {folder}: RAY_TMPDIR can't be written, or its path has more than {longest} "
            "bytes"
        ]
    return []


def prepare_token() -> None:
    """Makes the token by which Ray's processes know each other, where there is none, and tells Ray where it is.

    It is in ~/.ray/auth_token; where no home folder can be written, in a temporary one that ends with this process.
    Ray makes a file there itself, but one that others can read for a moment, and two that start at once overwrite each
    other's.
    """
    mode = os.environ.get(TOKEN_MODE, "token")
    if os.environ.get(_TOKEN) or os.environ.get(TOKEN_PATH) or mode.lower() != "token":
        return

    path = _home_token()
    try:
        _make_token(path)
    except OSError:
        path = Path(own_folder().name) / "auth_token"
        _make_token(path)
    os.environ[TOKEN_PATH] = str(path)


def token_place() -> str:
    """Where the token is that the dashboard asks for; "" where it asks for none."""
    if os.environ.get(_TOKEN):
        return _TOKEN
    path = os.environ.get(TOKEN_PATH)
    return shown_below_home(path) if path else ""


def known_token() -> tuple[str, str]:
    """The token that this machine has for clusters, "" for none; and where it is, or would be looked for."""
    if token := os.environ.get(_TOKEN, "").strip():
        return token, _TOKEN
    path = Path(os.environ.get(TOKEN_PATH) or _home_token())
    try:
        return path.read_text().strip(), shown_below_home(str(path))
    except OSError:
        return "", shown_below_home(str(path))


def _home_token() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _make_token(path: Path) -> None:
    """Makes a token in a file that only its owner can read, unless it has one; of two that try, one succeeds."""
    if path.exists() and path.read_text().strip():
        with contextlib.suppress(OSError):
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)  # Ray may have made it
        return

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Either another process was quicker, or an empty file was left behind.
            if not path.read_text().strip():
                path.write_text(Path(temporary).read_text())
    finally:
        Path(temporary).unlink()


def _can_be_written(folder: Path) -> bool:
    """True where a folder can be written, or be made."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
