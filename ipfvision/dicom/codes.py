"""The codes that stand for findings, maps and numbers in what is written (PS3.16)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydicom.sr.coding import Code

from ipfvision.core.annotation import Finding

OWN_SCHEME = "99IPFVISION"
"""For what no public scheme names. "99" marks a private one (PS3.16 8.2)."""


@dataclass(frozen=True, slots=True)
class Term:
    """A concept of this program's own."""

    value: str
    """At most 16 characters; never used for anything else later."""
    meaning: str

    def __post_init__(self) -> None:
        if not 0 < len(self.value) <= 16 or not 0 < len(self.meaning) <= 64:
            raise ValueError("a code has 1 to 16 characters and a meaning of 1 to 64 (PS3.5 6.2, SH and LO)")


def own(term: Term) -> Code:
    """The code of a term."""
    return Code(term.value, OWN_SCHEME, term.meaning)


FINDINGS: Mapping[Finding, Code] = MappingProxyType(
    {
        Finding.HONEYCOMBING: Code("112106", "DCM", "Honeycomb pattern"),
        Finding.SUBPLEURAL_CYSTS: Code("367643001", "SCT", "Cyst"),
        Finding.TRACTION_BRONCHIECTASIS: Code("12295008", "SCT", "Bronchiectasis"),
        Finding.RETICULATION: Code("112113", "DCM", "Reticular pattern"),
        Finding.GROUND_GLASS: Code("112120", "DCM", "Ground glass opacity"),
        Finding.OTHER: Code("52988006", "SCT", "Lesion"),
    }
)
"""Findings as CID 6102 and CID 7159 name them; the label beside each says the finding in full."""

ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
SPATIAL = Code("309825002", "SCT", "Spatial and Relational Concept")
LUNG = Code("39607008", "SCT", "Lung")
CT = Code("25045-6", "LN", "CT unspecified body region")
IPF = Code("700250006", "SCT", "Idiopathic pulmonary fibrosis")
AREA = Code("42798000", "SCT", "Area")
COMMENT = Code("121106", "DCM", "Comment")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

GRADIENT_WEIGHTED = Code("130403", "DCM", "Gradient-weighted class activation")
SALIENCY = Code("130404", "DCM", "Saliency")


def map_quantity(method: str) -> Code:
    """What the values of a map are (CID 217, Visual Explanation, since 2024). EigenCAM is of no class and uses no gradient."""
    return SALIENCY if method == "eigencam" else GRADIENT_WEIGHTED


UNITS: Mapping[str, Code] = MappingProxyType(
    {
        "1": Code("1", "UCUM", "no units"),
        "mm": Code("mm", "UCUM", "millimeter"),
        "mm2": Code("mm2", "UCUM", "square millimeter"),
    }
)
