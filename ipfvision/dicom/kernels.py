"""Which convolution kernels are soft: they blur the fine reticulation and small cysts that this program looks for.

DICOM leaves the words of Convolution Kernel (0018,1210) to each vendor (PS3.3 C.8.2.1); the rules below are those of the
vendors' own naming. A kernel that no rule knows is not called anything.
"""

import re

_GE_SOFT = {"SOFT", "STANDARD", "STND", "CHST", "SMOOTH"}
_PHILIPS_SOFT = {"A", "B", "C", "SMOOTH", "STANDARD"}
_SIEMENS = re.compile(r"^[A-Z][a-z]?(\d{2})[a-z]?\b")
"""B31f, I30f, Br40d, Bl57: the number rises with sharpness (below 45 soft tissue, above lung and bone)."""
_SIEMENS_SHARP_FROM = 45
_TOSHIBA = re.compile(r"^FC(\d{2})\b")
"""FC01 to FC18: abdomen and soft tissue; FC30 and FC50 to FC56: bone and lung."""
_TOSHIBA_SOFT = range(1, 19)


def is_soft(kernel: str, manufacturer: str | None) -> bool:
    """Whether the vendor's name of the kernel is known to mean soft tissue. False for a name that is not known.

    Parameters
    ----------
    kernel
        Convolution Kernel (0018,1210); several values joined by a backslash, of which the first counts.
    manufacturer
        Manufacturer (0008,0070). Single letters mean a kernel at Philips only.
    """
    name = kernel.split("\\", maxsplit=1)[0].strip()
    if toshiba := _TOSHIBA.match(name.upper()):
        return int(toshiba[1]) in _TOSHIBA_SOFT
    if "philips" in (manufacturer or "").lower():
        return name.upper() in _PHILIPS_SOFT
    if siemens := _SIEMENS.match(name):
        return int(siemens[1]) < _SIEMENS_SHARP_FROM
    return name.upper() in _GE_SOFT
