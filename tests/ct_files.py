"""CT files made by hand for the tests: a drawn chest, and every way to store it."""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, EnhancedCTImageStorage, ExplicitVRLittleEndian

from ipfvision.core.slice import PixelSpacing, Plane, Scale, Slice, Source
from ipfvision.core.window import Window
from ipfvision.dicom import write_ct

ROWS, COLUMNS = 48, 64


def chest(rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> npt.NDArray[np.int16]:
    """Noisy Hounsfield units: air, an oval body, two lungs."""
    y, x = np.mgrid[:rows, :columns]
    y, x = (y + 0.5) / rows * 2 - 1, (x + 0.5) / columns * 2 - 1
    hu = np.full((rows, columns), -1000.0)
    hu[(x / 0.9) ** 2 + (y / 0.8) ** 2 < 1] = 40
    hu[((np.abs(x) - 0.4) / 0.3) ** 2 + (y / 0.5) ** 2 < 1] = -850
    hu += np.random.default_rng(seed).normal(0, 8, hu.shape)
    return np.rint(hu).clip(-1020, 3000).astype(np.int16)


def scan(
    hu: npt.NDArray[np.int16] | None = None,
    *,
    z: float = 0.0,
    series: str = "1.2.3.4",
    number: int | None = 1,
    thickness_mm: float | None = 1.0,
) -> Slice:
    pixels = chest(seed=round(z * 10) % 1000) if hu is None else hu
    source = Source("made.dcm", "DICOM", "", series_instance_uid=series, instance_number=number, kernel="LUNG")
    return Slice(
        pixels=pixels,
        scale=Scale.HOUNSFIELD,
        source=source,
        padding=np.zeros(pixels.shape, np.bool_),
        spacing=PixelSpacing(0.7, 0.8),
        plane=Plane((-20.0, -15.0, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        thickness_mm=thickness_mm,
        file_window=Window(-600, 1500),
    )


def dataset(source: Slice | None = None, /, **changes: Any) -> Dataset:
    """A CT image; a change to None deletes the attribute."""
    made = dcmread(BytesIO(write_ct(source or scan(), uid_seed="test")))
    return change(made, **changes)


def change(made: Dataset, **changes: Any) -> Dataset:
    for keyword, value in changes.items():
        if value is not None:
            setattr(made, keyword, value)
        elif keyword in made:
            delattr(made, keyword)
    return made


def to_bytes(made: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def ct(source: Slice | None = None, /, **changes: Any) -> bytes:
    return to_bytes(dataset(source, **changes))


def with_pixels(made: Dataset, stored: npt.NDArray[Any], bits_stored: int, high_bit: int | None = None) -> Dataset:
    made.Rows, made.Columns = stored.shape[-2:]
    made.BitsAllocated = stored.dtype.itemsize * 8
    made.BitsStored = bits_stored
    made.HighBit = bits_stored - 1 if high_bit is None else high_bit
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    made.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    made["PixelData"].VR = "OB" if made.BitsAllocated == 8 else "OW"
    return made


def compressed(stream: bytes | list[bytes], syntax: UID, made: Dataset | None = None) -> bytes:
    """The file with its pixels replaced by encapsulated streams, one a frame."""
    made = dataset() if made is None else made
    streams = stream if isinstance(stream, list) else [stream]
    made.PixelData = encapsulate(streams)
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = syntax
    return to_bytes(made)


def enhanced(stacks: npt.NDArray[np.int16], *, frame_type: str = "AXIAL") -> Dataset:
    """Enhanced CT of (frames, rows, columns) HU: frame i has slope i + 1, the last frame lies lowest."""
    made = dataset()
    frames = len(stacks)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope"):
        delattr(made, keyword)
    for keyword in ("RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth", "ConvolutionKernel"):
        delattr(made, keyword)

    def item(**values: Any) -> list[Dataset]:
        return [change(Dataset(), **values)]

    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.7, 0.8], SliceThickness=1.5)
    shared.CTReconstructionSequence = item(ConvolutionKernel="LUNG")
    shared.FrameVOILUTSequence = item(WindowCenter=-500, WindowWidth=1400)
    made.SharedFunctionalGroupsSequence = [shared]
    per_frame, stored = [], []
    for i, hu in enumerate(stacks):
        group = Dataset()
        group.PlanePositionSequence = item(ImagePositionPatient=[0, 0, -2.0 * i])
        slope = i + 1
        group.PixelValueTransformationSequence = item(RescaleSlope=slope, RescaleIntercept=-1024 * slope, RescaleType="HU")
        group.CTImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", frame_type, "NONE"])
        per_frame.append(group)
        stored.append(((hu + 1024 * slope) // slope).astype("<u2"))
    made.PerFrameFunctionalGroupsSequence = per_frame
    made.NumberOfFrames = frames
    return with_pixels(made, np.stack(stored), 16)
