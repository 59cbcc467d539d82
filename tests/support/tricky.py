"""File-system content that copying and verifying get wrong when they are careless.

Run as `python -m tests.support.tricky DIR` inside the mount namespace that sees a container's root.
"""

import os
import shutil
import stat
import sys
from pathlib import Path

LONG_NAME = "n" * 180
LONG_PATH = "/".join(["opt", "deep", *(f"{number:02d}" + "d" * 58 for number in range(6)), "end"])
NON_UTF8_NAME = b"caf\xe9-\xff"
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
NANOSECONDS = 1_600_000_000_123_456_789
SPARSE_SIZE = 4 << 20

BASE_FILES = {
    "etc/os-release": "ID=base\n",
    "etc/removed": "goes away in the layer above\n",
    "etc/replaced": "old content\n",
    "data/opaque/old": "hidden by an opaque directory\n",
    "data/merged/lower": "stays visible\n",
}
"""What the layer above the base removes, replaces, hides and keeps."""


def write_base(root: Path) -> None:
    """Write the files of the base layer."""
    for name, text in BASE_FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_tree(root: Path) -> None:
    """Change a root that has the base content in every way that a layer can record."""
    _change_base(root)
    opt = root / "opt"
    opt.mkdir(exist_ok=True)
    _write_files(opt)
    _write_links(opt)
    _write_special(opt)
    (root / LONG_PATH).parent.mkdir(parents=True)
    (root / LONG_PATH).write_text("long path\n")
    # Directories last: writing into them changes their time.
    (opt / "sticky").mkdir()
    (opt / "sticky").chmod(0o1777)
    os.utime(opt / "sticky", ns=(NANOSECONDS, NANOSECONDS))


def _change_base(root: Path) -> None:
    (root / "etc/removed").unlink()
    (root / "etc/replaced").write_text("new content\n")
    shutil.rmtree(root / "data/opaque")
    (root / "data/opaque").mkdir()
    (root / "data/opaque/new").write_text("alone here\n")
    (root / "data/merged/upper").write_text("beside the lower one\n")


def _write_files(opt: Path) -> None:
    (opt / "empty").touch()
    (opt / "spaces and\nnewline").write_text("odd name\n")
    (opt / LONG_NAME).write_text("long name\n")
    (opt / os.fsdecode(NON_UTF8_NAME)).write_text("name is not UTF-8\n")
    (opt / "hülle-Ω").write_text("name is UTF-8\n")
    (opt / "setuid").write_text("#!/bin/sh\n")
    os.chown(opt / "setuid", 1234, 4321)
    (opt / "setuid").chmod(0o4755)
    (opt / "unreadable").write_text("mode 0\n")
    (opt / "unreadable").chmod(0)
    shutil.copy(machine_busybox(), opt / "capable")
    os.setxattr(opt / "capable", "security.capability", CAPABILITY)
    (opt / "user-xattr").write_text("has an attribute\n")
    os.setxattr(opt / "user-xattr", "user.note", b"binary \x00\xff value")
    with (opt / "sparse").open("wb") as sparse:
        sparse.truncate(SPARSE_SIZE)
        sparse.seek(SPARSE_SIZE // 2)
        sparse.write(b"island")
    (opt / "nanoseconds").write_text("precise\n")
    os.utime(opt / "nanoseconds", ns=(NANOSECONDS, NANOSECONDS))


def _write_links(opt: Path) -> None:
    (opt / "hard-1").write_text("three names\n")
    (opt / "hard-2").hardlink_to(opt / "hard-1")
    (opt / "links").mkdir()
    (opt / "links/hard-3").hardlink_to(opt / "hard-1")
    (opt / "links/absolute").symlink_to("/etc/os-release")
    (opt / "links/relative").symlink_to("../empty")
    (opt / "links/escaping").symlink_to("../../../../../../etc/passwd")
    (opt / "links/dangling").symlink_to("/nowhere")
    (opt / "links/long").symlink_to("t" * 200)


def _write_special(opt: Path) -> None:
    os.mkfifo(opt / "fifo", 0o620)
    os.mknod(opt / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(opt / "block", stat.S_IFBLK | 0o660, os.makedev(7, 99))


def machine_busybox() -> Path:
    """Find the machine's static busybox."""
    found = shutil.which("busybox")
    if found is None:
        message = "busybox is missing: install busybox-static (Debian) or busybox (Fedora)"
        raise FileNotFoundError(message)
    return Path(found)


if __name__ == "__main__":
    write_tree(Path(sys.argv[1]))
