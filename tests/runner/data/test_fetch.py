"""`python -m runner.data fetch` against a server that breaks off, lies, stalls and sends people elsewhere."""

import hashlib
import io
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path
from urllib.error import URLError

import pytest

import runner.data.__main__
from runner.data.fetching import known_sets, progress
from runner.data.fetching.download import Patience
from runner.data.fetching.fetch import fetch
from runner.data.fetching.known_sets import KNOWN_SETS
from runner.data.fetching.unpacking import Limits
from runner.data.fetching.web import Unreachable, WebAddress, _Redirects, explained
from runner.errors import Exit, UserError
from runner.storage.folder import TEMPORARY
from tests.support.archive_server import TAG, Answer, ArchiveServer, chunked, file, raw, status
from tests.support.commands import ROOT, finish, start

Capture = pytest.CaptureFixture[str]

PAIRS = {
    "train/1.jpg": random.Random(1).randbytes(30_000),
    "train/2.jpg": random.Random(2).randbytes(40_000),
    "val/1.jpg": random.Random(3).randbytes(20_000),
}


def tar_of(files: dict[str, bytes], top: str = "set/") -> bytes:
    """A tar.gz."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


ARCHIVE = tar_of(PAIRS)
OTHER = tar_of({name: data[::-1] for name, data in PAIRS.items()})
HALF = len(ARCHIVE) // 2


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """DIR, in a folder that does not exist either."""
    return tmp_path / "data" / "maps"


@pytest.fixture
def waits() -> list[float]:
    """The seconds that were waited between tries."""
    return []


@pytest.fixture
def patience(waits: list[float]) -> Patience:
    return Patience(timeout_s=10.0, sleep=waits.append)


def content(folder: Path) -> dict[str, bytes]:
    """All files but the record."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".fetched.json"
    }


def partial(target: Path) -> Path:
    """The one download that was kept beside DIR."""
    (folder,) = target.parent.glob(f"{TEMPORARY}fetch-*")
    assert not (folder / "unpacked").exists()
    return folder / "archive"


def run(source: object, target: Path, *options: str) -> int:
    return runner.data.__main__.main(["fetch", str(source), str(target), *options])


def refusal(source: object, target: Path, patience: Patience | None = None, sha256: str | None = None) -> str:
    """What a refusal says; it has exit code 2, and nothing of DIR is there."""
    with pytest.raises(UserError) as caught:
        fetch(str(source), str(target), sha256, patience=patience)
    text = str(caught.value)
    assert caught.value.exit_code == Exit.BAD_INPUT
    assert len(text.splitlines()) <= 25
    assert not target.exists()
    return text


def fetched(answers: list[Answer], target: Path, patience: Patience) -> ArchiveServer:
    """Fetches the archive from a server with these answers, and checks what has come."""
    with ArchiveServer(*answers) as server:
        fetch(server.url(), str(target), None, patience=patience)
    assert content(target) == PAIRS
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    return server


# What goes well.


@pytest.mark.parametrize("kind", ["tar.gz", "zip", "path"])
def test_real_pairs_arrive_byte_for_byte(maps: Path, tmp_path: Path, capsys: Capture, kind: str) -> None:
    chosen = [*sorted((maps / "train").iterdir())[:16], *sorted((maps / "val").iterdir())[:8]]
    source = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in chosen}
    archive = tmp_path / "archive"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
            for name, data in source.items():
                stream.writestr(f"maps/{name}", data)
    else:
        archive.write_bytes(tar_of(source, "maps/"))

    with ArchiveServer(file(archive.read_bytes(), until=10**6), file(archive.read_bytes())) as server:
        target = tmp_path / "pairs"
        fetch(str(archive) if kind == "path" else server.url(), str(target), None, patience=Patience(first_wait_s=0))
    assert content(target) == source
    assert server.ranges == ([] if kind == "path" else [None, "bytes=1000000-"])
    assert f"{target}: 16 pictures in train, 8 pictures in val\n" in capsys.readouterr().out


def test_the_end_says_how_to_go_on(target: Path, capsys: Capture) -> None:
    with ArchiveServer(file(ARCHIVE)) as server:
        assert run(server.url(), target) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"fetching {server.url()}",
        f"{target}: 2 pictures in train, 1 picture in val",
        f"next: python -m runner.data check {target}",
        f"      python -m runner.tune experiments/batch_sweep.yaml --set data.source={target}",
    ]


@pytest.mark.parametrize("name", KNOWN_SETS)
def test_a_set_is_fetched_by_its_name(
    name: str, target: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KNOWN_SETS[name]
    archive = tar_of({f"{split}/1.jpg": b"" for split in known.splits}, f"{name}/")
    with ArchiveServer(file(archive)) as server:
        monkeypatch.setattr(known_sets, "_PAGE", server.url("pix2pix/datasets"))
        assert run(name, target) == 0
    output = capsys.readouterr().out
    assert server.requests[0][0] == f"/pix2pix/datasets/{name}.tar.gz"
    assert f"left {known.left}, right {known.right}\n" in output
    assert ("--set data.direction=satellite_to_map" in output) == (known.direction == "satellite_to_map")
    assert "unlike the original" not in output


def test_a_known_set_without_one_of_its_folders_says_so(
    target: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ArchiveServer(file(tar_of({"train/1.jpg": b""}, "maps/"))) as server:
        monkeypatch.setattr(known_sets, "_PAGE", server.url(""))
        assert run("maps", target) == 0
    assert "unlike the original maps, it has no val" in capsys.readouterr().out
    assert content(target) == {"train/1.jpg": b""}


def test_the_original_sets_lie_on_the_original_page() -> None:
    assert KNOWN_SETS["maps"].url == "https://efrosgans.eecs.berkeley.edu/pix2pix/datasets/maps.tar.gz"
    assert list(KNOWN_SETS) == ["maps", "facades", "cityscapes", "edges2shoes", "edges2handbags", "night2day"]


@pytest.mark.parametrize("length", [-1, None])
def test_a_file_comes_with_and_without_an_announced_length(
    target: Path, patience: Patience, length: int | None
) -> None:
    fetched([file(ARCHIVE, length=length)], target, patience)


def test_a_file_comes_in_chunks(target: Path, patience: Patience) -> None:
    fetched([chunked(ARCHIVE)], target, patience)


def test_progress_is_printed_in_lines_where_there_is_no_terminal(
    target: Path, patience: Patience, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_INTERVAL_S", 0.0)
    fetched([file(ARCHIVE)], target, patience)
    output = capsys.readouterr().out
    assert "downloading: 0.1 MB of 0.1 MB (100%), " in output
    assert "unpacking: 0.1 MB of 0.1 MB (100%), " in output


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path: Path, patience: Patience) -> None:
    for name in ("empty", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("linked")
    with ArchiveServer(file(ARCHIVE)) as server:
        fetch(server.url(), str(tmp_path / "empty"), None, patience=patience)
        fetch(server.url(), str(tmp_path / "link"), None, patience=patience)
    assert content(tmp_path / "empty") == content(tmp_path / "linked") == PAIRS
    assert (tmp_path / "link").is_symlink()


# A broken download goes on, and bytes of two versions never come together.


def test_a_download_that_breaks_off_goes_on_where_it_ended(
    target: Path, patience: Patience, waits: list[float]
) -> None:
    server = fetched([file(ARCHIVE, until=1000), file(ARCHIVE, until=HALF), file(ARCHIVE)], target, patience)
    assert server.ranges == [None, "bytes=1000-", f"bytes={HALF}-"]
    assert [headers.get("if-range") for _, headers in server.requests] == [None, TAG, TAG]
    assert waits == [1.0, 2.0]


def test_the_same_command_goes_on_with_what_an_earlier_one_has_left(target: Path, patience: Patience) -> None:
    with ArchiveServer(file(ARCHIVE, until=HALF), status(404)) as server:
        text = refusal(server.url(), target, patience)
        assert partial(target).stat().st_size == HALF
        assert str(partial(target).parent) in text
        server.answers = [file(ARCHIVE)]
        fetch(server.url(), str(target), None, patience=patience)
    assert server.ranges[-1] == f"bytes={HALF}-"
    assert content(target) == PAIRS
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_silent_server_is_asked_again(target: Path) -> None:
    patience = Patience(timeout_s=0.2, first_wait_s=0)
    server = fetched([file(ARCHIVE, until=HALF, stalls=True), file(ARCHIVE)], target, patience)
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_server_that_never_answers_is_asked_once(target: Path) -> None:
    with ArchiveServer(lambda request: bool(request.server.owner.released.wait(60)) and None) as server:
        text = refusal(server.url(), target, Patience(timeout_s=0.2))
    assert f"{server.url()}: it does not answer in time.\n" in text
    assert len(server.requests) == 1
    assert not target.parent.exists()


@pytest.mark.parametrize(
    ("first", "second", "condition"),
    [
        pytest.param({}, {"ranges": False}, TAG, id="no ranges"),
        pytest.param({}, {"tag": '"version-2"'}, TAG, id="changed"),
        pytest.param({"tag": None}, {"tag": None}, None, id="no version"),
        pytest.param({"tag": 'W/"weak"'}, {"tag": 'W/"weak"'}, None, id="weak version"),
    ],
)
def test_a_download_that_can_not_go_on_starts_over(
    target: Path, patience: Patience, first: dict[str, str], second: dict[str, str], condition: str | None
) -> None:
    answers = [file(OTHER, until=HALF, **first), file(ARCHIVE, **second)]  # type: ignore[arg-type]
    server = fetched(answers, target, patience)
    assert server.requests[1][1].get("if-range") == condition


def test_the_time_of_the_last_change_stands_in_for_a_version(target: Path, patience: Patience) -> None:
    since = "Tue, 05 May 2026 10:00:00 GMT"
    answers = [file(ARCHIVE, tag=None, modified=since, until=HALF), file(ARCHIVE, tag=None, modified=since)]
    assert fetched(answers, target, patience).requests[1][1]["if-range"] == since


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(file(bytes(len(OTHER)), tag='"version-2"', checks_tag=False), id="another version"),
        pytest.param(file(OTHER + b"more", tag=None, checks_tag=False), id="another length"),
        pytest.param(status(206, b"x" * 10, Content_Range=f"bytes 5-14/{len(OTHER)}"), id="another place"),
        pytest.param(status(206, b"x" * 10), id="no place"),
        pytest.param(status(416, Content_Range="bytes */1"), id="nothing beyond"),
    ],
)
def test_a_rest_that_does_not_fit_is_not_glued_to_what_is_there(target: Path, patience: Patience, rest: Answer) -> None:
    server = fetched([file(OTHER, until=HALF), rest, file(ARCHIVE)], target, patience)
    assert server.ranges == [None, f"bytes={HALF}-", None]


def test_a_file_that_was_whole_already_is_seen_as_whole(target: Path, patience: Patience) -> None:
    announced_too_long = file(ARCHIVE, length=len(ARCHIVE) + 1)
    server = fetched([announced_too_long, file(ARCHIVE)], target, patience)
    assert server.ranges == [None, f"bytes={len(ARCHIVE)}-"]


def test_chunks_that_break_off_go_on(target: Path, patience: Patience) -> None:
    server = fetched([chunked(ARCHIVE, until=HALF), chunked(ARCHIVE)], target, patience)
    assert server.ranges[1] is not None


# A server that lies, fails or sends something else.


def test_a_server_that_promises_more_than_it_sends_is_given_up(
    target: Path, patience: Patience, waits: list[float]
) -> None:
    liar = file(ARCHIVE, ranges=False, length=len(ARCHIVE) + 5)
    with ArchiveServer(liar) as server:
        text = refusal(server.url(), target, patience)
    assert f"({len(ARCHIVE)} of {len(ARCHIVE) + 5} bytes); tried 5 times." in text
    assert "the same command goes on with the 0.1 MB that are kept in" in text
    assert len(server.requests) == 5
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_server_that_promises_less_than_the_whole_file_leaves_nothing(target: Path, patience: Patience) -> None:
    with ArchiveServer(file(ARCHIVE, length=HALF)) as server:
        assert "it is damaged or cut off (it ends too early)" in refusal(server.url(), target, patience)
    assert not target.parent.exists()


@pytest.mark.parametrize("length", ["x", "-5", "5, 6", str(10**30)])
def test_a_length_that_can_not_be_is_no_harm(target: Path, patience: Patience, length: str) -> None:
    with ArchiveServer(status(200, ARCHIVE, Content_Length=length)) as server:
        if length == str(10**30):
            assert "at most 200.0 GB are fetched" in refusal(server.url(), target, patience)
        else:
            fetch(server.url(), str(target), None, patience=patience)


def test_a_file_without_end_ends_at_the_limit(target: Path, patience: Patience) -> None:
    with ArchiveServer(file(ARCHIVE, length=None)) as server, pytest.raises(UserError, match=r"longer than 0\.1 MB"):
        fetch(server.url(), str(target), None, Limits(size=50_000), patience)
    assert not target.parent.exists()


def test_an_archive_for_which_no_disk_has_room_is_refused_before_it_comes(target: Path, patience: Patience) -> None:
    with ArchiveServer(file(ARCHIVE, length=10**17)) as server, pytest.raises(UserError, match="make room") as caught:
        fetch(server.url(), str(target), None, Limits(size=10**18), patience)
    assert caught.value.exit_code == Exit.BAD_INPUT
    assert not target.parent.exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (404, "404 Not Found: there is no such file"),
        (410, "410 Gone"),
        (401, "https://USER:PASSWORD@HOST/PATH"),
        (403, "https://USER:PASSWORD@HOST/PATH"),
        (204, "204 in place of a file"),
    ],
)
def test_a_dead_address_says_so_and_what_else_to_do(
    target: Path, capsys: Capture, patience: Patience, code: int, words: str
) -> None:
    with ArchiveServer(status(code)) as server:
        assert run(server.url(), target) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: {server.url()}: it answers {code}")
    assert words in text
    for way in ("fetch ARCHIVE", "fetch URL", "maps, facades, cityscapes"):
        assert way in text
    assert len(server.requests) == 1
    assert not target.parent.exists()


def test_a_name_or_a_port_that_nobody_answers_is_asked_once(target: Path, waits: list[float]) -> None:
    with ArchiveServer() as server:
        closed = server.url()
    patience = Patience(timeout_s=10.0, sleep=waits.append)
    assert "the connection failed (Connection refused)" in refusal(closed, target, patience)
    assert "the name no.such.invalid can't be resolved" in refusal("http://no.such.invalid/a.zip", target, patience)
    assert waits == []
    assert not target.parent.exists()


def test_a_connection_that_can_not_be_encrypted_or_trusted_is_not_used(target: Path, patience: Patience) -> None:
    with ArchiveServer(raw(b"")) as server:
        assert "the connection failed ([SSL" in refusal(server.url().replace("http", "https"), target, patience)
    address = WebAddress.parse("https://host/a.zip")
    error = explained(URLError(ssl.SSLCertVerificationError("self-signed")), address)
    assert "its certificate is not valid" in error.reason
    assert not error.transient


def test_a_known_set_that_can_not_be_had_names_the_others(
    target: Path, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ArchiveServer(status(404)) as server:
        monkeypatch.setattr(known_sets, "_PAGE", server.url("gone"))
        text = refusal("cityscapes", target, patience)
    assert "https://www.cityscapes-dataset.com" in text
    assert "fetch cityscapes.tar.gz" in text
    assert "another set: maps, facades, edges2shoes, edges2handbags, night2day" in text


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 408])
def test_a_server_in_trouble_is_asked_again(target: Path, patience: Patience, waits: list[float], code: int) -> None:
    fetched([status(code), status(code), file(ARCHIVE)], target, patience)
    assert waits == [1.0, 2.0]


def test_a_server_that_stays_in_trouble_is_given_up(target: Path, patience: Patience, waits: list[float]) -> None:
    with ArchiveServer(status(500)) as server:
        assert "it answers 500 Internal Server Error; tried 5 times." in refusal(server.url(), target, patience)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert not target.parent.exists()


def test_retry_after_is_waited_for_and_not_for_hours(target: Path, patience: Patience, waits: list[float]) -> None:
    with ArchiveServer(status(503, Retry_After=3600)) as server:
        assert "asks to wait 3600 s" in refusal(server.url(), target, patience)
    date = "Wed, 01 Jan 2020 00:00:00 GMT"
    fetched([status(503, Retry_After=7), status(503, Retry_After=date), file(ARCHIVE)], target, patience)
    assert waits == [7.0, 2.0]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html; charset=utf-8", ARCHIVE),
        ("application/gzip", b"<!DOCTYPE html><html>not here any more</html>"),
        ("application/octet-stream", b"\n  <?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"),
    ],
)
def test_a_web_page_is_no_archive(target: Path, patience: Patience, kind: str, body: bytes) -> None:
    with ArchiveServer(file(body, kind=kind)) as server:
        assert "a web page" in refusal(server.url(), target, patience)
    assert not target.parent.exists()


def test_what_is_no_archive_is_not_downloaded_to_its_end(target: Path, patience: Patience) -> None:
    with ArchiveServer(file(b"<html>" + bytes(10_000), until=1000)) as server:
        assert "it answers with something else: it is a web page" in refusal(server.url(), target, patience)
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["text/html", "application/gzip"])
def test_a_web_page_in_place_of_the_rest_leaves_what_has_come(target: Path, patience: Patience, kind: str) -> None:
    page = file(b"<html>log in</html>", ranges=False, kind=kind)
    with ArchiveServer(file(ARCHIVE, until=HALF), page) as server:
        refusal(server.url(), target, patience)
    assert partial(target).read_bytes() == ARCHIVE[:HALF]


@pytest.mark.parametrize(
    "answer",
    [
        raw(b""),
        raw(b"no HTTP at all\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 70_000 + b"\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ],
)
def test_an_answer_that_is_no_http_is_an_error_in_words(target: Path, patience: Patience, answer: Answer) -> None:
    with ArchiveServer(answer) as server:
        refusal(server.url(), target, patience)
    assert not target.parent.exists()


# Redirects, proxies, secrets.


def test_a_redirect_is_followed(target: Path, patience: Patience) -> None:
    with ArchiveServer(file(ARCHIVE)) as server:
        fetched([status(302, Location=server.url("elsewhere.tgz"))], target, patience)
    assert server.requests[0][0] == "/elsewhere.tgz"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://host/a.zip", "data:,x", "//[", "http://u:secret@h:x/"])
def test_a_redirect_leads_to_http_only(target: Path, patience: Patience, code: int, place: str) -> None:
    with ArchiveServer(status(code, Location=place)) as server:
        text = refusal(server.url(), target, patience)
    assert "it redirects to" in text
    assert "secret" not in text


def test_a_redirect_in_a_circle_ends(target: Path, patience: Patience) -> None:
    with ArchiveServer(status(302, Location="/set.tar.gz")) as server:
        assert "it redirects in a circle" in refusal(server.url(), target, patience)


def test_a_redirect_from_https_to_http_is_refused() -> None:
    request = urllib.request.Request("https://host/a.zip")
    redirects = _Redirects(WebAddress.parse("https://host/a.zip"))
    with pytest.raises(Unreachable, match="which is not encrypted"):
        redirects.redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), "http://host/a.zip")


def test_a_password_goes_to_its_own_host_only(target: Path, patience: Patience) -> None:
    with ArchiveServer(file(ARCHIVE)) as other, ArchiveServer(status(302, Location="/second")) as server:
        server.answers.append(status(302, Location=other.url()))
        fetch(f"http://me:s%65cret@{server.host}/first", str(target), None, patience=patience)
    basic = "Basic bWU6c2VjcmV0"
    assert [headers.get("authorization") for _, headers in server.requests] == [basic, basic]
    assert [headers.get("authorization") for _, headers in other.requests] == [None]


def test_no_secret_of_an_address_is_shown_or_kept(target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secrets = ("nomen", "verbum", "clavis", "fragmentum")
    with ArchiveServer(file(ARCHIVE, until=HALF), status(404), file(ARCHIVE)) as server:
        url = f"http://nomen:verbum@{server.host}/a.tgz?key=clavis#fragmentum"
        assert [run(url, target, "--traceback") for _ in range(3)] == [2, 0, 0]
    assert server.requests[0][0] == "/a.tgz?key=clavis"

    for place in (
        "http://nomen:ver/bum@h/x",
        "http://nomen:12/verbum@h/x",
        "ftp://nomen:verbum@h/x",
        "http://nomen:verbum@/",
    ):
        assert run(place, target.with_name("other"), "--traceback") == 2
    printed = capfd.readouterr()
    shown = printed.out + printed.err + (target / ".fetched.json").read_text()
    assert f"http://{server.host}/a.tgz?..." in shown
    assert [secret for secret in secrets if secret in shown] == []


def test_the_proxy_of_the_environment_is_used_and_its_password_not_shown(
    target: Path, patience: Patience, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ArchiveServer(file(ARCHIVE)) as server:
        monkeypatch.setenv("http_proxy", f"http://me:secret@{server.host}")
        fetch("http://far.invalid/a.tgz", str(target), None, patience=patience)
        monkeypatch.setenv("https_proxy", f"http://me:secret@{server.host}")
        server.answers = [status(407)]
        text = refusal("https://far.invalid/a.tgz", target.with_name("other"), patience)
    assert server.requests[0][0] == "http://far.invalid/a.tgz"
    assert f"asked through http://{server.host} (https_proxy)" in text
    assert "secret" not in text


def test_no_proxy_and_proxies_of_other_kinds(target: Path, patience: Patience, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:9")
    assert "only proxies that begin with http:// are used" in refusal("http://far.invalid/a.tgz", target, patience)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetched([file(ARCHIVE)], target, patience)


# What is given, and where it goes.


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("file:///etc/passwd", "begins with file: only http and https"),
        ("ftp://host/maps.zip", "begins with ftp"),
        ("s3://bucket/maps.zip", "begins with s3"),
        ("data:,x", "there is no file data:,x"),
        ("http:/host/maps.zip", "there is no file http:/host/maps.zip"),
        ("http://", "names no host"),
        ("http:///maps.zip", "names no host"),
        ("http://host:port/maps.zip", "its host or port can't be read"),
        ("http://a b/maps.zip", "names no host"),
        ("http://[::1/maps.zip", "its host or port can't be read"),
        ("map", "did you mean `maps`?"),
        ("Facade", "did you mean `facades`?"),
        ("horses", "Names are maps, facades"),
        ("gone/maps.zip", "there is no file gone/maps.zip"),
        ("host.org/maps.zip", "begin it with https://"),
        ("~nobody-here/maps.zip", "there is no file"),
        ("x" * 300, "there is no file"),
        (".", "is a folder, and needs no fetching"),
        ("/dev/zero", "is no plain file"),
    ],
)
def test_what_is_no_source_is_refused_with_what_there_is(target: Path, source: str, words: str) -> None:
    assert words in refusal(source, target)
    assert not target.parent.exists()


def test_a_set_goes_by_its_name_where_a_folder_has_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("maps").mkdir()
    with ArchiveServer(file(tar_of(PAIRS))) as server:
        monkeypatch.setattr(known_sets, "_PAGE", server.url(""))
        assert run("maps", Path("maps")) == 0
    assert content(Path("maps")) == PAIRS


def test_a_folder_that_is_not_empty_is_refused_before_anything_is_asked(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine.jpg").write_bytes(b"mine")
    with ArchiveServer(file(ARCHIVE)) as server:
        assert run(server.url(), tmp_path) == 2
        assert run(server.url(), tmp_path / "mine.jpg") == 2
        assert run(server.url(), tmp_path / "mine.jpg" / "in") == 2
        assert run(server.url(), Path("/proc/maps")) == 2
    errors = capsys.readouterr().err
    for words in ("is not empty", "mine.jpg is a file", "so that no folder can be made there"):
        assert words in errors
    assert server.requests == []
    assert content(tmp_path) == {"mine.jpg": b"mine"}


def test_the_working_folder_and_a_mounted_one_are_not_replaced(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("maps", Path()) == 2
    assert (
        "the folder that you are in, and can't be replaced: give a folder in it, such as pairs"
        in capsys.readouterr().err
    )


def test_the_same_command_finds_what_it_has_fetched(target: Path, patience: Patience, capsys: Capture) -> None:
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    server = fetched([file(ARCHIVE)], target, patience)
    fetch(server.url(), str(target), None)
    fetch(server.url(), str(target), digest)
    assert len(server.requests) == 1
    assert capsys.readouterr().out.count(f"nothing to do: {target} was fetched from {server.url()} before") == 2

    def refused(source: str, sha256: str | None = None) -> str:
        with pytest.raises(UserError) as caught:
            fetch(source, str(target), sha256)
        return str(caught.value)

    assert f"holds what was fetched from {server.url()}" in refused(server.url("other"))
    assert f"whose SHA-256 is {digest}, not 0000" in refused(server.url(), "0" * 64)
    (target / "val" / "1.jpg").unlink()
    assert "3 files of 0.1 MB then, 2 of 0.1 MB now" in refused(server.url())


def test_a_local_archive_is_known_by_its_content(tmp_path: Path, target: Path, capsys: Capture) -> None:
    first, moved = tmp_path / "first.tgz", tmp_path / "moved.tgz"
    first.write_bytes(ARCHIVE)
    assert run(first, target) == 0
    shutil.move(first, moved)
    assert run(moved, target) == 0
    assert "nothing to do" in capsys.readouterr().out
    moved.write_bytes(OTHER)
    assert run(moved, target) == 2
    assert f"holds what was fetched from {first}" in capsys.readouterr().err


def test_an_archive_with_another_sha256_leaves_nothing(target: Path, patience: Patience, tmp_path: Path) -> None:
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    with ArchiveServer(file(ARCHIVE)) as server:
        text = refusal(server.url(), target, patience, sha256="0" * 64)
        assert f"its SHA-256 is {digest}, not {'0' * 64}" in text
        assert not target.parent.exists()
        assert run(server.url(), target, "--sha256", digest.upper()) == 0
    local = tmp_path / "archive"
    local.write_bytes(ARCHIVE)
    refusal(local, tmp_path / "other", sha256="0" * 64)
    assert local.read_bytes() == ARCHIVE


def test_a_sha256_of_another_length_is_refused(target: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        run("maps", target, "--sha256", "abc")
    assert caught.value.code == 2
    assert "give 64 hexadecimal digits" in capsys.readouterr().err


# Stopped, killed, out of room.


@pytest.fixture
def stalled() -> Iterator[ArchiveServer]:
    """A server that falls silent in the middle, once."""
    with ArchiveServer(file(ARCHIVE, until=HALF, stalls=True), file(ARCHIVE)) as server:
        yield server


def started(server: ArchiveServer, target: Path) -> "subprocess.Popen[str]":
    """The command, once the first half has come."""
    process = start("runner.data", "fetch", server.url(), target)
    while not (found := list(target.parent.glob(f"{TEMPORARY}fetch-*/archive"))) or found[0].stat().st_size < HALF:
        assert process.poll() is None, finish(process)
        time.sleep(0.01)  # a poll
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGKILL, -9)]
)
def test_a_stopped_command_keeps_what_has_come_and_goes_on(
    stalled: ArchiveServer, target: Path, number: signal.Signals, code: int
) -> None:
    process = started(stalled, target)
    process.send_signal(number)
    output = finish(process)
    assert process.returncode == code
    assert "Traceback" not in output
    assert not target.exists()
    if number != signal.SIGKILL:
        assert f"the same command goes on with the 0.0 MB that are kept in {partial(target).parent}" in output
    assert partial(target).read_bytes() == ARCHIVE[:HALF]

    assert run(stalled.url(), target) == 0
    assert stalled.ranges == [None, f"bytes={HALF}-"]
    assert content(target) == PAIRS
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_what_a_killed_command_had_unpacked_is_made_anew(stalled: ArchiveServer, target: Path) -> None:
    process = started(stalled, target)
    process.kill()
    finish(process)
    unpacked = partial(target).parent / "unpacked" / "set"
    unpacked.mkdir(parents=True)
    (unpacked / "half.jpg").write_bytes(b"")
    assert run(stalled.url(), target) == 0
    assert content(target) == PAIRS


def test_a_second_command_on_the_same_is_refused(stalled: ArchiveServer, target: Path, capsys: Capture) -> None:
    process = started(stalled, target)
    assert run(stalled.url(), target) == 2
    assert "another command is fetching the same" in capsys.readouterr().err
    stalled.released.set()
    finish(process)
    assert process.returncode == 0
    assert content(target) == PAIRS


@pytest.mark.parametrize("room", [HALF, len(ARCHIVE) + 10])
def test_a_full_disk_stops_the_command_and_once_there_is_room_it_goes_on(target: Path, room: int) -> None:
    # The limit of a file's size stands for the end of the disk: of the archive's, or an unpacked picture's.
    files = {"train/1.jpg": bytes(2 * len(ARCHIVE)), "val/1.jpg": PAIRS["train/1.jpg"] + PAIRS["train/2.jpg"]}
    archive = tar_of(files)
    limited = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
        "from runner.data.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    with ArchiveServer(file(archive)) as server:
        command = [sys.executable, "-c", limited, "fetch", server.url(), str(target)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 75, ended.stderr
        assert "the disk is full: make room; the same command goes on with the" in ended.stderr
        assert not target.exists()
        kept = partial(target).read_bytes()
        assert kept == archive[: len(kept)]
        assert run(server.url(), target) == 0
    assert content(target) == files
    assert server.ranges == [None, f"bytes={len(kept)}-"][: len(server.requests)]
