"""What a file calls a region, in the words of the glossary."""

import pytest

from ipfvision.core.annotation import Finding, finding_of


@pytest.mark.parametrize(
    ("label", "finding"),
    [
        ("Honeycombing", Finding.HONEYCOMBING),
        ("honey-combing_L", Finding.HONEYCOMBING),
        ("honeycomb cysts", Finding.HONEYCOMBING),
        ("Honigwabenlunge", Finding.HONEYCOMBING),
        ("rayon de miel", Finding.HONEYCOMBING),
        ("Traction bronchiectasis", Finding.TRACTION_BRONCHIECTASIS),
        ("traction bronchiolectasis", Finding.TRACTION_BRONCHIECTASIS),
        ("Traktionsbronchiektasen", Finding.TRACTION_BRONCHIECTASIS),
        ("reticular pattern", Finding.RETICULATION),
        ("Réticulations", Finding.RETICULATION),
        ("GGO right", Finding.GROUND_GLASS),
        ("ground-glass opacity", Finding.GROUND_GLASS),
        ("Milchglas", Finding.GROUND_GLASS),
        ("subpleural cysts", Finding.SUBPLEURAL_CYSTS),
        ("cyst", Finding.SUBPLEURAL_CYSTS),
        ("kidney_cyst_left", Finding.OTHER),
        ("no honeycombing", Finding.OTHER),
        ("non-cystic", Finding.OTHER),
        ("normal", Finding.OTHER),
        ("lung_upper_lobe_left", Finding.OTHER),
        ("retraction", Finding.OTHER),
        ("", Finding.OTHER),
    ],
)
def test_a_label_names_its_finding(label, finding):
    assert finding_of(label) is finding


@pytest.mark.parametrize("finding", [finding for finding in Finding if finding is not Finding.OTHER])
def test_every_finding_is_found_by_its_own_name(finding):
    assert finding_of(finding.value) is finding
