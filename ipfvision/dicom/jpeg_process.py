"""The way to `jpeg_worker`: one child process, started when the first JPEG frame comes, and anew after it died."""

import atexit
import contextlib
import re
import subprocess
import sys
import threading
from pathlib import Path

from ipfvision.dicom.jpeg_worker import REPLY, REQUEST
from ipfvision.errors import NotAnImage

SECONDS_PER_FRAME = 30.0
"""A frame of 512 x 512 takes 5 ms; a process that is silent for this long is ended."""
_HARMLESS = re.compile(
    rb"^(Unsupported JPEG data precision 12"  # GDCM asks its 8-bit codec first
    rb"|Invalid SOS parameters for sequential JPEG"  # old scanners; a sequential decoder does not use them
    rb"|Corrupt JPEG data: [12] extraneous bytes before marker 0xd9"  # left by some encoders after the last sample
    rb")?$"
)

_lock = threading.Lock()
_process: "subprocess.Popen[bytes] | None" = None


def decode_jpeg(stream: bytes, rows: int, columns: int, bits_allocated: int, precision: int) -> bytes:
    """Decode one JPEG frame (8- or 12-bit DCT, or lossless) of one component.

    Safe to call from several threads; frames are decoded one at a time.

    Returns
    -------
    rows * columns samples of `bits_allocated` bits, little endian.

    Raises
    ------
    NotAnImage
        If the stream is damaged: GDCM refuses it, reports damage, does not answer in time or crashes.
    """
    with _lock:
        pixels, said = _ask(REQUEST.pack(rows, columns, bits_allocated, precision, len(stream)) + stream)
    damage = [line for line in said.splitlines() if not _HARMLESS.match(line.strip())]
    if damage or len(pixels) != rows * columns * (bits_allocated // 8):
        raise NotAnImage(
            "The JPEG data of this image are damaged (Pixel Data (7FE0,0010)) and were not shown, "
            "because pixels after the damage would be wrong; please export the image again."
        )
    return pixels


def _ask(request: bytes) -> tuple[bytes, bytes]:
    """(decoded bytes, messages); both empty if the process died or had to be ended. Call with the lock held."""
    process = _started()
    to_child, from_child = process.stdin, process.stdout
    if to_child is None or from_child is None:
        raise ValueError("the JPEG process was started without pipes")
    # A killed child closes its pipes, which ends the read below: a timeout that needs no select, and so works on Windows.
    watchdog = threading.Timer(SECONDS_PER_FRAME, process.kill)
    watchdog.start()
    try:
        to_child.write(request)
        to_child.flush()
        head = from_child.read(REPLY.size)
        if len(head) == REPLY.size:
            size, said_size = REPLY.unpack(head)
            pixels, said = from_child.read(size), from_child.read(said_size)
            if len(pixels) == size and len(said) == said_size:
                return pixels, said
    except BrokenPipeError:
        pass  # it died while it was being written to
    finally:
        watchdog.cancel()
    stop()
    return b"", b""


def _started() -> "subprocess.Popen[bytes]":
    global _process  # noqa: PLW0603  one child per process, whoever asks first
    if _process is None or _process.poll() is not None:
        stop()
        _process = subprocess.Popen(  # noqa: S603  this interpreter and a file of this package: nothing from the input
            # -P: the folder of the script must not shadow other modules.
            [sys.executable, "-P", str(Path(__file__).with_name("jpeg_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    return _process


def stop() -> None:
    """End the child process, if there is one; the next frame starts another."""
    global _process
    process, _process = _process, None
    if process is None:
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what was buffered for a dead child
                pipe.close()
    process.wait()


atexit.register(stop)
