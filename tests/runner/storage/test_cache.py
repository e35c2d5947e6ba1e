"""Local copies of what is in a bucket: found again, verified, shared by processes, bounded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import runner.storage.cache
from runner.errors import StorageError
from runner.storage.storage import Storage, is_unreachable
from tests.support.damage import FILE_DAMAGES
from tests.support.object_proxy import FaultProxy, on
from tests.support.object_server import ROOT

CONTENT = {"one": b"1" * 1000, "two": b"2" * 1000, "inner/three": b"3" * 1000}


@pytest.fixture
def folder(troubled: Storage) -> Storage:
    """A folder of three objects, behind the proxy."""
    folder = troubled.at("folder")
    for name, content in CONTENT.items():
        folder.write(name, content)
    return folder


@pytest.fixture(autouse=True)
def nothing_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.storage.cache, "_in_use", {})


def give_up_what_is_in_use() -> None:
    """As the end of this process would."""
    while runner.storage.cache._in_use:
        os.close(runner.storage.cache._in_use.popitem()[1])


def fetched(proxy: FaultProxy, storage: Storage, name: str = "") -> tuple[Path, int]:
    """A local copy, and how many objects were fetched for it."""
    proxy.clear()
    copy = storage.local_copy(name)
    return copy, proxy.count(on("get", "*results*"))


def content_of(copy: Path) -> dict[str, bytes]:
    return {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_a_copy_is_found_again_by_the_next_run(folder: Storage, fault_proxy: FaultProxy) -> None:
    copy, num_fetched = fetched(fault_proxy, folder)
    assert (content_of(copy), num_fetched) == (CONTENT, 3)
    give_up_what_is_in_use()
    assert fetched(fault_proxy, Storage.open(folder.root)) == (copy, 0)

    file, num_fetched = fetched(fault_proxy, folder, "one")
    assert (file.name, file.read_bytes(), num_fetched) == ("one", CONTENT["one"], 1)
    assert fetched(fault_proxy, folder, "one") == (file, 0)


@pytest.mark.parametrize("how", FILE_DAMAGES)
def test_what_is_damaged_in_a_copy_is_fetched_again(folder: Storage, fault_proxy: FaultProxy, how: str) -> None:
    copy = folder.local_copy()
    FILE_DAMAGES[how](copy / "two")
    assert fetched(fault_proxy, folder) == (copy, 1)
    assert content_of(copy) == CONTENT
    assert fetched(fault_proxy, folder) == (copy, 0)


@pytest.mark.parametrize("index", [b"", b"[]", b'{"one": 1}', b'{"one": {}}'])
def test_without_a_good_index_all_is_fetched_again(folder: Storage, fault_proxy: FaultProxy, index: bytes) -> None:
    copy = folder.local_copy()
    (copy.parent / "index.json").write_bytes(index)
    assert fetched(fault_proxy, folder) == (copy, 3)
    assert content_of(copy) == CONTENT


def test_what_others_have_left_in_a_copy_is_no_part_of_it(folder: Storage) -> None:
    copy = folder.local_copy()
    (copy / ".tmp-broken-off").write_bytes(b"half")
    (copy / "inner/more").write_bytes(b"more")
    assert content_of(folder.local_copy()) == CONTENT


def test_an_object_that_has_changed_is_fetched_again_and_whoever_reads_the_older_one_goes_on(
    folder: Storage, fault_proxy: FaultProxy
) -> None:
    copy = folder.local_copy()
    with open(copy / "two", "rb") as reading:
        folder.write("two", b"3" * 1000)
        assert fetched(fault_proxy, folder) == (copy, 1)
        assert reading.read() == CONTENT["two"]
    assert content_of(copy) == CONTENT | {"two": b"3" * 1000}


def test_an_object_that_is_gone_is_in_the_copy_no_more(folder: Storage, fault_proxy: FaultProxy) -> None:
    copy = folder.local_copy()
    folder.remove("two")
    assert fetched(fault_proxy, folder) == (copy, 0)
    assert content_of(copy) == {name: CONTENT[name] for name in ("one", "inner/three")}


def test_a_folder_may_take_an_objects_place_and_an_object_a_folders(folder: Storage) -> None:
    folder.local_copy()
    folder.remove("one")
    folder.remove("inner")
    folder.write("one/more", b"1")
    folder.write("inner", b"2")
    assert content_of(folder.local_copy()) == {"two": CONTENT["two"], "one/more": b"1", "inner": b"2"}


def test_an_object_that_goes_while_it_is_fetched_is_a_missing_file(folder: Storage, fault_proxy: FaultProxy) -> None:
    fault_proxy.status("AccessDenied", on("get", "*/two"))
    with pytest.raises(OSError, match=r"get of s3://.*/two failed") as refused:
        folder.local_copy()
    assert is_unreachable(refused.value)
    fault_proxy.remove_all()
    fault_proxy.status("NoSuchKey", on("get", "*/two"))
    with pytest.raises(FileNotFoundError, match="two"):
        folder.local_copy()
    fault_proxy.remove_all()
    assert content_of(folder.local_copy()) == CONTENT


def test_an_answer_that_breaks_off_is_fetched_again_from_its_beginning(
    folder: Storage, fault_proxy: FaultProxy
) -> None:
    folder.write("large", bytes(range(256)) * (9 << 12))
    rule = fault_proxy.cut("answer", on("get", "*/large"), times=6)  # of those, the library itself asks for the rest
    assert folder.local_copy("large").read_bytes() == bytes(range(256)) * (9 << 12)
    assert rule.hits == 6


COPYING = """
import sys
from runner.storage.storage import Storage
copy = Storage.open(sys.argv[1]).local_copy()
print(copy, sum(path.stat().st_size for path in copy.rglob("*") if path.is_file()))
"""


def test_of_two_processes_that_want_the_same_copy_one_fetches_it(folder: Storage, fault_proxy: FaultProxy) -> None:
    fault_proxy.clear()
    with fault_proxy.hold(on("get", "*results*")) as fetching:
        both = [
            subprocess.Popen([sys.executable, "-c", COPYING, folder.root], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        fetching.wait(3)
        fault_proxy.wait_for(on("list"), 2)  # the other one knows by now what it wants
    outputs = {process.communicate(timeout=60)[0] for process in both}
    assert outputs == {f"{folder.local_copy()} 3000\n"}
    assert fault_proxy.count(on("get", "*results*")) == 3


# Bounds.


def copies_of(troubled: Storage, *names: str) -> list[Path]:
    """Copies of folders of 1000 bytes, the first of them used longest ago, and none in use."""
    copies = []
    for age, name in enumerate(reversed(names)):
        troubled.write(f"{name}/file", bytes(1000))
        copies.insert(0, troubled.local_copy(name))
        used = copies[0].parent / "used"
        os.utime(used, (used.stat().st_mtime - 100 * age,) * 2)
    give_up_what_is_in_use()
    return copies


def test_what_was_not_used_for_longest_goes_first(troubled: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    oldest, older, newer = copies_of(troubled, "oldest", "older", "newer")
    monkeypatch.setattr(runner.storage.cache, "MAX_BYTES", 3500)
    troubled.write("new/file", bytes(1000))
    new = troubled.local_copy("new")
    assert [copy.exists() for copy in (oldest, older, newer, new)] == [False, True, True, True]


def test_what_was_used_again_is_not_the_oldest_any_more(troubled: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    oldest, older = copies_of(troubled, "oldest", "older")
    troubled.local_copy("oldest")
    give_up_what_is_in_use()
    monkeypatch.setattr(runner.storage.cache, "MAX_BYTES", 2500)
    troubled.write("new/file", bytes(1000))
    troubled.local_copy("new")
    assert (oldest.exists(), older.exists()) == (True, False)


def test_what_a_process_uses_stays_though_the_bound_is_broken(
    troubled: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, older = copies_of(troubled, "oldest", "older")
    in_use = subprocess.Popen(
        [sys.executable, "-c", COPYING + "sys.stdout.flush(); input()", troubled.at("oldest").root],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert in_use.stdout is not None
    in_use.stdout.readline()
    monkeypatch.setattr(runner.storage.cache, "MAX_BYTES", 100)
    troubled.write("new/file", bytes(1000))
    new = troubled.local_copy("new")
    assert [copy.exists() for copy in (oldest, older, new)] == [True, False, True]
    in_use.communicate("\n", timeout=60)
    troubled.write("new/file", bytes(999))
    troubled.local_copy("new")
    assert [copy.exists() for copy in (oldest, new)] == [False, True]


def test_a_copy_that_was_deleted_under_a_process_that_used_it_is_made_again_and_kept(
    folder: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = folder.local_copy()
    for path in (*(copy / name for name in CONTENT), *(copy.parent / name for name in ("used", "index.json"))):
        path.unlink()
    (copy.parent / "used").touch()  # by another process, which makes it again
    assert fetched(fault_proxy, folder) == (copy, 3)
    monkeypatch.setattr(runner.storage.cache, "MAX_BYTES", 100)
    folder.above(1).write("new/file", bytes(1000))
    folder.above(1).local_copy("new")
    assert content_of(copy) == CONTENT


# A cache folder that takes nothing.


@pytest.mark.parametrize("is_given", [True, False])
def test_a_cache_folder_that_cant_be_written_is_named(
    bucket_storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_given: bool
) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file/cache")
    monkeypatch.setenv("PIX2PIX_CACHE", place)
    storage = Storage.open(bucket_storage.root, place if is_given else None)
    storage.write("file", b"1")
    said = rf"the cache folder {place} can't be written \(Not a directory\).*--cache"
    for work in (storage.check_writable, storage.local_copy, lambda: storage.local_copy("file")):
        with pytest.raises(StorageError, match=said):
            work()


def test_without_a_home_folder_one_must_be_given(
    bucket_storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PIX2PIX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    bucket_storage.write("file", b"1")
    assert Storage.open(bucket_storage.root).local_copy("file").is_relative_to(tmp_path / ".cache/pix2pix-runner")

    def nowhere() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(StorageError, match=r"there is no home folder for local copies .* --cache"):
        Storage.open(bucket_storage.root).local_copy("file")


def test_a_full_cache_folder_is_named_and_no_half_file_stays(bucket_storage: Storage, tmp_path: Path) -> None:
    """In a process of its own, which may not write files of more than 1500 bytes."""
    bucket_storage.write("folder/small", bytes(1000))
    bucket_storage.write("folder/large", bytes(2000))
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
    program = (
        "try:\n    Storage.open(sys.argv[1]).local_copy()\nexcept Exception as error:\n"
        "    from runner.storage.storage import is_full\n    print(type(error).__name__, is_full(error), error)\n"
    )
    imports = "import sys\nfrom runner.storage.storage import Storage\n"
    ran = subprocess.run(
        [sys.executable, "-c", limited + imports + program, bucket_storage.at("folder").root],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    cache = tmp_path / "cache"
    assert ran.stdout == (
        f"CacheError True the cache folder {cache} can't take a copy of {bucket_storage.at('folder').root} of "
        "3,000 bytes (File too large): make room, or give another folder with --cache.\n"
    )
    assert [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 1000] == []
    assert list(cache.rglob(".tmp-*")) == []
