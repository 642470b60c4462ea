"""Everything that is sent of one case, as files: a page, a figure and JSON for anybody; DICOM for the archive of the scan."""

from collections.abc import Iterable

from ipfvision.errors import InputRefused
from ipfvision.images import write_png
from ipfvision.workflow.case_report import case_pdf, case_picture
from ipfvision.workflow.sending_dicom import case_dicom
from ipfvision.workflow.sent_case import Sent, SentCase, case_json
from ipfvision.workflow.uploads import Progress, Upload


def send(case: SentCase, originals: Iterable[Upload] | None = None, progress: Progress | None = None) -> Sent:
    """Page (PDF), figure (PNG) and JSON of a case, and its DICOM objects if the scan's own files are given again.

    Parameters
    ----------
    originals
        As in `ipfvision.workflow.sending_dicom.case_dicom`; None for no DICOM.

    Returns
    -------
    Files by name. What cannot be made for a PACS never stops the others: the notes say why.
    """
    picture = case_picture(case)
    files = {
        f"{case.name}_page.pdf": case_pdf(case),
        f"{case.name}_figure.png": write_png(picture),
        f"{case.name}_case.json": case_json(case),
    }
    if originals is None:
        return Sent(files)
    try:
        made = case_dicom(case, originals, picture, progress)
    except InputRefused as error:
        return Sent(files, (str(error),))
    return Sent({**files, **made.files}, made.notes, made.refusals)
