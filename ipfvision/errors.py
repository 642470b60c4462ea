"""Every error that ipfvision raises on purpose.

    IpfVisionError
    ├── InputRefused             what was given cannot be read as a CT slice
    │   ├── NotAnImage           neither DICOM, PNG, JPEG nor .zip; empty; truncated; damaged
    │   ├── NotAxialCT           another modality, a localizer, another plane, no rescale; a color photograph
    │   ├── NotAnAnnotation      no annotation at all: an image of a patient, or another format
    │   ├── AnnotationUnusable   an annotation that is damaged, holds nothing, or does not say where it lies
    │   ├── UnsupportedEncoding  a transfer syntax or pixel layout that no decoder here reads
    │   ├── TooLarge             more pixels, bytes or files than the limits allow
    │   └── UnsafeArchive        a .zip with a path that leaves its folder, or a zip bomb
    ├── ModelUnusable            the checkpoint or its card is missing, damaged or of another architecture
    ├── RunStopped               a training run cannot begin in this folder, or cannot go on: another run, a full disk
    └── StudyProblem             a study or its reviews
        ├── ReviewRefused        not for this reader, not at this moment, or not with so little said
        ├── ReviewChanged        the same case has gone on in another tab or window
        ├── StoreUnavailable     reviews cannot be written or read now: full disk, locked file, lost database
        └── ArchiveRefused       a study's .zip is damaged, or contradicts what is here

`str(error)` is one sentence for a clinician (what was found, what was expected, the DICOM tag, what to do next). It may be
shown as it stands: it names no patient.
"""


class IpfVisionError(Exception):
    """Base of everything that ipfvision raises on purpose."""


class InputRefused(IpfVisionError):
    """What was given cannot be read as a chest CT slice."""


class NotAnImage(InputRefused):
    """The content is neither DICOM, PNG, JPEG nor .zip, or it is empty, truncated or damaged."""


class NotAxialCT(InputRefused):
    """A DICOM object that is not an axial CT slice with a rescale to Hounsfield units, or a color photograph."""


class NotAnAnnotation(InputRefused):
    """No annotation at all: an image of a patient, or another format. Passed over in silence in a folder or .zip."""


class AnnotationUnusable(InputRefused):
    """An annotation that is damaged, holds nothing to show, or does not say where in the patient it lies."""


class UnsupportedEncoding(InputRefused):
    """A transfer syntax or pixel layout that no installed decoder reads; the message names it."""


class TooLarge(InputRefused):
    """More pixels, bytes or files than the limits allow; counted before anything is decoded."""


class UnsafeArchive(InputRefused):
    """A .zip whose entries leave their folder or unpack to far more than they hold."""


class ModelUnusable(IpfVisionError):
    """The checkpoint or its card is missing, damaged, or of another architecture."""


class RunStopped(IpfVisionError):
    """A training run cannot begin in its folder or cannot go on: another run lies there, or the disk is full."""


class StudyProblem(IpfVisionError):
    """Something that a study or its reviews do not allow. What was saved before is unharmed."""


class ReviewRefused(StudyProblem):
    """Not for this reader, not at this moment, or not with so little said."""


class ReviewChanged(StudyProblem):
    """The same case has gone on in another tab or window: what is on this screen is out of date."""


class StoreUnavailable(StudyProblem):
    """Reviews cannot be written or read now: a full disk, a locked file, a lost database. Nothing acknowledged is lost."""


class ArchiveRefused(StudyProblem):
    """A study's .zip is damaged, or contradicts what is here; nothing of it was taken in."""
