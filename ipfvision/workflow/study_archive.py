"""A whole study as one .zip, and back: to keep, to move to another machine, or to join what two places have read.

The .zip holds the rows of the database, one JSON object a line, one file a table, and `manifest.json` with the SHA-256 of each.
It holds no scan. The same study gives the same bytes.
"""

import hashlib
import io
import json
import zipfile
from typing import Any, NoReturn

from ipfvision import __version__
from ipfvision.core.review import Study
from ipfvision.errors import ArchiveRefused
from ipfvision.workflow.studies import Studies

FORMAT = "ipfvision study"
VERSION = 1
MANIFEST = "manifest.json"
MOST_BYTES = 2**30
"""Of what a study's .zip unpacks to: some hundred thousand reviews."""
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
    files = _unpack(content)
    try:
        manifest = json.loads(files.pop(MANIFEST))
        listed = {name: (one["bytes"], one["sha256"]) for name, one in manifest["files"].items()}
        named, version = manifest["format"], manifest["version"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        _refuse()
    if named != FORMAT:
        _refuse()
    if version != VERSION:
        raise ArchiveRefused("This study was exported by a newer ipfvision than this one; please use that version.")
    if listed != {name: (len(one), _sha256(one)) for name, one in files.items()}:
        _refuse()
    return studies.put_in({name.removesuffix(".jsonl"): _rows(one) for name, one in files.items()})


def _unpack(content: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left = MOST_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as member:
                    files[entry.filename] = member.read(left + 1)
                left -= len(files[entry.filename])
                if left < 0:
                    _refuse()
    except ArchiveRefused:
        raise
    except Exception:  # noqa: BLE001  zipfile and zlib raise many things on damaged archives
        raise ArchiveRefused(DAMAGED) from None
    return files


def _rows(content: bytes) -> list[dict[str, Any]]:
    try:
        return [dict(json.loads(line)) for line in content.decode().split("\n") if line]
    except (ValueError, TypeError, RecursionError):
        _refuse()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _refuse() -> NoReturn:
    raise ArchiveRefused(DAMAGED)
