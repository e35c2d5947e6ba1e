"""Runs of the TINY experiment on a bucket, each in a process of its own."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.bucket_files import FoundObject, download, list_objects, read_object, upload
from tests.support.kill_points import Begun, Run, begin_tiny, tiny_trial
from tests.support.object_server import client_environment, make_bucket

PREFIX = "results"


@dataclass(frozen=True)
class BucketRuns:
    """A bucket, and a folder with what its runs have on this machine.

    Attributes:
        folder: has the experiment's file, what was printed, and the local copies.
        server: the endpoint of the store itself.
        endpoint: that runs use: the store's, or a proxy's.
    """

    folder: Path
    bucket: str
    server: str
    endpoint: str

    def through(self, endpoint: str) -> "BucketRuns":
        """The same bucket behind a proxy."""
        return replace(self, endpoint=endpoint)

    def on_another_machine(self) -> "BucketRuns":
        """The same bucket, with a folder of its own beside this one's."""
        folder = self.folder / "another_machine"
        folder.mkdir(exist_ok=True)
        return replace(self, folder=folder)

    def of_another_bucket(self) -> "BucketRuns":
        """An empty bucket, with a folder of its own beside this one's."""
        folder = self.folder / "elsewhere"
        folder.mkdir()
        return replace(self, folder=folder, bucket=make_bucket(self.server))

    @property
    def storage(self) -> str:
        """What --storage gets."""
        return f"s3://{self.bucket}/{PREFIX}"

    @property
    def environment(self) -> dict[str, str]:
        """With which a command finds the bucket, and puts local copies into our folder."""
        return {**client_environment(self.endpoint), "PIX2PIX_CACHE": str(self.folder / "cache")}

    def train(self, *options: str, environment: Mapping[str, str] | None = None, **how: Any) -> Run:
        """One start of the command, to its end; see begin_tiny."""
        return self.begin(*options, environment=environment, **how).finish()

    def begin(self, *options: str, environment: Mapping[str, str] | None = None, **how: Any) -> Begun:
        """One start of the command; see begin_tiny."""
        return begin_tiny(
            self.folder, *options, storage=self.storage, environment=self.environment | dict(environment or {}), **how
        )

    def put(self, folder: Path, under: str = "") -> None:
        """Copies a folder into the storage with a plain tool."""
        upload(folder, self.server, self.bucket, f"{PREFIX}/{under}".rstrip("/"))

    def fetch(self) -> Path:
        """The folder `results` of our folder, with all that is in the storage now, as a plain tool copies it."""
        shutil.rmtree(self.folder / "results", ignore_errors=True)
        return download(self.server, self.bucket, PREFIX, self.folder / "results")

    def fetch_trial(self) -> Path:
        """The folder of the experiment's trial, with what is in the storage now."""
        self.fetch()
        return tiny_trial(self.folder)

    def objects(self) -> dict[str, FoundObject]:
        """What is in the storage, without its contents."""
        found = list_objects(self.server, self.bucket, f"{PREFIX}/")
        return {key.removeprefix(f"{PREFIX}/"): known for key, known in found.items()}

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        return read_object(self.server, self.bucket, f"{PREFIX}/{name}")
