"""The command line: read scans, score a collection, keep studies, make the sample scans, train, ship, evaluate, start the page.

Exit codes of `read`: 0 if at least one slice was read, 2 if none was, with the reasons on standard error.
"""

import argparse
import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ipfvision import __version__
from ipfvision.errors import IpfVisionError

if TYPE_CHECKING:
    from ipfvision.core.annotation import OnSlice
    from ipfvision.core.slice import Series, Slice
    from ipfvision.workflow.annotations import Annotated
    from ipfvision.workflow.intake import Refusal
    from ipfvision.workflow.labelled_training import Options

MANY = 5
"""From this many slices on a progress bar is shown."""
BAR = 30


class _Progress:
    """A progress bar on standard error; silent for a handful, and where standard error is not a terminal it is one line."""

    def __init__(self, what: str) -> None:
        from ipfvision.nn.series import Pace

        self.what = what
        self.shown = False
        self.pace = Pace()

    def __call__(self, done: int, total: int) -> None:
        from ipfvision.workflow.series import left_words

        if total <= MANY:
            return
        self.pace.step()
        if sys.stderr.isatty():
            filled, left = BAR * done // total, left_words(self.pace.seconds_left(total - done))
            sys.stderr.write(f"\r{self.what} [{'#' * filled}{'.' * (BAR - filled)}] {done}/{total}{left:<24}")
            self.shown = True
            if done == total:
                self.close()
        elif done == total:
            sys.stderr.write(f"{self.what} {done}/{total}\n")

    def close(self) -> None:
        """End the bar's line, if one was begun."""
        if self.shown:
            sys.stderr.write("\n")
            self.shown = False


def _say(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")


def _parser() -> argparse.ArgumentParser:
    from ipfvision.workflow.reading import DEFAULT_MODEL, METHODS

    parser = argparse.ArgumentParser(
        prog="python -m ipfvision",
        description="How much does a chest CT slice look like idiopathic pulmonary fibrosis (IPF) rather than normal lung, "
        "and where does that come from? Research use only, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"ipfvision {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    read = commands.add_parser("read", help="read DICOM, PNG or JPEG slices, folders or .zip files")
    read.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    read.add_argument("--json", metavar="FILE", help="write the result as JSON; - for standard output")
    read.add_argument("--overlay", type=Path, metavar="FOLDER", help="write each slice with its heat map as PNG")
    read.add_argument("--method", choices=list(METHODS), default="gradcam")
    read.add_argument("--target", choices=["ipf", "normal"], default="ipf", help="the class whose evidence is shown")
    read.add_argument(
        "--annotation",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="compare the maps with these: DICOM SEG or RTSTRUCT, NIfTI, a mask as PNG or TIFF, LabelMe, COCO",
    )
    read.add_argument("--label", nargs="+", metavar="WORD", help="only annotations whose label contains one of these words")
    read.add_argument("--maps", type=Path, metavar="FOLDER", help="write each heat map at slice size as float32 .npy")
    read.add_argument("--trust", action="store_true", help="check whether each map is to be trusted; takes a while")
    read.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="a .safetensors checkpoint")

    agree = commands.add_parser("agree", help="score the maps of a whole collection against its annotations")
    agree.add_argument("source", type=Path, metavar="FOLDER|MANIFEST", help="scans with annotations, or a .csv that names them")
    agree.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the table, the summary and the report")
    agree.add_argument("--label", nargs="+", metavar="WORD", help="only annotations whose label contains one of these words")
    agree.add_argument("--method", choices=list(METHODS), default="gradcam")
    agree.add_argument("--target", choices=["ipf", "normal"], default="ipf")
    agree.add_argument("--model", type=Path, default=DEFAULT_MODEL, metavar="FILE", help="a .safetensors checkpoint")

    samples = commands.add_parser("samples", help="make the synthetic sample scans again")
    samples.add_argument("--out", type=Path, default=None, metavar="FOLDER")

    train = commands.add_parser("train", help="train a checkpoint from slices without fibrosis and drawn lesions")
    train.add_argument("data", type=Path, metavar="DATA", help="a folder with a manifest.csv, or with a folder per class")
    train.add_argument(
        "--recipe",
        choices=["drawn", "labelled", "article"],
        default="drawn",
        help="drawn: lesions drawn into normal slices; labelled: real pictures of both classes; article: the article's own, "
        "never to be shipped",
    )
    train.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where the run lies; a killed run goes on there"
    )
    train.add_argument("--held-out", nargs="+", default=["LIDC-IDRI-0646"], metavar="PATIENT", help="drawn validation")
    train.add_argument(
        "--start", help="random, astra, imagenet, or a checkpoint; without it astra, and the shipped model for labelled"
    )
    train.add_argument("--steps", type=int, default=3600, help="of 32 drawn examples; the shipped model's number without it")
    train.add_argument("--cases", type=int, default=36000, help="drawn training examples; likewise")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--drawing-seed", type=int, metavar="SEED", help="of the drawings; that of the run without it")
    train.add_argument(
        "--outside-weight",
        type=float,
        default=0.0,
        metavar="Q",
        help="drawn: hold the map at 0 outside the lungs, for example 0.1; the shipped model's is 0",
    )
    _add_labelled_options(train, "without it 7 for article, 30 at most for labelled")

    across = commands.add_parser("crossvalidate", help="answer every patient by a network that never saw that patient")
    across.add_argument("data", type=Path, metavar="DATA", help="a folder with a manifest.csv, or with a folder per class")
    across.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for figures and tables; a killed run goes on"
    )
    across.add_argument("--folds", type=int, metavar="N", help="without it every patient is left out alone, 5 for more than 30")
    across.add_argument("--start", help="random, astra, imagenet, or a checkpoint; without it the shipped model")
    across.add_argument("--seed", type=int, default=0)
    _add_labelled_options(across, "at most; 30 without it")

    ship = commands.add_parser("ship", help="calibrate a finished run on real pictures; write weights and card")
    ship.add_argument("run", type=Path, metavar="RUN", help="a folder that train wrote")
    ship.add_argument("data", type=Path, metavar="DATA", help="a folder with a manifest.csv")
    ship.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors to write, with its card")

    precision = commands.add_parser("precision", help="measure on real pictures what bf16 costs, and write it into the card")
    precision.add_argument("model", type=Path, metavar="MODEL", help="a .safetensors checkpoint with its card")
    precision.add_argument("data", type=Path, metavar="DATA", help="a folder with a manifest.csv")

    evaluate = commands.add_parser("evaluate", help="measure a checkpoint on labelled pictures and write a report")
    evaluate.add_argument("model", type=Path, metavar="MODEL", help="a .safetensors checkpoint with its card")
    evaluate.add_argument("data", type=Path, metavar="DATA", help="a folder with a manifest.csv, or with a folder per class")
    evaluate.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the report, the figures, the tables")

    _add_studies(commands.add_parser("studies", help="list, begin, export and import studies of several readers"))

    serve = commands.add_parser("serve", help="start the page")
    serve.add_argument("--port", type=int, default=8501)
    return parser


def _add_studies(parser: argparse.ArgumentParser) -> None:
    """What can be done with studies here; they are read on the page."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="every study, with each member's progress")
    create = actions.add_parser("create", help="begin a study; each series, and each PNG or JPEG, becomes a case")
    create.add_argument("title", metavar="TITLE", help="shown to all readers; name no patient in it")
    create.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    create.add_argument("--coordinator", required=True, metavar="NAME", help="who sees all reviews and exports them")
    create.add_argument("--mode", choices=["blinded", "open"], default="blinded", help="blinded: own opinion first")
    create.add_argument("--seed", type=int, help="of the readers' orders; drawn without it")
    create.add_argument("--stacked-pictures", action="store_true", help="PNG and JPEG files of one folder are one case")
    export = actions.add_parser("export", help="write a whole study as one .zip, without its scans")
    export.add_argument("study", metavar="STUDY", help="its identifier, as list shows it")
    export.add_argument("--by", required=True, metavar="NAME", help="a coordinator of the study")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    take_in = actions.add_parser("import", help="take in a study that was exported elsewhere")
    take_in.add_argument("file", type=Path, metavar="FILE")


def _add_labelled_options(parser: argparse.ArgumentParser, epochs: str) -> None:
    """What a run on labelled pictures can be told."""
    parser.add_argument("--epochs", type=int, help=epochs)
    parser.add_argument("--patience", type=int, default=8, help="labelled: epochs without a better one that end a run")
    parser.add_argument("--batch", type=int, default=8, help="labelled: pictures in a step")
    parser.add_argument("--size", type=_size, metavar="ROWSxCOLUMNS", help="labelled: the model's input, for example 192x256")
    parser.add_argument(
        "--split-images",
        action="store_true",
        help="labelled: split pictures although their patients are not known; every figure is inflated by that",
    )


def _size(word: str) -> tuple[int, int]:
    rows, _, columns = word.lower().partition("x")
    if not (rows.isdecimal() and columns.isdecimal()):
        raise argparse.ArgumentTypeError(f"{word} is not ROWSxCOLUMNS, for example 192x256")
    return int(rows), int(columns)


def _labelled_options(arguments: argparse.Namespace) -> "Options":
    from ipfvision.workflow.labelled_training import EPOCHS, Options

    return Options(
        start=arguments.start,
        size=arguments.size,
        seed=arguments.seed,
        epochs=EPOCHS if arguments.epochs is None else arguments.epochs,
        patience=arguments.patience,
        batch=arguments.batch,
        split_images=arguments.split_images,
    )


def _read(arguments: argparse.Namespace) -> int:
    from ipfvision.workflow.reading import Reader, map_name, overlay_name, picture_png, write_map
    from ipfvision.workflow.scoring import scored_entry, scored_result

    slices, annotations, refusals = _take_in(arguments)
    total = len(slices)
    reader = Reader.open(arguments.model)
    for note in reader.notes:
        _say(note)
    progress = _Progress("reading")
    for folder in (arguments.overlay, arguments.maps):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, reading in enumerate(reader.read_all(_emptied(slices), arguments.method), start=1):
        given = annotations.popleft()
        if arguments.overlay is not None and reading.explanations:
            path = arguments.overlay / overlay_name(number, reading, arguments.target)
            path.write_bytes(picture_png(reader.card, reading, arguments.target))
        if arguments.maps is not None and reading.explanations:
            write_map(arguments.maps / map_name(number, reading, arguments.target), reading.explanations[arguments.target])
        entries.append(scored_entry(reader.card, reading, given, arguments.target))
        if arguments.trust:
            from ipfvision.workflow.trust import check, trust_result

            found = check(reader, reading, given or (), target=arguments.target) if reading.explanations else None
            entries[-1]["trust"] = None if found is None else trust_result(found)
        progress(number, total)
    content = scored_result(reader.card, (), (), arguments.target, refusals)
    content["slices"][:0] = entries
    if arguments.json == "-":
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    elif arguments.json is not None:
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    else:
        _table(content["slices"])
    refused = [part for part in content["slices"] if part["decision"] == "refused"]
    for part in refused:
        _say(f"{part['file']}: {part['reason']}")
    if len(refused) < len(content["slices"]):
        return 0
    _say("No slice could be read.")
    return 2


def _take_in(
    arguments: argparse.Namespace,
) -> "tuple[deque[Slice], deque[tuple[OnSlice, ...] | None], tuple[Refusal, ...]]":
    """Slices in the order of their series, what is annotated on each, and what was refused. Nothing else holds the slices."""
    from ipfvision.workflow.intake import take_in_paths

    intake = take_in_paths(arguments.scans, progress=_Progress("opening"))
    for series in intake.series:
        for note in series.notes:
            _say(note)
    drawn = _annotations(arguments, intake.series)
    slices = deque(scan for series in intake.series for scan in series.slices)
    places = ((number, index) for number, series in enumerate(intake.series) for index in range(len(series.slices)))
    annotations = deque(None if drawn is None else drawn.by_slice.get(place, ()) for place in places)
    return slices, annotations, intake.refusals


def _emptied(slices: "deque[Slice]") -> "Iterator[Slice]":
    """The slices one by one, each let go as it is handed out: a series that was read needs no room."""
    while slices:
        yield slices.popleft()


def _annotations(arguments: argparse.Namespace, series: "Sequence[Series]") -> "Annotated | None":
    """What was annotated on these slices; what cannot be used is said, and the scan is read all the same."""
    if not arguments.annotation:
        return None
    from ipfvision.workflow.annotations import take_in_annotation_paths

    found = take_in_annotation_paths(arguments.annotation, series, labels=arguments.label)
    for note in found.notes:
        _say(note)
    for refusal in found.refusals:
        _say(f"{refusal.file}: {refusal.reason}")
    return found


def _agree(arguments: argparse.Namespace) -> int:
    from ipfvision.workflow.collection import agree_collection
    from ipfvision.workflow.reading import Reader

    def progress(cases: int, slices: int) -> None:
        _say(f"scored: {cases} {'case' if cases == 1 else 'cases'}, {slices} slices")

    reader = Reader.open(arguments.model)
    for note in reader.notes:
        _say(note)
    summary = agree_collection(
        arguments.source, arguments.out, reader, arguments.target, arguments.method, arguments.label, progress
    )
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    return 0


def _table(slices: list[dict[str, object]]) -> None:
    """One line per slice on standard output."""
    for part in slices:
        share = part["probability"]
        value = f"{share['ipf']:.3f}" if isinstance(share, dict) else "    -"
        sys.stdout.write(f"{part['decision']:<10}{value}  {part['file']}\n")


def _samples(arguments: argparse.Namespace) -> int:
    from ipfvision.workflow.samples import SAMPLES, make_samples

    folder = arguments.out or SAMPLES
    make_samples(folder)
    return 0


def _train(arguments: argparse.Namespace) -> int:
    if arguments.recipe == "article":
        from ipfvision.workflow.article import article_run

        article_run(
            arguments.data,
            arguments.out,
            start=arguments.start or "astra",
            epochs=7 if arguments.epochs is None else arguments.epochs,
            seed=arguments.seed,
            say=_say,
            opening=_Progress("opening"),
        )
        return 0
    if arguments.recipe == "labelled":
        from ipfvision.workflow.labelled_training import train_labelled_run

        train_labelled_run(arguments.data, arguments.out, _labelled_options(arguments), _say)
        return 0
    from ipfvision.workflow.training import train_run

    train_run(
        arguments.data,
        arguments.out,
        held_out=arguments.held_out,
        start=arguments.start or "astra",
        steps=arguments.steps,
        cases=arguments.cases,
        seed=arguments.seed,
        drawing_seed=arguments.drawing_seed,
        outside_weight=arguments.outside_weight,
        say=_say,
    )
    return 0


def _crossvalidate(arguments: argparse.Namespace) -> int:
    from ipfvision.workflow.crossvalidation import crossvalidate

    summary = crossvalidate(arguments.data, arguments.out, _labelled_options(arguments), arguments.folds, _say)
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    return 0


def _ship(arguments: argparse.Namespace) -> int:
    from ipfvision.workflow.shipping import ship

    figures = ship(arguments.run, arguments.data, arguments.out, _say)["figures"]
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0


def _precision(arguments: argparse.Namespace) -> int:
    from ipfvision.workflow.shipping import measure_precision

    sys.stdout.write(json.dumps(measure_precision(arguments.model, arguments.data, _say), indent=1) + "\n")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from ipfvision.workflow.evaluation import evaluate

    evaluate(arguments.model, arguments.data, arguments.out, _say)
    _say(f"{arguments.out / 'report.html'} shows the figures; figures.json beside it holds them all.")
    return 0


def _studies(arguments: argparse.Namespace) -> int:
    from ipfvision.core.review import Mode
    from ipfvision.whole_file import write_whole
    from ipfvision.workflow.intake import take_in_paths
    from ipfvision.workflow.studies import Studies, split_pictures
    from ipfvision.workflow.study_archive import read_study, write_study

    with Studies.open() as studies:
        if arguments.action == "list":
            for study in studies.all():
                sys.stdout.write(f"{study.id}  {study.mode:<8}{study.created:%Y-%m-%d}  {study.title}\n")
                for name, (done, total) in studies.progress(study.id).items():
                    sys.stdout.write(f"  {done}/{total}  {name}\n")
        elif arguments.action == "create":
            intake = take_in_paths(arguments.scans, progress=_Progress("opening"))
            for refusal in intake.refusals:
                _say(f"{refusal.file}: {refusal.reason}")
            if not intake.series:
                _say("No scan could be read, so no study was begun.")
                return 2
            scans = intake.series if arguments.stacked_pictures else split_pictures(intake.series)
            study = studies.create(arguments.title, arguments.coordinator, Mode(arguments.mode), arguments.seed)
            added = studies.add_cases(study.id, arguments.coordinator, scans)
            again = f"; {added.known} scans given more than once" if added.known else ""
            _say(f"Cases: {len(added.cases)}{again}. The scans are not kept: readers give them again on the page.")
            sys.stdout.write(study.id + "\n")
        elif arguments.action == "export":
            write_whole(arguments.out, write_study(studies, arguments.study, arguments.by))
        else:
            study = read_study(studies, arguments.file.read_bytes())
            sys.stdout.write(study.id + "\n")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    app = Path(__file__).parents[1] / "streamlit_app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(app), "--server.port", str(arguments.port)]
    return subprocess.call(command, cwd=app.parent)  # noqa: S603 - our own file, a number


COMMANDS = {
    "read": _read,
    "agree": _agree,
    "samples": _samples,
    "train": _train,
    "crossvalidate": _crossvalidate,
    "evaluate": _evaluate,
    "ship": _ship,
    "precision": _precision,
    "studies": _studies,
    "serve": _serve,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error that was raised on purpose is one sentence on standard error and exit code 2."""
    given = _parser().parse_args(arguments)
    try:
        return COMMANDS[given.command](given)
    except IpfVisionError as error:
        _say(str(error))
    except OSError as error:
        _say(f"{error.filename or 'A file'}: {error.strerror or error}.")
    except KeyboardInterrupt:
        _say("Cancelled.")
    return 2
