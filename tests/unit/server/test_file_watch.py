"""Files outside of the policy directory: what counts as a change."""

from pathlib import Path

from ext_authz.server.file_watch import FileWatch
from ext_authz.tokens.key_files import stamps_now


def looks(watch: FileWatch, count: int = 3) -> list[bool]:
    """Look that often and return what was told."""
    return [watch.is_change(stamps_now(watch.expected)) for _ in range(count)]


def watched(*paths: Path) -> FileWatch:
    return FileWatch(stamps_now(dict.fromkeys(paths)))


def test_nothing_changed(tmp_path: Path) -> None:
    """A file that is as it was read, and one that was never there, are no change."""
    (tmp_path / "a").write_text("1")
    assert [False] * 3 == looks(watched(tmp_path / "a", tmp_path / "b"))


def test_changes(tmp_path: Path) -> None:
    """Written in place, renamed into place, removed, and back: each is told once, when two looks agree."""
    path = tmp_path / "bundle.pem"
    path.write_text("1")
    watch = watched(path)
    path.write_text("22")
    assert [False, True, False] == looks(watch)
    (tmp_path / "new").write_text("33")
    (tmp_path / "new").rename(path)
    assert [False, True, False] == looks(watch)
    path.unlink()
    assert [False, True, False] == looks(watch)
    path.write_text("33")
    assert [False, True, False] == looks(watch)


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    """As long as it grows from look to look, it is not read."""
    path = tmp_path / "bundle.pem"
    path.write_text("")
    watch = watched(path)
    told = []
    for size in range(1, 4):
        path.write_text("x" * size)
        told += looks(watch, 1)
    assert [False] * 3 == told
    assert [True, False] == looks(watch, 2)


def test_a_link_that_is_swapped(tmp_path: Path) -> None:
    """Behind a symbolic link the file counts, as Kubernetes swaps it."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bundle.pem").write_text(name)
    (tmp_path / "data").symlink_to("old")
    watch = watched(tmp_path / "data" / "bundle.pem")
    (tmp_path / "data_tmp").symlink_to("new")
    (tmp_path / "data_tmp").rename(tmp_path / "data")
    assert [False, True, False] == looks(watch)


def test_files_of_a_directory(tmp_path: Path) -> None:
    """A directory changes when a file appears in it, or leaves it."""
    watch = watched(tmp_path)
    (tmp_path / "a.json").write_text("{}")
    assert [False, True, False] == looks(watch)


def test_what_was_looked_at_before_a_reload(tmp_path: Path) -> None:
    """Stamps of files that nobody expects any more say nothing about those that came in their place."""
    (tmp_path / "a").write_text("1")
    watch = watched(tmp_path / "a")
    (tmp_path / "a").write_text("22")
    found = stamps_now(watch.expected)
    watch.expect(stamps_now({tmp_path / "b": None}))
    assert [False, False] == [watch.is_change(found) for _ in range(2)]
