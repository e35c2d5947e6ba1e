"""Ray's sockets and its token, whatever the environment says."""

import os
import stat
import threading
from pathlib import Path

import pytest

from runner.errors import ResourceError
from runner.on_ray.connection import folders
from runner.on_ray.connection.folders import (
    MAX_FOLDER_BYTES,
    notes_on_folders,
    prepare_token,
    temporary_folder,
    token_place,
)

LONGEST = MAX_FOLDER_BYTES - len("/ray")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        # Set first, so that what a test's own code sets is undone as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def always_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_can_be_written", lambda folder: True)


@pytest.mark.usefixtures("always_writable")
@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
@pytest.mark.parametrize("character", ["x", "é", "\udcff"])
@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1])
def test_rays_sockets_fit_however_long_the_path_of_temporary_files(
    monkeypatch: pytest.MonkeyPatch, variable: str, character: str, length: int
) -> None:
    # By bytes: a character may have several, and a name need not be text.
    name = os.fsencode("/tmp/" + character * 15)
    place = os.fsdecode(name + b"x" * (length - len(name)))
    monkeypatch.setenv(variable, place)
    folder = temporary_folder()
    assert folder == (f"{place}/ray" if length <= LONGEST else "/tmp/ray")
    socket = Path(folder) / "session_2026-11-23_09-00-00_123456_1234567" / "sockets" / "plasma_store"
    assert len(os.fsencode(socket)) <= 107
    # Who chose the folder for Ray is told that it is not used.
    assert len(notes_on_folders()) == (variable == "RAY_TMPDIR" and length > LONGEST)


@pytest.mark.usefixtures("always_writable")
def test_an_empty_variable_is_none_and_a_relative_path_is_of_this_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.setenv("TMPDIR", "")
    assert temporary_folder() == "/tmp/ray"
    monkeypatch.chdir("/tmp")
    monkeypatch.setenv("TMPDIR", "here")
    assert temporary_folder() == "/tmp/here/ray"


def test_a_folder_that_cannot_be_written_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = {f"{tmp_path}/file/ray", "/tmp/ray"}
    real = folders._can_be_written
    monkeypatch.setattr(folders, "_can_be_written", lambda folder: str(folder) not in refused and real(folder))
    monkeypatch.setattr(folders, "MAX_FOLDER_BYTES", 200)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    assert temporary_folder() == f"/tmp/ray-{os.getuid()}"
    assert "RAY_TMPDIR can't be written" in notes_on_folders()[0]
    assert not real(tmp_path / "file" / "ray")

    monkeypatch.setattr(folders, "_can_be_written", lambda folder: False)
    with pytest.raises(ResourceError, match="Set RAY_TMPDIR to a folder that can be written, with a path of at most"):
        temporary_folder()


@pytest.mark.usefixtures("own_home")
def test_a_token_is_made_once_for_its_owner_alone() -> None:
    prepare_token()
    path = Path.home() / ".ray" / "auth_token"
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_place() == "~/.ray/auth_token"
    assert [entry.name for entry in path.parent.iterdir()] == ["auth_token"]

    token = path.read_text()
    path.chmod(0o644)  # as Ray leaves it
    del os.environ["RAY_AUTH_TOKEN_PATH"]
    prepare_token()
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (token, 0o600)


@pytest.mark.usefixtures("own_home")
def test_of_two_first_starts_at_once_both_have_the_same_token(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir()
    both, link, read = threading.Barrier(2), os.link, []

    def link_together(source: str, target: Path) -> None:
        both.wait(10)  # both have found no token, and each has written its own
        link(source, target)

    def start() -> None:
        folders._make_token(path)
        read.append(path.read_text())

    monkeypatch.setattr(os, "link", link_together)
    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 2
    assert read[0] == read[1]
    assert len(read[0]) == 64


def test_without_a_home_that_can_be_written_the_token_is_in_a_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/1")
    prepare_token()
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert token_place() == str(path)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("RAY_AUTH_TOKEN", "t"), ("RAY_AUTH_TOKEN_PATH", "/some/file"), ("RAY_AUTH_MODE", "disabled")],
)
def test_who_gives_a_token_or_does_without_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("HOME", "/proc/1")
    before = dict(os.environ)
    prepare_token()
    assert dict(os.environ) == before
    assert token_place() == {"RAY_AUTH_TOKEN": "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH": "/some/file"}.get(variable, "")
