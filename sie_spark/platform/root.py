"""Everything a run makes lies under one root: a local directory or an object-store URI."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from pyarrow import fs as arrow_fs

from sie_spark.platform.errors import PlatformError

# scheme, authority and path as Hadoop takes a text apart: what follows them is no query and has no %-codes
_PATH = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):(?=/))?(?://([^/]*))?(.*)", flags=re.DOTALL)
# a pattern of names to Spark's readers, the end of a name in SQL, a variable in SQL, no letter at all
_UNFIT = re.compile(r"[*?\[\]{}\\`\x00-\x1f\x7f]")
_CODE = re.compile(r"%[0-9A-Fa-f]{2}")  # MLflow's database library reads it as the letter it stands for


class Root:
    """A directory that holds tables, models, checkpoints, ``mlflow.db``, artifacts and the report.

    Parameters
    ----------
    uri:
        a local path or an object-store URI such as ``s3://bucket/prefix``.
    make:
        whether a local directory is made when it is missing.
    option:
        what the user gave it as, for errors.

    Raises
    ------
    PlatformError
        for a name that Spark or MLflow would take for another one, or a directory that cannot be made.
    """

    def __init__(self, uri: str | Path, *, make: bool = True, option: str = "--root") -> None:
        self.uri = str(uri).rstrip("/")
        scheme, _, path = split(str(uri))
        self.is_local = scheme in ("", "file")
        if self.is_local:
            folder = Path(unquote(path) if scheme else uri)
            try:
                self.uri = str(folder.expanduser().resolve())
                _check_name(self.uri, option)
                if make:
                    Path(self.uri).mkdir(parents=True, exist_ok=True)
            except (OSError, RuntimeError) as error:  # a home that is not known, a circle of links
                raise PlatformError(
                    f"{option} {self.uri}: {getattr(error, 'strerror', None) or error}",
                    remedy="choose a directory you may write to",
                ) from None
        _check_name(self.uri, option)

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
        return _is_there(*locate(self.path(*parts)))

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
        return _names_in(*locate(self.path(*parts)))

    def remove(self, *parts: str) -> None:
        """Remove a file or a folder with all it holds; nothing where it is not there."""
        filesystem, name = locate(self.path(*parts))
        kind = filesystem.get_file_info(name).type
        if kind == arrow_fs.FileType.Directory:
            filesystem.delete_dir(name)
        elif kind == arrow_fs.FileType.File:
            filesystem.delete_file(name)

    @contextmanager
    def trial(self) -> Iterator[Root]:
        """A root under this one to try things out in; afterwards nothing of it is left, nor what was made above it.

        Arrow may leave the empty object that stands for a folder in S3, where this root held something before.
        """
        filesystem, place = locate(self.path(f".trial-{os.getpid()}"))
        above = [parent for parent in _parents(place) if not _is_there(filesystem, parent)]
        try:
            yield Root(self.path(f".trial-{os.getpid()}"), make=False)
        finally:
            if _is_there(filesystem, place):
                filesystem.delete_dir(place)
            for parent in above:  # made for the trial; another job may have begun to use it since
                if self.is_local:
                    with suppress(OSError):
                        os.rmdir(parent)
                elif _is_there(filesystem, parent) and not _names_in(filesystem, parent):
                    filesystem.delete_dir(parent)

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


def _is_there(filesystem: arrow_fs.FileSystem, name: str) -> bool:
    return bool(filesystem.get_file_info(name).type != arrow_fs.FileType.NotFound)


def _names_in(filesystem: arrow_fs.FileSystem, name: str) -> list[str]:
    found = filesystem.get_file_info(arrow_fs.FileSelector(name, allow_not_found=True))
    return sorted(info.base_name for info in found)


def _parents(name: str) -> list[str]:
    """The folders a name lies in, the nearest first; a bucket's own name is among them."""
    return [str(parent) for parent in PurePosixPath(name).parents if str(parent) not in (".", "/")]


def _check_name(uri: str, option: str) -> None:
    """Refuse what would not be one and the same place to Spark, SQL, Arrow and MLflow."""
    if unfit := _UNFIT.search(uri):
        why = f"{unfit[0]!r}, which Spark and SQL do not take for a letter of a name"
    elif unfit := _CODE.search(uri):
        why = f"'{unfit[0]}', which MLflow reads as {unquote(unfit[0])!r}"
    else:
        return
    raise PlatformError(
        f"{option} {uri!r} has {why}",
        remedy="choose a name without * ? [ ] { } \\ `, control characters and %-codes; any other letter will do",
    )


def split(path: str) -> tuple[str, str, str]:
    """Scheme, authority and path of a path or URI as Spark takes it: letter by letter.

    >>> split("s3a://bucket/exp #1/50%/x")
    ('s3a', 'bucket', '/exp #1/50%/x')
    >>> split("runs/at 12:30/x")
    ('', '', 'runs/at 12:30/x')
    """
    found = _PATH.fullmatch(path)
    assert found is not None  # every part may be empty
    return (found[1] or "").lower(), found[2] or "" if found[1] else "", found[3] if found[1] else path


def decoded(uri: str) -> str:
    """The path that an encoded URI stands for, such as Spark's ``_metadata.file_path``.

    >>> decoded("file:/runs/exp%20%231/x.parquet")
    'file:/runs/exp #1/x.parquet'
    """
    return unquote(uri)


def locate(path: str) -> tuple[arrow_fs.FileSystem, str]:
    """The Arrow file system and the name in it of a path as Spark takes it (``/x``, ``file:/x``, ``s3a://b/x``)."""
    scheme, authority, name = split(path)
    if scheme in ("", "file"):
        return arrow_fs.LocalFileSystem(), name
    if scheme == "dbfs":
        return arrow_fs.LocalFileSystem(), name if name.startswith("/Volumes/") else f"/dbfs{name}"
    scheme = {"s3a": "s3", "s3n": "s3", "abfss": "abfs"}.get(scheme, scheme)
    filesystem, base = arrow_fs.FileSystem.from_uri(f"{scheme}://{authority}")
    return filesystem, f"{base.rstrip('/')}{name}"


def read_bytes(path: str) -> bytes:
    """The bytes of a file, local or in an object store."""
    filesystem, name = locate(path)
    with filesystem.open_input_stream(name, compression=None) as stream:
        data: bytes = stream.read()
    return data
