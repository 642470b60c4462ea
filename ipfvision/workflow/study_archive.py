"""A whole study as one .zip, and back: to keep, to move to another machine, or to join what two places have read.

The .zip holds the rows of the database, one JSON object a line, one file a table, and `manifest.json` with the SHA-256 of each.
It holds no scan. The same study gives the same bytes.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ipfvision import __version__
from ipfvision.core.review import Study
from ipfvision.errors import ArchiveRefused
from ipfvision.store import TABLES
from ipfvision.workflow.studies import Studies

FORMAT = "ipfvision study"
VERSION = 1
MANIFEST = "manifest.json"
MOST_BYTES = 2**30
"""Of what a study's .zip unpacks to: some hundred thousand reviews."""
MOST_RATIO = 100
"""Of what a .zip unpacks to, to its own size. Hashes, names and maps do not shrink to a tenth."""
RATIO_COUNTS_FROM = 2**22
"""Bytes. Small tables of few different words may shrink to any size."""
MOST_ROWS = 2**20
"""Of a table: a million slices are 3,000 scans."""
LONGEST_LINE = 2**26
"""Bytes. Drawings on every slice of a scan have a tenth of that."""
LONGEST_MANIFEST = 2**16
"""Bytes; it has some two thousand."""
LONG_AGO = (1980, 1, 1, 0, 0, 0)

DAMAGED = "This .zip is damaged or was changed since it was exported; nothing was taken in. Please export the study again."


def write_study(studies: Studies, study_id: str, by: str) -> bytes:
    """A study with all that was ever said in it, and what is under way. Only a coordinator can.

    Raises
    ------
    ReviewRefused
        If `by` does not coordinate the study, or there is none.
    """
    study, kept = studies.take_out(study_id, by)
    files = {f"{table}.jsonl": "".join(f"{_line(row)}\n" for row in rows).encode() for table, rows in sorted(kept.items())}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "application_version": __version__,
        "study": study.id,
        "files": {name: {"bytes": len(content), "sha256": _sha256(content)} for name, content in files.items()},
    }
    files[MANIFEST] = json.dumps(manifest, indent=1, sort_keys=True).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (MANIFEST, *sorted(set(files) - {MANIFEST})):
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return written.getvalue()


def read_study(studies: Studies, content: bytes) -> Study:
    """Take in a study that was exported elsewhere, whole or not at all. Taking it in twice changes nothing.

    What is here already stays; reviews by other readers, or of other cases, are added.

    Raises
    ------
    ArchiveRefused
        If anything in it is not as its manifest says, or it contradicts what is here.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except Exception:  # noqa: BLE001  zipfile and zlib raise many things on damaged archives
        raise ArchiveRefused(DAMAGED) from None
    with archive:
        listed = _read_manifest(archive)
        if sorted(archive.namelist()) != sorted({MANIFEST, *listed}) or set(listed) != {f"{table}.jsonl" for table in TABLES}:
            _refuse()
        room = _Room(min(MOST_BYTES, max(RATIO_COUNTS_FROM, MOST_RATIO * len(content))))
        return studies.put_in({table: _read_rows(archive, f"{table}.jsonl", listed, room) for table in TABLES})


@dataclass(slots=True)
class _Room:
    """What may still be unpacked."""

    left: int
    """Bytes."""


def _read_manifest(archive: zipfile.ZipFile) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file, as the manifest says."""
    try:
        with archive.open(MANIFEST) as member:
            content = member.read(LONGEST_MANIFEST + 1)
        if len(content) > LONGEST_MANIFEST:
            _refuse()
        manifest = json.loads(content)
        listed = {name: (one["bytes"], one["sha256"]) for name, one in manifest["files"].items()}
        named, version = manifest["format"], manifest["version"]
    except Exception:  # noqa: BLE001  as above; or it is no manifest
        raise ArchiveRefused(DAMAGED) from None
    if named != FORMAT:
        _refuse()
    if version != VERSION:
        raise ArchiveRefused("This study was exported by a newer ipfvision than this one; please use that version.")
    return listed


def _read_rows(
    archive: zipfile.ZipFile, name: str, listed: Mapping[str, tuple[int, str]], room: _Room
) -> Iterator[dict[str, Any]]:
    """Row by row, so that whoever takes them can refuse the first that is none; after the last one the hash is checked."""
    try:
        count, size, digest = 0, 0, hashlib.sha256()
        with archive.open(name) as member:
            while line := member.readline(min(room.left, LONGEST_LINE) + 1):
                count, size = count + 1, size + len(line)
                room.left -= len(line)
                digest.update(line)
                if room.left < 0 or len(line) > LONGEST_LINE or count > MOST_ROWS:
                    _refuse()
                row = json.loads(line)
                if not isinstance(row, dict):
                    _refuse()
                yield row
    except Exception:  # noqa: BLE001  as above; or the line is no JSON
        raise ArchiveRefused(DAMAGED) from None
    if listed[name] != (size, digest.hexdigest()):
        _refuse()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _refuse() -> NoReturn:
    raise ArchiveRefused(DAMAGED)
