"""What the tests share: the study's values, the real pairs, small stores of drawn patches."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import runner.storage.requests
from gan.data.patches import Patches, PatchRows, patch_batch, shard_name
from runner.storage.cache import CACHE_VARIABLE
from runner.storage.requests import RETRY_VARIABLE
from runner.storage.storage import Storage
from tests.support.bucket_runs import BucketRuns
from tests.support.commands import end_what_was_started
from tests.support.kill_points import end_what_was_begun, train_tiny
from tests.support.object_proxy import FaultProxy
from tests.support.object_server import ObjectServer, make_bucket, object_server, pointed_at
from tests.support.sharing import deal, made_once
from tests.support.wandb_log import LocalServer

ROOT = Path(__file__).parent.parent
MAPS = Path(os.environ.get("PAIRS_DIR", ROOT.parent / "shared" / "maps"))

# Whoever starts the tests in the background may have them ignore these, and the commands that they start would, too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

PEER = Path(os.environ.get("PEER_DIR", ROOT.parent / "shared" / "peers" / "pytorch-CycleGAN-and-pix2pix"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `make soak` asks for."""
    parser.addoption("--kill-seeds", type=int, default=8, metavar="N", help="runs that are killed at random places")
    parser.addoption(
        "--mutations", type=int, default=30, metavar="N", help="ways to break each shipped experiment file"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deals the tests out to the processes of pytest-xdist."""
    num_processes = getattr(config, "workerinput", {}).get("workercount", 1)
    if num_processes > 1:
        items[:] = deal(items, num_processes)


@pytest.fixture(scope="session")
def study() -> dict[str, np.ndarray]:
    """The study's own inputs and outputs."""
    with np.load(ROOT / "tests" / "data" / "seed_values.npz") as values:
        return dict(values)


@pytest.fixture(scope="session")
def maps() -> Path:
    """A folder of real pairs; only where it is absent, and not in CI, may a test do without."""
    if not MAPS.is_dir():
        assert not os.environ.get("CI"), f"CI must have the real pairs at {MAPS}"
        pytest.skip(f"no real pairs at {MAPS}: set PAIRS_DIR to a folder with train/ and val/")
    return MAPS


@pytest.fixture(scope="session")
def peer() -> Path:
    """The folder of pytorch-CycleGAN-and-pix2pix, whose weights are read and written; without it a test is left out."""
    if not PEER.is_dir():
        pytest.skip(f"no pytorch-CycleGAN-and-pix2pix at {PEER}: set PEER_DIR to a clone of it")
    return PEER


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Patches:
    """22 patches of 64 pixels from 11 pictures in three shards, smooth and all different."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("patches")
    batches = []
    for picture in range(11):
        coarse = torch.from_numpy(random.uniform(0, 255, (4, 3, 8, 8)))
        smooth = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear").round().byte().numpy()
        batches.append(patch_batch(PatchRows(f"{picture}.jpg", [(0, 0), (0, 64)], smooth[:2], smooth[2:])))
    for number in range(3):
        path = folder / shard_name("train", number)
        with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, batches[0].schema) as writer:
            for batch in batches[4 * number : 4 * number + 4]:
                writer.write_batch(batch)
    return Patches.open(folder, "train")


@pytest.fixture(autouse=True)
def no_command_stays() -> Iterator[None]:
    """What a failed test has started ends with it."""
    yield
    end_what_was_started()
    end_what_was_begun()


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """What is run in this process leaves its handling of signals as it was."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(kind) for kind in kinds]
    yield
    assert [signal.getsignal(kind) for kind in kinds] == before


@pytest.fixture(autouse=True)
def same_torch() -> None:
    """One thread, on which small tensors are quickest; the same random numbers, whichever tests ran before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a TINY run that nothing happened to."""

    def make(folder: Path) -> None:
        ended = train_tiny(folder)
        assert ended.code == 0, ended.output

    return made_once(tmp_path_factory, "undisturbed", make)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder for the test alone, in which Ray writes its access token: as on a machine that has seen no Ray."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def wandb_unconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no settings of the person who runs the tests, and a working folder of our own."""
    for name in os.environ:
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def trial(tmp_path: Path) -> Storage:
    """The folder of a trial that is to be tracked."""
    storage = Storage.open(tmp_path / "results/sweep/trials/batch_size=1,lambda_l1=0.5")
    storage.make_folder()
    return storage


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A W&B server, which wandb is told to use."""
    with LocalServer() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        yield running


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectServer]:
    """An object store for one of the test run's processes."""
    with object_server() as running:
        yield running


@pytest.fixture
def bucket(s3_server: ObjectServer) -> Iterator[str]:
    """The name of an empty bucket for the test alone."""
    from runner.storage.requests import forget_clients  # its library is loaded where a test needs it

    yield make_bucket(s3_server.endpoint)
    forget_clients()  # what one test has given up, another one tries


@pytest.fixture
def fault_proxy(s3_server: ObjectServer) -> Iterator[FaultProxy]:
    """A proxy in front of the object store, for the test alone."""
    with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def bucket_runs(tmp_path: Path, s3_server: ObjectServer, bucket: str) -> BucketRuns:
    """Runs of the TINY experiment on an empty bucket."""
    return BucketRuns(tmp_path, bucket, s3_server.endpoint, s3_server.endpoint)


@pytest.fixture
def bucket_storage(
    s3_server: ObjectServer, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Storage]:
    """A prefix of an empty bucket; local copies are the test's own."""
    with pointed_at(s3_server.endpoint, monkeypatch):
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
        yield Storage.open(f"s3://{bucket}/some/results")


@pytest.fixture
def troubled(bucket_storage: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """The same behind the proxy; requests are tried again at once, and given up after a second."""
    monkeypatch.setenv(RETRY_VARIABLE, "1")
    monkeypatch.setattr(runner.storage.requests, "_FIRST_PAUSE_S", 0.01)
    with pointed_at(fault_proxy.endpoint, monkeypatch):
        yield bucket_storage


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder, and a prefix of an empty bucket: what is true of both can be relied on."""
    if request.param == "folder":
        (tmp_path / "results").mkdir()
        return Storage.open(tmp_path / "results")
    bucket: Storage = request.getfixturevalue("bucket_storage")
    return bucket


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for the local server for as long as a busy machine may take, where no fault of it is tried."""
    monkeypatch.setattr("runner.tracking.wandb_session.NETWORK_WAIT_S", 600.0)
