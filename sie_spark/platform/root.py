"""Everything a run makes lies under one root: a local directory or an object-store URI."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from pyarrow import fs as arrow_fs

from sie_spark.platform.errors import PlatformError


class Root:
    """A directory that holds tables, models, checkpoints, ``mlflow.db``, artifacts and the report.

    Parameters
    ----------
    uri:
        a local path (made when missing) or an object-store URI such as ``s3://bucket/prefix``.
    """

    def __init__(self, uri: str | Path) -> None:
        parsed = urlparse(str(uri))
        self.is_local = parsed.scheme in ("", "file")
        if self.is_local:
            self.uri = str(Path(parsed.path if parsed.scheme == "file" else str(uri)).expanduser().resolve())
            try:
                Path(self.uri).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PlatformError(
                    f"--root {self.uri}: {error.strerror}", remedy="choose a directory you may write to"
                ) from None
        else:
            self.uri = str(uri).rstrip("/")

    def path(self, *parts: str) -> str:
        """A path or URI under the root."""
        return "/".join((self.uri, *parts))

    def write_bytes(self, data: bytes, *parts: str) -> str:
        """Write a file whole or not at all (local: rename; object stores publish on close)."""
        target = self.path(*parts)
        if self.is_local:
            file = Path(target)
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}.{os.getpid()}.part")
            partial.write_bytes(data)
            os.replace(partial, file)
        else:
            filesystem, name = locate(target)
            with filesystem.open_output_stream(name) as stream:
                stream.write(data)
        return target

    def exists(self, *parts: str) -> bool:
        """Whether a file is there."""
        filesystem, name = locate(self.path(*parts))
        return bool(filesystem.get_file_info(name).type != arrow_fs.FileType.NotFound)

    def read_json(self, *parts: str) -> Any:
        """What a JSON file holds; None where it is not there."""
        return json.loads(read_bytes(self.path(*parts))) if self.exists(*parts) else None

    def files(self, *parts: str) -> list[str]:
        """Names of the files right under a folder, sorted; none where the folder is not there."""
        filesystem, name = locate(self.path(*parts))
        found = filesystem.get_file_info(arrow_fs.FileSelector(name, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == arrow_fs.FileType.File)

    def entries(self, *parts: str) -> list[str]:
        """Names of the files and folders right under a folder, sorted; none where the folder is not there."""
        filesystem, name = locate(self.path(*parts))
        found = filesystem.get_file_info(arrow_fs.FileSelector(name, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def remove(self, *parts: str) -> None:
        """Remove a file or a folder with all it holds; nothing where it is not there."""
        filesystem, name = locate(self.path(*parts))
        kind = filesystem.get_file_info(name).type
        if kind == arrow_fs.FileType.Directory:
            filesystem.delete_dir(name)
        elif kind == arrow_fs.FileType.File:
            filesystem.delete_file(name)

    @contextmanager
    def lock(self, *, say: Callable[[str], None], timeout: float = 3600.0) -> Iterator[None]:
        """One job at a time on a local root: Delta on a local disk can lose commits of two processes.

        Object stores need no lock here (S3 with several writers needs Delta's log store for it).
        """
        if not self.is_local:
            yield
            return
        with open(self.path(".lock"), "a+", encoding="utf-8") as handle:
            began, told = time.monotonic(), False
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        say(f"another job holds {self.uri}; waiting for it")
                        told = True
                    if time.monotonic() - began > timeout:
                        raise PlatformError(
                            f"another job has held {self.uri} for {timeout:.0f}s",
                            remedy="wait for it, or choose another --root",
                        ) from None
                    time.sleep(0.5)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)


def locate(uri: str) -> tuple[arrow_fs.FileSystem, str]:
    """The Arrow file system and path of a file as Spark names it (``file:/..%20..``, ``s3a://``, ``dbfs:/``)."""
    parsed = urlparse(uri)
    if parsed.scheme == "":
        return arrow_fs.LocalFileSystem(), uri
    path = unquote(parsed.path)
    if parsed.scheme == "file":
        return arrow_fs.LocalFileSystem(), path
    if parsed.scheme == "dbfs":
        return arrow_fs.LocalFileSystem(), path if path.startswith("/Volumes/") else f"/dbfs{path}"
    scheme = {"s3a": "s3", "s3n": "s3", "abfss": "abfs"}.get(parsed.scheme, parsed.scheme)
    if scheme == "s3":
        filesystem, _ = arrow_fs.FileSystem.from_uri(f"s3://{parsed.netloc}")
        return filesystem, f"{parsed.netloc}{path}"
    filesystem, name = arrow_fs.FileSystem.from_uri(f"{scheme}://{parsed.netloc}{path}")
    return filesystem, name


def read_bytes(uri: str) -> bytes:
    """The bytes of a local file or an object-store URI."""
    if urlparse(uri).scheme in ("", "file"):
        return Path(urlparse(uri).path or uri).read_bytes()
    filesystem, name = locate(uri)
    with filesystem.open_input_stream(name) as stream:
        data: bytes = stream.read()
    return data
