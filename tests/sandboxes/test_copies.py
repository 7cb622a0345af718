"""Copies to and from an untrusted place never leave it, whatever names and links it holds."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sandboxes import archives, folders, trees


def archive(*members: tuple[str, bytes | None, dict]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as out:
        for name, data, options in members:
            info = tarfile.TarInfo(name)
            info.size = len(data or b"")
            info.mode = 0o644
            for key, value in options.items():
                setattr(info, key, value)
            out.addfile(info, io.BytesIO(data or b""))
    stream.seek(0)
    return stream


FOLDER = {"type": tarfile.DIRTYPE}


@pytest.mark.parametrize("name", ["top/../../evil", "/etc/evil", "../evil"])
def test_an_archive_cannot_name_its_way_out(tmp_path: Path, name):
    with pytest.raises(ValueError, match="leads out"):
        archives.unpack(archive(("top", None, FOLDER), (name, b"x", {})), tmp_path, max_bytes=100)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_cannot_write_through_its_own_links(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    target = tmp_path / "target"
    target.mkdir()
    link = {"type": tarfile.SYMTYPE, "linkname": str(outside)}
    with pytest.raises(OSError, match="directory"):
        archives.unpack(archive(("top/a", None, link), ("top/a/new", b"x", {})), target, max_bytes=100)
    direct = {"type": tarfile.SYMTYPE, "linkname": str(outside / "file")}
    archives.unpack(archive(("top/b", None, direct), ("top/b", b"x", {})), target, max_bytes=100)
    hard = {"type": tarfile.LNKTYPE, "linkname": "top/c"}
    with pytest.raises(OSError, match="symbolic links"):
        archives.unpack(archive(("top/c", None, direct), ("top/d", None, hard)), target, max_bytes=100)
    assert (target / "b").read_text() == "x" and not (target / "b").is_symlink()
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "mine"


def test_an_archive_is_bounded_and_must_be_of_a_folder(tmp_path: Path):
    with pytest.raises(ValueError, match="larger"):
        archives.unpack(archive(("top/a", b"x" * 60, {}), ("top/b", b"x" * 60, {})), tmp_path, max_bytes=100)
    with pytest.raises(NotADirectoryError):
        archives.unpack(archive(("top", b"x", {})), tmp_path, max_bytes=100)
    archives.unpack(archive(("top/dev", None, {"type": tarfile.FIFOTYPE})), tmp_path, max_bytes=100)
    assert not (tmp_path / "dev").exists()


def test_opening_a_folder_refuses_links_on_the_way(tmp_path: Path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    os.close(trees.open_folder(tmp_path, ("real", "deep")))
    with pytest.raises(NotADirectoryError):
        trees.open_folder(tmp_path, ("link", "deep"))
    with pytest.raises(NotADirectoryError):
        trees.open_folder(tmp_path, ("link", "new"), make=True)
    assert not (tmp_path / "real" / "new").exists()


def test_a_copy_replaces_links_instead_of_following_them(tmp_path: Path):
    outside, source, target = tmp_path / "outside", tmp_path / "source", tmp_path / "target"
    (source / "dir").mkdir(parents=True)
    (source / "dir" / "new").write_text("new")
    (source / "file").write_text("new")
    for folder in (outside, target):
        folder.mkdir()
    (outside / "file").write_text("mine")
    (target / "dir").symlink_to(outside)
    (target / "file").symlink_to(outside / "file")
    inner, outer = trees.open_folder(source, ()), trees.open_folder(target, ())
    assert trees.copy_tree(inner, outer) == 6
    assert (target / "dir" / "new").read_text() == (target / "file").read_text() == "new"
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "mine"
    os.close(inner)
    os.close(outer)


def test_the_bound_counts_the_whole_tree(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a").mkdir(parents=True)
    target.mkdir()
    for path in (source / "a" / "x", source / "a" / "y", source / "z"):
        path.write_bytes(b"x" * 40)
    inner, outer = trees.open_folder(source, ()), trees.open_folder(target, ())
    with pytest.raises(ValueError, match="larger"):
        trees.copy_tree(inner, outer, max_bytes=119)
    assert trees.copy_tree(inner, outer, max_bytes=120) == 120
    os.close(inner)
    os.close(outer)


def deepen(folder: Path, levels: int) -> None:
    """Folders in folders, deeper than a path can name."""
    current = trees.open_folder(folder, ())
    for _ in range(levels):
        os.mkdir("d", dir_fd=current)
        inner = os.open("d", trees.FOLDER, dir_fd=current)
        os.close(current)
        current = inner
    os.close(current)


@pytest.mark.parametrize("part", ["d", "d" * 200])
def test_a_tree_that_is_too_deep_to_copy_is_refused_and_not_an_error_of_ours(tmp_path: Path, part):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "/".join([part] * 5)).mkdir(parents=True)
    folders.download(source, (), target, 100)
    assert (target / "/".join([part] * 5)).is_dir()
    (source / "/".join([part] * (1024 // max(16, len(part)) + 1))).mkdir(parents=True)
    with pytest.raises(ValueError, match="deeper than allowed"):
        folders.download(source, (), target, 100)


def test_a_deep_tree_with_closed_folders_is_removed(tmp_path: Path):
    for name in ("path", "open"):
        (tmp_path / name).mkdir()
        deepen(tmp_path / name, 3000)
        (tmp_path / name / "closed").mkdir(mode=0)
    trees.remove_tree(tmp_path / "path")
    folder = trees.open_folder(tmp_path, ())
    trees.clear(folder, "open")
    os.close(folder)
    assert list(tmp_path.iterdir()) == []


def test_what_moves_away_during_a_copy_is_left_out(tmp_path: Path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "kept").write_text("kept")
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*listed(folder), "gone"])
    folders.download(source, (), target, 100)
    assert listed(target) == ["kept"]


def test_no_more_is_copied_of_a_growing_file_than_it_held_when_it_was_measured(tmp_path: Path):
    (tmp_path / "grown").write_bytes(b"x" * 3_000_000)
    source, target = trees.open_folder(Path(f"/proc/{os.getpid()}"), ()), trees.open_folder(tmp_path, ())
    assert trees.copy_file(source, "status", target, "copy", max_bytes=0) == 0  # its size is given as 0
    assert (tmp_path / "copy").read_bytes() == b""
    with (tmp_path / "grown").open("rb") as content:
        assert trees.write_file(target, "part", content, 2_000_000, 0o644, 0) == 2_000_000
    assert (tmp_path / "part").stat().st_size == 2_000_000
    os.close(source)
    os.close(target)
