"""What every storage promises: the same tests for a folder and for a bucket."""

import contextlib
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.errors import DataError
from runner.storage.bucket import Bucket
from runner.storage.folder import Folder
from runner.storage.storage import Changed, NewFolder, Storage
from tests.support.other_process import as_another_process

ODD_NAMES = [
    "a b",
    "batch_size=1,lambda_l1=0.5",
    "größe",
    "大きさ",
    "100%",
    "a%20b",
    "a+b&c",
    "what?#1",
    "[x]*~'\"",
    "a:b@c",
    ".hidden",
    "x" * 200,
]


# Objects.


def test_of_two_that_create_an_object_one_does_even_if_both_write_the_same(storage: Storage) -> None:
    assert storage.create("lock", b"first")
    assert not storage.create("lock", b"second")
    assert not storage.create("lock", b"first")
    assert storage.read("lock") == b"first"
    assert storage.names() == ["lock"]


def test_of_many_that_create_an_object_at_once_one_does(storage: Storage) -> None:
    ready = threading.Barrier(8)
    created: list[int] = []

    def create(number: int) -> None:
        ready.wait(10)
        if storage.create("lock", b"%d" % number):
            created.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1
    assert storage.read("lock") == b"%d" % created[0]


def test_an_object_is_replaced_where_it_has_the_tag_that_was_seen_last(storage: Storage) -> None:
    storage.write("lease", b"1")
    content, first = storage.read_tagged("lease")
    assert content == b"1"
    second = storage.replace("lease", b"2", first)
    assert storage.read_tagged("lease") == (b"2", second)
    with pytest.raises(Changed, match="lease"):
        storage.replace("lease", b"3", first)
    assert storage.replace("lease", b"3", second) != second
    assert storage.read("lease") == b"3"


def test_what_is_gone_or_was_made_again_is_not_replaced(storage: Storage) -> None:
    storage.create("lease", b"1")
    _, tag = storage.read_tagged("lease")
    storage.remove("lease")
    with pytest.raises(Changed):
        storage.replace("lease", b"2", tag)
    assert not storage.exists("lease")
    storage.create("lease", b"another")
    with pytest.raises(Changed):
        storage.replace("lease", b"2", tag)
    assert storage.read("lease") == b"another"


def test_of_many_that_replace_the_same_object_one_does(storage: Storage) -> None:
    storage.write("lease", b"start")
    _, tag = storage.read_tagged("lease")
    ready = threading.Barrier(4)
    replaced: list[int] = []

    def replace(number: int) -> None:
        ready.wait(10)
        with contextlib.suppress(Changed):
            storage.replace("lease", b"%d" % number, tag)
            replaced.append(number)

    threads = [threading.Thread(target=replace, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replaced) == 1
    assert storage.read("lease") == b"%d" % replaced[0]


def test_a_whole_object_takes_the_place_of_the_one_before_whoever_wrote_that(storage: Storage) -> None:
    storage.write("file", b"old")
    with as_another_process():
        storage.write("file", memoryview(b"other"))
    storage.write("file", b"new")
    assert storage.read_text("file") == "new"
    with storage.writing("file") as stream:
        stream.write(b"strea")
        assert storage.read("file") == b"new"
        stream.write(b"med")
    assert storage.read("file") == b"streamed"
    assert storage.names() == ["file"]


def test_a_stream_that_breaks_off_leaves_the_older_object_and_nothing_else(storage: Storage) -> None:
    storage.write("file", b"old")
    for name in ("file", "other"):
        with pytest.raises(ZeroDivisionError), storage.writing(name) as stream:
            stream.write(b"half")
            raise ZeroDivisionError
    assert storage.names() == ["file"]
    assert storage.read("file") == b"old"


def test_a_large_object_is_whole(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.storage.bucket._IN_MEMORY_BYTES", 2**20)
    content = bytes(range(256)) * (7 << 12)  # 7 MiB: a bucket takes it in parts
    with storage.writing("large") as stream:
        stream.write(content)
    assert storage.size("large") == len(content)
    assert storage.read("large") == content


# Logs.


def test_a_log_is_read_from_where_the_last_reading_ended(storage: Storage) -> None:
    storage.append("log", b"one\n")
    first, log = storage.read_from("log", 0)
    assert first == b"one\n"
    assert storage.read_from("log", 4) == (b"", log)
    storage.append("log", b"two\n", synced=False)
    assert storage.read_from("log", 4) == (b"two\n", log)
    assert storage.read_from("log", 1) == (b"ne\ntwo\n", log)
    assert storage.read_from("log", 8) == (b"", log)


def test_a_log_that_was_replaced_is_another_one_whatever_its_length(storage: Storage) -> None:
    before = ""
    for content in (b"1234", b"1234", b"12", b"12345678", b""):
        storage.write("log", content)
        found, log = storage.read_from("log", 0)
        assert found == content
        assert log != before
        assert storage.read_from("log", len(content)) == (b"", log)
        before = log


@pytest.mark.parametrize("content", [b"", b"1", b"123"])
def test_of_a_log_that_is_shorter_now_nothing_is_read_and_it_is_another_one(storage: Storage, content: bytes) -> None:
    storage.append("log", b"12345678")
    _, log = storage.read_from("log", 0)
    storage.write("log", content)
    found, other = storage.read_from("log", 8)
    assert found == b""
    assert other != log


def test_a_log_that_was_cut_back_grows_again_as_another_one(storage: Storage) -> None:
    storage.append("log", b"one\ntwo\n")
    _, log = storage.read_from("log", 0)
    storage.write("log", b"one\n")
    _, other = storage.read_from("log", 0)
    storage.append("log", b"three\n")
    assert storage.read_from("log", 0) == (b"one\nthree\n", other)
    assert other != log


def test_two_processes_may_add_to_a_log_the_same_lines_too(storage: Storage) -> None:
    storage.append("log", b"1\n")
    with as_another_process():
        storage.append("log", b"2\n")
    storage.append("log", b"2\n")
    with as_another_process():
        storage.append("log", b"3\n")
        storage.append("log", b"4\n")
    storage.append("log", b"4\n")
    assert storage.read("log") == b"1\n2\n2\n3\n4\n4\n"


def test_of_many_lines_that_are_added_at_once_none_is_lost(storage: Storage) -> None:
    ready = threading.Barrier(3)

    def add() -> None:
        ready.wait(10)
        for _ in range(5):
            storage.append("log", b"the same\n", synced=False)

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read("log") == b"the same\n" * 15


# What there is.


def tree(storage: Storage) -> Storage:
    """Two objects, and two folders with three."""
    storage.make_folder("folder/inner")
    for name in ("b", "a.txt", "folder/c", "folder/inner/d"):
        storage.write(name, b"1234")
    storage.make_folder("folders")
    storage.write("folders/e", b"12")
    return storage


def test_names_sizes_and_what_exists(storage: Storage) -> None:
    tree(storage)
    assert storage.names() == ["a.txt", "b", "folder", "folders"]
    assert storage.names("folder") == ["c", "inner"]
    assert storage.at("folder").names("inner") == ["d"]
    assert storage.names("nothing") == storage.at("folder/nothing").names() == []
    assert storage.sizes() == {"a.txt": 4, "b": 4}
    assert storage.at("folder/inner").sizes() == {"d": 4}
    assert storage.at("nothing").sizes() == {}
    assert [storage.exists(name) for name in ("b", "folder", "folder/inner/d", "fold", "nothing", "folder/a")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert storage.exists()
    assert not storage.at("nothing").exists()
    assert storage.size("folder/c") == 4
    assert (storage.total_bytes(), storage.at("folder").total_bytes(), storage.at("nothing").total_bytes()) == (
        18,
        8,
        0,
    )
    assert storage.free_bytes() > 0
    assert storage.nearest().exists()


def test_what_is_not_there_is_a_missing_file(storage: Storage) -> None:
    reads: list[Callable[[str], object]] = [
        storage.read,
        storage.read_tagged,
        storage.size,
        lambda name: storage.read_from(name, 0),
        lambda name: storage.read_from(name, 10),
        lambda name: storage.set_aside(name, "new"),
    ]
    for read in reads:
        with pytest.raises(FileNotFoundError, match="No such file or directory"):
            read("nothing")
    assert storage.names() == []


def test_removing_takes_an_object_or_a_folder_and_no_neighbour(storage: Storage) -> None:
    tree(storage)
    storage.remove("folder/inner")
    assert storage.names("folder") == ["c"]
    storage.remove("folder")
    storage.remove("a.txt")
    storage.remove("nothing")
    assert storage.names() == ["b", "folders"]
    assert storage.read("folders/e") == b"12"
    storage.at("folders").remove("")
    storage.remove("b")
    assert storage.names() == []


def test_what_was_removed_can_be_written_again(storage: Storage) -> None:
    storage.append("log", b"1\n")
    storage.write("file", b"1")
    for name in ("log", "file"):
        storage.remove(name)
    storage.append("log", b"2\n")
    with storage.exclusive():
        storage.write("file", b"2")
    assert (storage.read("log"), storage.read("file")) == (b"2\n", b"2")


def test_an_object_or_a_folder_is_set_aside_with_all_that_is_in_it(storage: Storage) -> None:
    tree(storage)
    storage.set_aside("folder", "damaged_folder")
    storage.set_aside("b", "damaged_b")
    assert storage.names() == ["a.txt", "damaged_b", "damaged_folder", "folders"]
    assert storage.read("damaged_folder/inner/d") == storage.read("damaged_b") == b"1234"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_may_have_any_letters(storage: Storage, tmp_path: Path, name: str) -> None:
    folder = storage.at(name)
    folder.make_folder()
    assert folder.create(name, b"1")
    folder.append(name, b"2")
    assert storage.names() == folder.names() == [name]
    assert folder.sizes() == {name: 2}
    assert folder.read_from(name, 1)[0] == b"2"
    _, tag = folder.read_tagged(name)
    folder.replace(name, b"three", tag)
    assert (folder.local_copy(name).read_bytes(), folder.local_copy(name).name) == (b"three", name)
    assert (storage.local_copy() / name / name).read_bytes() == b"three"
    folder.set_aside(name, "aside")
    assert folder.names() == ["aside"]
    assert folder.name == name
    storage.remove(name)
    assert storage.names() == []


# Where it is.


def test_a_folder_inside_leads_back(storage: Storage) -> None:
    inner = storage.at("experiment").at("trials/trial 1")
    inner.make_folder()
    inner.write("file", b"1")
    assert inner.name == "trial 1"
    assert inner.above(3) == storage
    assert inner.above(1).names() == ["trial 1"]
    assert inner.at("") == inner
    assert storage.name == "results"
    assert storage.shown.endswith("results")
    assert Storage.open(inner.root).read("file") == b"1"
    assert Storage.open(storage.root + "/") == storage


def test_a_storage_goes_to_another_process_without_what_is_secret(storage: Storage) -> None:
    storage.write("file", b"1")
    pickled = pickle.dumps(storage.at("inner").above(1))
    assert pickle.loads(pickled).read("file") == b"1"
    assert b"no-secret" not in pickled


# Folders that appear whole.


def fill(new: NewFolder, content: bytes) -> None:
    """Writes two files of the writer's own and the last one, which says what they are called."""
    for name in ("a.bin", "b.bin"):
        with new.writing(name) as stream:
            stream.write(content)
    new.finish(b"%s %s %s" % (content, new.path_of("a.bin").encode(), new.path_of("b.bin").encode()))


def whole(storage: Storage, name: str) -> bytes:
    """What a folder holds; all of its files are of one writing, and there are no others."""
    folder = storage.at(name)
    content, *files = folder.read("last").split()
    assert folder.names() == sorted(["last", *(file.decode() for file in files)])
    assert [folder.read(file.decode()) for file in files] == [content, content]
    return content


def write_whole(storage: Storage, content: bytes) -> None:
    with storage.new_folder("new", "last") as new:
        fill(new, content)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    raise PermissionError("another has it")
    yield


def test_a_new_folder_appears_whole_and_another_one_takes_its_place(storage: Storage) -> None:
    with storage.new_folder("new", "last") as new:
        fill(new, b"1")
        assert not storage.exists("new/last")
    assert whole(storage, "new") == b"1"
    with storage.new_folder("new", "last") as new:
        fill(new, b"2")
        assert storage.read("new/last").startswith(b"1")
    assert whole(storage, "new") == b"2"
    storage.finish_replacements()
    storage.remove_unfinished("last")
    assert storage.names() == ["new"]
    assert not storage.is_unfinished("new", "last")


def test_a_folder_that_must_not_be_replaced_is_not(storage: Storage) -> None:
    write_whole(storage, b"1")
    with pytest.raises(Changed, match="new is there already"), storage.new_folder("new", "last", replaces=False) as new:
        fill(new, b"2")
    assert whole(storage, "new") == b"1"
    assert storage.names() == ["new"]


@pytest.mark.parametrize("error", [DataError, ZeroDivisionError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("is_replacing", [False, True])
def test_an_error_leaves_an_older_folder_as_it_was_and_nothing_of_its_own(
    storage: Storage, error: type[BaseException], is_replacing: bool
) -> None:
    if is_replacing:
        write_whole(storage, b"1")
    with pytest.raises(error), storage.new_folder("new", "last") as new:
        fill(new, b"2")
        raise error
    if is_replacing:
        assert whole(storage, "new") == b"1"
    assert storage.names() == (["new"] if is_replacing else [])


@pytest.mark.parametrize("is_replacing", [False, True])
def test_whoever_is_refused_at_the_end_leaves_an_older_folder_as_it_was(storage: Storage, is_replacing: bool) -> None:
    if is_replacing:
        write_whole(storage, b"1")
    with pytest.raises(PermissionError), storage.new_folder("new", "last", refusing) as new:
        fill(new, b"2")
    if is_replacing:
        assert whole(storage, "new") == b"1"
    assert storage.names() == (["new"] if is_replacing else [])


def test_what_makes_it_count_is_written_while_it_is_permitted(storage: Storage) -> None:
    seen = []

    @contextlib.contextmanager
    def permitted() -> Iterator[None]:
        seen.append(storage.exists("new/last"))
        yield
        seen.append(storage.exists("new/last"))

    with storage.new_folder("new", "last", permitted) as new:
        fill(new, b"1")
    assert seen == [False, True]


@pytest.mark.parametrize("replaces", [True, False])
@pytest.mark.parametrize("content", [b"1", b"2"])
def test_of_two_writers_of_the_same_folder_one_is_whole_and_nothing_of_the_other_is_left(
    storage: Storage, replaces: bool, content: bytes
) -> None:
    with contextlib.suppress(Changed), storage.new_folder("new", "last", replaces=replaces) as slow:
        with slow.writing("a.bin") as stream:
            stream.write(b"half")
        with storage.new_folder("new", "last", replaces=replaces) as quick:
            fill(quick, b"1")
        assert whole_of_last(storage) == b"1"
        fill(slow, content)
    assert whole(storage, "new") in {b"1", content}
    assert storage.names() == ["new"]


def whole_of_last(storage: Storage) -> bytes:
    """What the folder holds while another writer is at it."""
    content, *files = storage.read("new/last").split()
    assert [storage.read(f"new/{file.decode()}") for file in files] == [content, content]
    return content


def test_files_that_are_the_same_whoever_writes_them_may_go_into_the_place_itself(storage: Storage) -> None:
    with pytest.raises(Changed), storage.new_folder("new", "last", replaces=False) as slow:
        slow.place.write("shard", b"same")
        with storage.new_folder("new", "last", replaces=False) as quick:
            quick.place.write("shard", b"same")
            quick.finish(b"meta")
        slow.finish(b"meta")
    assert storage.at("new").sizes() == {"last": 4, "shard": 4}


def test_whoever_finds_the_data_bad_leaves_no_shared_files_but_those_of_a_folder_that_counts(storage: Storage) -> None:
    with pytest.raises(DataError), storage.new_folder("bad", "last", replaces=False) as new:
        new.place.write("shard", b"same")
        raise DataError
    assert storage.names() == []
    with pytest.raises(DataError), storage.new_folder("new", "last", replaces=False) as slow:
        slow.place.write("shard", b"same")
        with storage.new_folder("new", "last", replaces=False) as quick:
            quick.place.write("shard", b"same")
            quick.finish(b"meta")
        raise DataError
    assert storage.at("new").sizes() == {"last": 4, "shard": 4}


def test_a_broken_off_folder_does_not_count(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill: nothing is cleaned up."""
    monkeypatch.setattr(Bucket, "_remove_what_is_new", lambda *_, **__: None)
    monkeypatch.setattr(Folder, "_discard", lambda *_: None)
    with pytest.raises(KeyboardInterrupt), storage.new_folder("new", "last") as new:
        fill(new, b"1")
        raise KeyboardInterrupt
    assert all(storage.is_unfinished(name, "last") for name in storage.names())


# Between processes.


def test_whoever_does_not_own_the_folder_does_not_come_in(storage: Storage) -> None:
    def refuse() -> None:
        raise PermissionError("another has it")

    with pytest.raises(PermissionError, match="another has it"), storage.exclusive(refuse):
        pytest.fail("it must not come in")
    with storage.exclusive():
        storage.write("file", b"1")


def test_the_owner_writes_and_reads_as_elsewhere(storage: Storage) -> None:
    checks = []
    with storage.exclusive(lambda: checks.append(1)):
        for content in (b"1", b"2"):
            storage.write("file", content)
            storage.append("log", content)
            with storage.writing("stream") as stream:
                stream.write(content)
    assert checks
    assert [storage.read(name) for name in ("file", "log", "stream")] == [b"2", b"12", b"2"]
    with storage.exclusive(), as_another_process():  # another machine's process that has owned it meanwhile
        storage.write("file", b"3")
        storage.append("log", b"3")
    with storage.exclusive():
        storage.write("file", b"4")
        storage.append("log", b"4")
    assert [storage.read(name) for name in ("file", "log")] == [b"4", b"1234"]


# On this machine.


def test_a_local_copy_has_the_same_files(storage: Storage) -> None:
    tree(storage)
    assert storage.local_copy("folder/c").read_bytes() == b"1234"
    copy = storage.local_copy("folder")
    assert sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*")) == ["c", "inner", "inner/d"]
    assert (storage.local_copy() / "folder/inner/d").read_bytes() == b"1234"
    storage.write("folder/c", b"another")
    storage.remove("folder/inner")
    assert storage.local_copy("folder/c").read_bytes() == b"another"
    assert [path.name for path in storage.local_copy("folder").iterdir() if path.is_file()] == ["c"]


def test_of_what_is_not_there_the_local_copy_is_a_path_to_nothing(storage: Storage) -> None:
    storage.write("file", b"1")
    assert storage.local_copy("file").exists()
    storage.remove("file")
    assert not storage.local_copy("file").exists()
    assert not storage.local_copy("nothing").exists()


def test_what_a_library_has_written_itself_is_kept(storage: Storage) -> None:
    folder = storage.at("trial").scratch("events")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inner").mkdir()
    (folder / "inner/one").write_bytes(b"1")
    (folder / "two").write_bytes(b"2")
    storage.at("trial").keep_scratch("events")
    assert storage.read("trial/events/inner/one") == b"1"
    (folder / "two").unlink()
    (folder / "inner/one").write_bytes(b"11")
    storage.at("trial").keep_scratch("events")
    assert storage.at("trial/events").total_bytes() == 2
    assert storage.exists("trial/events/inner/one")
    assert not storage.exists("trial/events/two")
    assert storage.at("trial").scratch("events") == folder


def test_a_check_writes_and_leaves_nothing(storage: Storage) -> None:
    storage.check_writable()
    storage.at("not/there/yet").check_writable()
    assert storage.names() == []
