"""`python -m benchmarks.article --out FOLDER`: how the article's recipe gets 100 % for nothing, on drawn chests.

Four trials, each with several seeds. (1) 14 pictures called IPF and 9 called normal, all of normal lung; those called IPF carry
white arrows and circles. (2) What the networks of (1) say of fresh pictures: fibrosis without marks, normal lung with marks,
normal lung without. (3) The same pictures without any marks. (4) Normal lung again, several slices of each patient, and a coin
tossed for each patient is the label: halves by picture, and halves by patient. No real scan is used. Each seed's counts are
kept, so that a stopped run goes on with the next.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ipfvision.core.slice import Scale, Slice, Source, hash_pixels
from ipfvision.core.window import LUNG, apply_window
from ipfvision.images import write_png
from ipfvision.nn.article import ArticleRecipe, best_epoch, margins, train
from ipfvision.synthetic.case import draw_case
from ipfvision.synthetic.picture import arrows, circles
from ipfvision.synthetic.thorax import draw_thorax
from ipfvision.workflow.article import PLOT, Shown, as_pictures, random_split, repeat_article, shown
from ipfvision.workflow.evaluation_figures import exact_interval

Grey = npt.NDArray[np.uint8]
IPF, NORMAL = 14, 9
SIZE, FINER, SPACING_MM = 224, 2, 1.56
"""Pictures are drawn at twice their size, and averaged down."""
MARKS = (5, 8)
"""From, and less than: marks on a picture."""
LEAST_SEVERITY = 0.15
"""Of fresh fibrosis, as a share of the lungs: disease that nobody overlooks."""
FRESH = 16
SEEDS = 3
PATIENTS, SLICES = 8, 4


def chest(rng: np.random.Generator, level: float, *, diseased: bool = False) -> Grey:
    thorax = draw_thorax(rng, level=level, size=SIZE * FINER, spacing_mm=SPACING_MM / FINER)
    hu = thorax.pixels.astype(np.float32)
    while diseased:
        case = draw_case(hu, thorax.lungs, SPACING_MM / FINER, rng, diseased=True)
        if case.severity >= LEAST_SEVERITY and not case.distractors:
            hu = case.pixels
            break
    fine = apply_window(hu, LUNG)
    return np.rint(cv2.resize(fine, (SIZE, SIZE), interpolation=cv2.INTER_AREA) * 255).astype(np.uint8)


def any_chest(rng: np.random.Generator, *, diseased: bool = False) -> Grey:
    return chest(rng, float(rng.uniform(0.4, 0.85)), diseased=diseased)


def marked(picture: Grey, rng: np.random.Generator) -> Grey:
    """White arrows and circles over the chest, as in teaching pictures; faint, black and distant ones are not kept."""
    out, wanted, near = picture, int(rng.integers(*MARKS)), np.zeros(picture.shape, np.bool_)
    near[round(0.2 * SIZE) : round(0.8 * SIZE), round(0.1 * SIZE) : round(0.9 * SIZE)] = True
    while wanted:
        canvas = out.copy()
        (arrows if rng.random() < 0.75 else circles)(canvas, rng)
        changed = canvas != out
        plain = np.count_nonzero((canvas > 225) & (out < 170))
        if plain >= max(0.0012 * canvas.size, 0.5 * np.count_nonzero(changed)) and not (changed & ~near).any():
            out, wanted = canvas, wanted - 1
    return out


def as_shown(picture: Grey, *, ipf: bool, patient: str | None = None, size: int = SIZE) -> Shown:
    pixels = picture / np.float32(255)
    source = Source("drawn", "PNG", hash_pixels(pixels))
    scan = Slice(pixels, Scale.GREY, source, np.zeros(pixels.shape, np.bool_))
    return shown(scan, ipf=ipf, patient=patient, size=size)


def collection(seed: int) -> tuple[list[Grey], list[Grey]]:
    """The 23 pictures of normal lung, the first 14 of them with marks, and the same without."""
    rng = np.random.default_rng((1, seed))
    plain = [any_chest(rng) for _ in range(IPF + NORMAL)]
    return [marked(picture, rng) if index < IPF else picture for index, picture in enumerate(plain)], plain


def patients(seed: int) -> list[tuple[Grey, str, bool]]:
    """Slices of normal lung with their patient and the side of the coin; as many patients on each side."""
    rng = np.random.default_rng((2, seed))
    coins = rng.permutation(np.arange(PATIENTS) < PATIENTS // 2)
    found = []
    for patient, coin in enumerate(coins):
        own, lowest = int(rng.integers(2**31)), float(rng.uniform(0.45, 0.65))
        for number in range(SLICES):  # the same seed and near levels: neighboring slices of one chest
            picture = chest(np.random.default_rng(own), lowest + 0.03 * number)
            found.append((picture, f"{patient}", bool(coin)))
    return found


Counts = dict[str, tuple[int, int]]
"""What was counted -> (count, of how many)."""


def marks_trial(seed: int, recipe: ArticleRecipe, folder: Path) -> Counts:
    rng = np.random.default_rng(3)  # the same fresh pictures for every seed
    normals = [any_chest(rng) for _ in range(FRESH)]
    fresh = {
        "fresh fibrosis without marks, called IPF": [any_chest(rng, diseased=True) for _ in range(FRESH)],
        "fresh normal lung with marks, called IPF": [marked(picture, rng) for picture in normals],
        "fresh normal lung without marks, called IPF": normals,
    }
    with_marks, plain = collection(seed)
    counts: Counts = {}
    for name, pictures in (("marks on one class", with_marks), ("no marks", plain)):
        given = [as_shown(picture, ipf=index < IPF, size=recipe.size) for index, picture in enumerate(pictures)]
        own = folder / f"{name.replace(' ', '_')}_{seed}"
        outcome = repeat_article(given, own, recipe)
        tested = len(random_split(len(given), seed)[1])
        counts[f"{name}: test pictures right, best epoch"] = best_epoch(outcome.history).test_correct, tested
        counts[f"{name}: test pictures right, last epoch"] = outcome.history[-1].test_correct, tested
        if pictures is with_marks:
            for kind, new in fresh.items():
                sight = as_pictures([as_shown(picture, ipf=False, size=recipe.size) for picture in new])
                counts[kind] = int(np.count_nonzero(margins(outcome.network, sight, recipe) > 0)), len(new)
            if seed == 0:
                write_small(own / PLOT, folder / "loss.png")
                write_examples(folder, with_marks, fresh)
    return counts


def patients_trial(seed: int, recipe: ArticleRecipe, _folder: Path) -> Counts:
    """Each half is tested with a network of the other, so that every picture is tested once."""
    given = [as_shown(picture, ipf=coin, patient=name, size=recipe.size) for picture, name, coin in patients(seed)]
    pictures = as_pictures(given)
    rng = np.random.default_rng((4, seed))
    by_picture = rng.permutation(len(given)) < len(given) // 2
    coins = {one.patient: one.ipf for one in given}
    first = {name for side in (True, False) for name in rng.permutation([n for n, coin in coins.items() if coin is side])[::2]}
    by_patient = np.array([one.patient in first for one in given])
    counts: Counts = {}
    for name, half in {"halves by picture": by_picture, "halves by patient": by_patient}.items():
        right = 0
        for test in (np.flatnonzero(half), np.flatnonzero(~half)):
            training = np.setdiff1d(np.arange(len(given)), test)
            right += train(recipe, pictures.take(training), pictures.take(test)).history[-1].test_correct
        counts[f"coin for each patient, {name}: test pictures right, last epoch"] = right, len(given)
    return counts


TRIALS = {"marks": marks_trial, "patients": patients_trial}


def _in_words(count: int, of: int) -> str:
    low, high = exact_interval(count, of)
    return f"{count} of {of} ({100 * low:.0f}-{100 * high:.0f} %)"


def write_table(folder: Path) -> None:
    """From the counts of all seeds that are done, each with its own interval: seeds share pictures and must not be pooled."""
    lines = ["| what | by seed, with the exact 95 % interval of each |", "|---|---|"]
    for trial in TRIALS:
        found = [json.loads(path.read_text())["counts"] for path in sorted(folder.glob(f"{trial}_seed*.json"))]
        lines += [
            f"| {name} | {'; '.join(_in_words(*counts[name]) for counts in found)} |" for name in (found[0] if found else ())
        ]
    print("\n".join(lines))
    (folder / "table.md").write_text("\n".join(lines) + "\n")


def write_small(plot: Path, copy: Path) -> None:
    """The plot of the document: the same in 32 colors, so that it is small."""
    with Image.open(plot) as image:
        image.convert("RGB").quantize(32).save(copy, optimize=True)


def write_examples(folder: Path, with_marks: list[Grey], fresh: dict[str, list[Grey]]) -> None:
    """The first seed's pictures as a collection of two folders, and a sheet to look at."""
    for index, picture in enumerate(with_marks):
        path = folder / "data" / ("ipf" if index < IPF else "normal") / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_png(picture))
    rows = [with_marks[:5], with_marks[IPF : IPF + 5], *(pictures[:5] for pictures in fresh.values())]
    (folder / "examples.png").write_bytes(write_png(np.vstack([np.hstack(row) for row in rows])))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.article", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    parser.add_argument("--trial", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    parser.add_argument("--start", default="astra", help="starting weights, as for `train`")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for trial in arguments.trial:
            done = arguments.out / f"{trial}_seed{seed}.json"
            if not done.is_file():
                clock = time.process_time()
                counts = TRIALS[trial](seed, ArticleRecipe(start=arguments.start, seed=seed, size=SIZE), arguments.out)
                done.write_text(json.dumps({"counts": counts, "cpu_seconds": time.process_time() - clock}, indent=1) + "\n")
                print(trial, seed, counts, flush=True)
    write_table(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
