"""Decodes one JPEG frame after another with GDCM, in a process of its own. Started as a script by `jpeg_process`.

GDCM aborts or segfaults on some damaged JPEG streams, which no `except` catches: here that ends this process and not the
reader's. And libjpeg inside GDCM reports damage only on standard error, while handing out an image all the same: here
standard error is a pipe that is read after each frame.

A request on standard input is a `REQUEST` header and the stream; the answer on standard output is a `REPLY` header, the
decoded bytes (none if GDCM refused) and what was said on standard error. Standard input at its end ends the process.
"""

import os
import struct
import sys

REQUEST = struct.Struct("<HHHHI")
"""Rows, columns, bits allocated, sample precision, length of the stream."""
REPLY = struct.Struct("<II")
"""Length of the decoded bytes, length of the messages."""
_END = b"\0\n"


def _decode(stream: bytes, rows: int, columns: int, bits_allocated: int, precision: int) -> bytes:
    import gdcm  # noqa: PLC0415  only this process may load it: `jpeg_process` imports this file for its two headers

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    # GDCM has one codec for the whole JPEG family; the stream's own frame header says which process it is.
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    image.SetPixelFormat(gdcm.PixelFormat(1, bits_allocated, precision, precision - 1, 0))
    # GDCM's Python binding returns char* as str.
    return bytes(image.GetBuffer().encode("utf-8", "surrogateescape"))


def _serve() -> None:
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    messages, standard_error = os.pipe()
    os.dup2(standard_error, 2)
    os.dup2(standard_error, 1)
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        rows, columns, bits_allocated, precision, length = REQUEST.unpack(head)
        stream = requests.read(length)
        try:
            pixels = _decode(stream, rows, columns, bits_allocated, precision)
        except Exception:  # noqa: BLE001  GDCM says no by returning None, or by one of several C++ exceptions
            pixels = b""
        # Read up to a mark of our own, because a pipe cannot be asked for what is there on every system. Messages that fill
        # the pipe stop GDCM, and then the other side ends this process: a stream with so much to say is damaged.
        os.write(2, _END)
        said = b""
        while not said.endswith(_END):
            said += os.read(messages, 65536)
        said = said.removesuffix(_END)
        replies.write(REPLY.pack(len(pixels), len(said)) + pixels + said)
        replies.flush()


if __name__ == "__main__":
    _serve()
