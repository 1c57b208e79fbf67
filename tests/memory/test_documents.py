"""The documents name what is there: modules, floors, URLs, tests, and what they link to."""

import re
import tomllib
from pathlib import Path

import pytest
from support.admin import ADMIN
from support.memory import Service

from echotwist.http.site import FILES, OF_THE_WORKBENCH
from echotwist.lab.cases import CASES
from echotwist.lab.steps import STEPS, Phase, parse

ROOT = Path(__file__).parents[2]

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "trials").rglob("*.md"),
        ROOT / "benchmarks/README.md",
    ]
)

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
README = (ROOT / "README.md").read_text()
LAB = (ROOT / "docs/lab.md").read_text()

MODULES = [name for name in OF_THE_WORKBENCH if name.endswith(".js")]

BESIDE_THE_PAGES = {"/workbench"} | {f"/{n}" for n in FILES if not n.endswith(".html")}


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    for link in links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_document_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs/README.md"
    linked = {
        (index.parent / path).resolve()
        for path in re.findall(r"\]\(([^)#\s]+)", index.read_text())
        if not path.startswith("http")
    }
    assert {path for path in DOCUMENTS if path.parent in (ROOT, ROOT / "docs")} - {index} <= linked


def test_the_architecture_has_every_module_and_no_other() -> None:
    there = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "echotwist").rglob("*")
        if path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".h") and path.name != "__init__.py"
    }
    named = set(re.findall(r"^\| `(echotwist/[\w/]+\.\w+)` \|", ARCHITECTURE, re.M))
    assert named == there


def test_the_architecture_has_the_floors_in_their_order() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = settings["tool"]["importlinter"]["contracts"][0]
    floors = [sorted(layer.split(" | ")) for layer in contract["layers"]]
    table = ARCHITECTURE.partition("| floor |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.M)
    assert [sorted(re.findall(r"`(\w+)`", cell)) for cell in cells] == floors


def test_the_workbench_has_every_module_and_no_other() -> None:
    there = {path.name for path in (ROOT / "echotwist/resources/workbench").glob("*.js")}
    document = (ROOT / "docs/workbench.md").read_text()
    assert set(re.findall(r"`(\w+\.js)`", document)) == there == set(MODULES)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_the_tests_and_modules_that_a_document_names_are_there(name: str) -> None:
    document = (ROOT / name).read_text()
    paths = re.findall(r"`((?:tests|trials|echotwist)/[\w/.]*)`", document)
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists(), path
    for row in document.splitlines():
        files = re.findall(r"`(test_\w+\.py)`", row)
        for test in re.findall(r"`(test_\w+)`", row):
            assert f"def {test}(" in "".join(
                (ROOT / f"tests/memory/{f}").read_text() for f in files
            )


def test_the_readme_has_every_url() -> None:
    root = Service().site.resource
    told = set(re.findall(r"`GET (/[\w.]*)`", README))
    assert told == {f"/{name.decode()}" for name in root.listStaticNames()} - BESIDE_THE_PAGES


def table(phase: Phase) -> str:
    """The steps of the lab, as its document has them."""

    def cell(text: str) -> str:
        return text.replace("|", r"\|")

    heading = f"### {phase.value[0].upper()}{phase.value[1:]}\n\n"
    rows = [
        f"| `{cell(kind.syntax)}` | {kind.cap} | {cell(kind.meaning)} | `{cell(kind.example)}` |\n"
        for kind in STEPS.values()
        if kind.phase is phase
    ]
    return heading + "| step | at most | meaning | example |\n|---|---|---|---|\n" + "".join(rows)


@pytest.mark.parametrize("phase", Phase)
def test_the_lab_is_told_as_its_table_has_it(phase: Phase) -> None:
    assert table(phase) in LAB


def test_every_script_that_a_document_has_is_one() -> None:
    urls = re.findall(r"ws://[\w.:]+/lab\?([^\s`'\"]*)", LAB)
    assert len(urls) > 10
    for query in urls:
        parse(query.replace("$ID", "x" * 22).encode())


def test_the_lab_tells_how_many_cases_there_are() -> None:
    assert f"The catalogue has {len(CASES)} cases" in LAB


def test_the_operators_are_told_of_every_url_of_theirs() -> None:
    root = Service(ADMIN).echo._specs[-1].site.resource
    told = set(re.findall(r"^\| `(/\w+)` \|", OPERATIONS, re.M))
    assert told == {f"/{name.decode()}" for name in root.listStaticNames()}
