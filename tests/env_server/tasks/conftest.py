"""A small package of our own, offered to pip as a source distribution, and tasks made from it once per run."""

import asyncio
import io
import os
import tarfile
from pathlib import Path

import pytest

from env_server.schema import Task
from env_server.tasks.make import make_tasks
from sandboxes import open_backend
from sandboxes.base import Backend

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1.0"
"""
SHAPES = '''\
"""Areas and names."""

from shapes_demo._round import to_places


def area(width, height, places=2):
    """Of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("negative side")
    return to_places(width * height, places)


def label(name, count):
    """A name with its plural."""
    if count == 1:
        return name
    if name.endswith("x"):
        return name + "es"
    return name + "s"


def chunks(items, size):
    """Lists of at most `size` items."""
    found = []
    for start in range(0, len(items), size):
        found.append(items[start:start + size])
    return found


def vendored(value):
    """Stands a second time in docs/copy.py, so no bug may be planted here."""
    if value > 10:
        return value - 1
    return value + 1
'''
ROUND = '''\
def to_places(value, places):
    """Half up."""
    factor = 10 ** places
    return int(value * factor + 0.5) / factor
'''
TESTS = """\
import pytest

from shapes_demo import area, chunks, label, vendored


@pytest.mark.parametrize("sides, result", [((2, 3), 6.0), ((1.5, 1.5), 2.25), ((0, 4), 0.0)])
def test_area(sides, result):
    assert area(*sides) == result


def test_area_refuses_negative_sides():
    with pytest.raises(ValueError):
        area(-1, 2)
    with pytest.raises(ValueError):
        area(2, -1)


class TestLabel:
    def test_one(self):
        assert label("cat", 1) == "cat"

    def test_many(self):
        assert label("cat", 2) == "cats"

    def test_box(self):
        assert label("box", 3) == "boxes"


def test_chunks():
    assert chunks([1, 2, 3], 2) == [[1, 2], [3]]


def test_no_chunks():
    assert chunks([], 2) == []


def test_vendored():
    assert vendored(11) == 10
    assert vendored(1) == 2
"""
DEMO = {
    "pyproject.toml": PROJECT.format(name="shapes-demo"),
    "src/shapes_demo/__init__.py": SHAPES,
    "src/shapes_demo/_round.py": ROUND,
    "tests/test_shapes.py": TESTS,
    "docs/copy.py": SHAPES[SHAPES.index("def vendored") :],
    "build/lib/shapes_demo/__init__.py": SHAPES,
}
UNTESTED = {"pyproject.toml": PROJECT.format(name="untested-demo"), "untested_demo.py": "def f():\n    return 1\n"}
BROKEN = {
    "pyproject.toml": PROJECT.format(name="broken-demo") + '[tool.setuptools]\npy-modules = ["broken_demo"]\n',
    "broken_demo.py": "def f():\n    return 1\n",
    "test_broken.py": "import a_module_that_nobody_has\n\ndef test_f():\n    assert True\n",
}
TINY = {
    "pyproject.toml": PROJECT.format(name="tiny-demo") + '[tool.setuptools]\npy-modules = ["tiny_demo"]\n',
    "tiny_demo.py": "def least(a, b):\n    return a if a < b else b\n",
    "test_tiny.py": "from tiny_demo import least\n\n\n"
    + "".join(f"def test_{n}():\n    assert least({n}, 3) == {min(n, 3)}\n\n\n" for n in range(6)),
}


def write_sdist(folder: Path, name: str, files: dict[str, str]) -> Path:
    """A source distribution with these files."""
    archive = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for path, text in files.items():
            info = tarfile.TarInfo(f"{name}-1.0/{path}")
            info.size = len(text.encode())
            info.mtime = 1_600_000_000
            packed.addfile(info, io.BytesIO(text.encode()))
    return archive


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    """Makes pip find our packages, beside all others."""
    folder = tmp_path_factory.mktemp("index")
    demos = {"shapes_demo": DEMO, "untested_demo": UNTESTED, "broken_demo": BROKEN, "tiny_demo": TINY}
    for name, files in demos.items():
        write_sdist(folder, name, files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_FIND_LINKS", f"{os.environ.get('PIP_FIND_LINKS', '')} {folder}".strip())
        patch.setenv("AGENT_SRL_HOME", str(tmp_path_factory.mktemp("home")))
        yield folder


@pytest.fixture
async def backend() -> Backend:
    opened = open_backend("bubblewrap")
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
def made(index, tmp_path_factory) -> tuple[list[Task], Path, list[str]]:
    """Tasks of all three packages, the folder they were written to, and the notes on the way."""
    out = tmp_path_factory.mktemp("out")
    notes: list[str] = []

    async def make() -> list[Task]:
        opened = open_backend("bubblewrap")
        try:
            return await make_tasks(
                ["untested-demo", "shapes-demo", "broken-demo"],
                6,
                out,
                seed=1,
                difficulty="medium",
                workers=2,
                backend=opened,
                on_note=notes.append,
            )
        finally:
            await opened.close()

    return asyncio.run(make()), out, notes


@pytest.fixture
def task(made) -> Task:
    """One of them."""
    return made[0][0]
