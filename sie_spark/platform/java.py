"""Which Java Spark would start, and whether it can run Spark 4."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from sie_spark.platform.errors import PlatformError

REMEDY = "install Java 17: apt-get install -y openjdk-17-jre-headless (and unset a JAVA_HOME that points elsewhere)"


def java_version() -> str:
    """What the Java of JAVA_HOME, or else of PATH, says of itself.

    Raises
    ------
    PlatformError
        when there is none, or one that Spark 4 does not run on.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not java or not Path(java).exists():
        raise PlatformError(f"no java found{f': {java}' if home else ''}", remedy=REMEDY)
    text = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(\d+)', text)
    if not match or int(match.group(1)) < 17:
        first = (text.splitlines() or ["no version"])[0]
        raise PlatformError(f"{java}: {first}; Spark 4 needs 17 or newer", remedy=REMEDY)
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=False).stdout
    if "jdk.incubator.vector" not in modules:
        raise PlatformError(f"{java} is a stripped runtime without jdk.incubator.vector", remedy=REMEDY)
    return next(line for line in text.splitlines() if match[0] in line)
