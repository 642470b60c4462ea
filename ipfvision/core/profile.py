"""A series, slice by slice: what the model says, what the reader marked, and where the two disagree most."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from ipfvision.core.agreement import Agreement
from ipfvision.core.evidence import EvidenceBudget
from ipfvision.core.findings import Decision, Prediction


class Disagreement(IntEnum):
    """How the model and the reader stand to each other on a slice; the smaller, the worse."""

    MISSED = 0
    """Something is marked, and the slice is called normal."""
    UNMARKED = 1
    """A reader looked and marked nothing, and the slice is called IPF."""
    ELSEWHERE = 2
    """Something is marked, and the slice is called IPF or uncertain, but for another place: the map is empty, its maximum
    misses all that is marked, or the evidence inside the annotated area does not speak for IPF."""
    UNSURE = 3
    """The answer is uncertain; the place, where something is marked, is right."""
    UNREAD = 4
    """There is an annotation, and the model refused the slice."""
    NONE = 5
    """Both say the same, and where something is marked, of the same place."""
    NOT_COMPARED = 6
    """Nobody annotated the slice."""


@dataclass(frozen=True, slots=True, eq=False)
class ProfileRow:
    """One slice of a series."""

    index: int
    """Position in the series, from 0."""
    prediction: Prediction
    agreement: Agreement | None = None
    """Of the map for IPF. None if the model refused the slice, or nobody annotated it."""
    budget: EvidenceBudget | None = None
    annotated: bool = False
    """Whether there is an annotation, were it empty. It tells a refused slice that was annotated from one that was not."""

    @property
    def disagreement(self) -> Disagreement:
        decision = self.prediction.decision
        if decision is Decision.REFUSED:
            return Disagreement.UNREAD if self.annotated else Disagreement.NOT_COMPARED
        if self.agreement is None or self.agreement.annotated is None:
            return Disagreement.NOT_COMPARED
        if self.agreement.annotated:
            if decision is Decision.NORMAL:
                return Disagreement.MISSED
            if self.elsewhere:
                return Disagreement.ELSEWHERE
        elif decision is Decision.IPF:
            return Disagreement.UNMARKED
        return Disagreement.UNSURE if decision is Decision.UNCERTAIN else Disagreement.NONE

    @property
    def elsewhere(self) -> bool:
        """Whether the evidence for IPF lies elsewhere than what is marked; False if nothing is."""
        if self.agreement is None or not self.agreement.annotated:
            return False
        inside = None if self.budget is None else self.budget.annotated
        return self.agreement.pointing_hit is False or (inside is not None and inside <= 0)

    @property
    def size(self) -> float:
        """How large the disagreement is among those of its kind, in [0, 1].

        Of an answer (`MISSED`, `UNMARKED`, `UNSURE`): how far the probability lies from what the reader says. Of a place
        (`ELSEWHERE`, `NONE`): the share of the map that lies outside the annotated area, 1 if the map is empty. Points and
        boxes have no share inside: 0 for a hit, 1 for none. 0 where there is nothing to compare.
        """
        agreement, probability = self.agreement, self.prediction.probability
        if agreement is None or agreement.annotated is None or probability is None:
            return 0.0
        if self.disagreement in {Disagreement.MISSED, Disagreement.UNMARKED, Disagreement.UNSURE}:
            return 1 - probability if agreement.annotated else probability
        if not agreement.annotated:
            return probability
        if agreement.mass is not None:
            return 1 - agreement.mass
        return 0.0 if agreement.pointing_hit else 1.0


def worst_first(rows: Iterable[ProfileRow]) -> list[ProfileRow]:
    """The slices with the worst disagreement first: by its kind, then its size, then the order of the series."""
    return sorted(rows, key=lambda row: (row.disagreement, -row.size, row.index))
