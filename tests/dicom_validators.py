"""David Clunie's validators (Debian: dicom3tools) and OFFIS' DCMTK, which know nothing of pydicom and highdicom."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

TOOLS = ("dciodvfy", "dcentvfy", "dcmdump", "dsrdump", "dcm2pnm")


def need_tools() -> None:
    """Skip where they cannot be had; fail where they must be."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if missing:
        reason = f"needs {', '.join(missing)} (Debian packages dicom3tools and dcmtk): make validators"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, errors="replace")


def problems(file: Path) -> list[str]:
    """What dciodvfy calls an error in one object."""
    done = run("dciodvfy", file)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]


def mismatches(files: list[Path]) -> list[str]:
    """Where dcentvfy finds that objects do not describe one patient, study, series or frame of reference alike."""
    done = run("dcentvfy", *files)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("Error", "Abort"))]


def written_to(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    paths = []
    for name, content in files.items():
        path = folder / name
        path.write_bytes(content)
        paths.append(path)
    return paths
