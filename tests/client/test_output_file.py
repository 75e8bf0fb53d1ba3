"""Where answers are written: nothing but the contents of a file is ever replaced."""

import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from hessian_spectrum.client.output_file import check_writable, output_file

CONTENT = b"an answer"


def write(path: Path) -> None:
    check_writable(path)
    with output_file(path) as file:
        file.write(CONTENT)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def fail(file: BinaryIO) -> None:
        file.write(CONTENT)
        raise RuntimeError

    with pytest.raises(RuntimeError), output_file(path) as file:
        fail(file)
    assert path.read_bytes() == b"before"
    write(path)
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_rights_and_a_replaced_one_keeps_its_own(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write(tmp_path / "new")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "private").touch(0o600)
    write(tmp_path / "private")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.chown(tmp_path / "a", 12345, 54321)
    write(tmp_path / "a")
    assert ((tmp_path / "a").stat().st_uid, (tmp_path / "a").stat().st_gid) == (12345, 54321)


@pytest.mark.parametrize("exists", [True, False])
def test_links_are_followed(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "elsewhere" / "a.png"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"before")
    (tmp_path / "link").symlink_to("elsewhere/a.png")
    (tmp_path / "link-to-link").symlink_to(tmp_path / "link")
    write(tmp_path / "link-to-link")
    assert target.read_bytes() == CONTENT
    assert (tmp_path / "link-to-link").is_symlink()
    assert (tmp_path / "link").is_symlink()
    assert list(target.parent.iterdir()) == [target]


def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(path.read_bytes()), daemon=True)
    reader.start()
    write(path)
    reader.join(10)
    assert heard == [CONTENT]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    write(tmp_path / "link")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_a_descriptor_of_a_file_is_written_on(tmp_path: Path) -> None:
    """As in `(echo before; spectrum ... -o /dev/stdout) > file`: neither replaced nor begun anew."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(b"before ")
        file.flush()
        inode = path.stat().st_ino
        write(Path(f"/dev/fd/{file.fileno()}"))
        file.write(b" after")
    assert path.read_bytes() == b"before an answer after"
    assert path.stat().st_ino == inode


def test_what_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for path, error in (
        (tmp_path / "none" / "a.png", FileNotFoundError),
        (tmp_path / "file" / "a.png", NotADirectoryError),
        (tmp_path, IsADirectoryError),
        (tmp_path / "loop", OSError),
    ):
        with pytest.raises(error):
            check_writable(path)
        with pytest.raises(error), output_file(path):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".png")
    write(path)
    assert path.read_bytes() == CONTENT


def test_a_descriptor_that_is_not_for_writing_is_refused_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with path.open("rb") as file:
        with pytest.raises(OSError, match="Bad file descriptor"):
            check_writable(Path(f"/dev/fd/{file.fileno()}"))
        check_writable(path)
