"""`python -m tests.killed_writer URL STUDY TIMES`: writers that are killed in the middle of it.

Each writer is a process of its own, with connections of its own, that reads cases as a new reader until it is killed (SIGKILL)
at a random moment. What it was told to be saved, it says first thing after, through a pipe. All of that comes out on standard
output, one JSON object a line.
"""

import gc
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from ipfvision.core.review import BlindReview, Diagnosis, Draft, MapVerdict, RevealedReview
from ipfvision.workflow.studies import Studies
from tests.reviewing import MODEL, answer, box

MOST_WORDS = 10
"""After which a writer is killed: one case and a half."""
LONGEST_WAIT_SECONDS = 0.008
"""From that word to the kill: one or two changes."""


def thought(number: int) -> Draft:
    """A draft of which every part says the same number: half of it would be seen."""
    return Draft(tuple(Diagnosis)[number % 4], number % 5 + 1, (box(number % 30, number % 40),), str(number))


def write(studies: Studies, study: str, reader: str, pipe: int) -> None:
    """Read cases to the end of the work list."""

    def acknowledged(kind: str, review: str = "", number: int = 0) -> None:
        os.write(pipe, (json.dumps({"kind": kind, "review": review, "reader": reader, "number": number}) + "\n").encode())

    studies.join(study, reader)
    acknowledged("joined")
    number = 0
    while (case := studies.next_case(study, reader)) is not None:
        found = studies.open_case(study, case.id, reader)
        acknowledged("opened", found.id)
        revision = 0
        for _ in range(2):
            number += 1
            revision = studies.autosave(found.id, reader, revision, thought(number))
            acknowledged("saved", found.id, number)
        locked = studies.lock(found.id, reader, revision, thought(number), MODEL)
        if not isinstance(locked, BlindReview):
            raise TypeError
        acknowledged("locked", found.id, number)
        shown = studies.reveal(found.id, reader, answer)
        if not isinstance(shown, RevealedReview):
            raise TypeError
        acknowledged("revealed", found.id, number)
        number += 1
        last = replace(thought(number), verdict=MapVerdict.AGREES)
        studies.finish(found.id, reader, shown.revision, last)
        acknowledged("finished", found.id, number)


def main(url: str, study: str, times: int) -> None:
    dice = random.Random(6)
    studies = Studies.open(url)
    # The first reader makes SQLAlchemy compile its statements, so that each writer need not.
    with Path(os.devnull).open("wb") as nowhere:
        write(studies, study, "Nobody", nowhere.fileno())
    studies.close()
    gc.freeze()
    for number in range(times):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                write(studies, study, f"Reader {number}", writing)
                time.sleep(60)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            for _ in range(dice.randint(0, MOST_WORDS)):  # after none of them it is killed while it connects
                sys.stdout.write(pipe.readline())
            time.sleep(dice.uniform(0, LONGEST_WAIT_SECONDS))
            os.kill(child, signal.SIGKILL)
            sys.stdout.write(pipe.read())
        _, status = os.waitpid(child, 0)
        if os.WTERMSIG(status) != signal.SIGKILL:
            raise RuntimeError("a writer ended by itself")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
