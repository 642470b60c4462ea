"""What ARCHITECTURE.md and requirements.txt promise, beyond the import contracts that `make lint` checks."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ipfvision"


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_print_no_exit_no_assert_inside_the_package(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        assert not isinstance(node, ast.Assert), f"assert in {module.name}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"print", "exit", "quit"}, f"{called} in {module.name}"
            assert called != "sys.exit" or module.name == "__main__.py"


def test_naming_the_package_and_its_use_cases_does_not_import_torch_or_streamlit() -> None:
    code = (
        "import sys, ipfvision.workflow.reading, ipfvision.workflow.intake, ipfvision.cli;"
        "print([name for name in ('torch', 'torchvision', 'streamlit', 'pytorch_grad_cam', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_server_starts_before_the_rest_of_the_page_is_imported() -> None:
    code = (
        "import sys, ipfvision.ui.server;"
        "print([name for name in ('torch', 'cv2', 'pydicom', 'sqlalchemy', 'ipfvision.workflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_requirement_says_why_it_is_there() -> None:
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#") and not line.startswith("opencv"):
            assert "  # " in line, line


def test_no_gpl_in_the_product() -> None:
    from importlib.metadata import PackageNotFoundError, metadata

    names = [
        re.split(r"[<>=~! \[]", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if line[:1].isalpha()
    ]
    for name in names:
        try:
            found = metadata(name)
        except PackageNotFoundError:  # pragma: no cover - `make test` installs all of them
            pytest.fail(f"{name} is not installed")
        words = " ".join(
            [found.get("License") or "", found.get("License-Expression") or ""] + (found.get_all("Classifier") or [])
        )
        head = words[:400]
        assert not re.search(r"\bA?GPL|GNU (Affero )?General Public", head), f"{name}: {head}"


def test_cv2_imports_without_libgl() -> None:
    """The headless wheel's file must have won over opencv-python's, which links libGL."""
    code = "import cv2; print([line for line in open('/proc/self/maps') if 'libGL' in line])"
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc to see which libraries are loaded")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_documents_name_only_files_that_exist() -> None:
    for document in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
