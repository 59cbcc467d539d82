"""SELinux policies inside a root, and setfiles as the one who knows what they say about a store.

The labels are those the policy gives ``/var/lib/containers/storage/...``, as bootc's own labelling
does (bootc crates/lib/src/podstorage.rs, SYS_CSTOR_PATH).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs
from installer_plugin.process.foreign_texts import wrong_labels_of_setfiles
from installer_plugin.process.runner import Command, Runner, private_mounts_argv

SETFILES = "setfiles"
SETFILES_HINT = "install policycoreutils, which has setfiles"
CONFIGS = ("etc/selinux/config", "usr/etc/selinux/config")
"""In a deployment ``/etc`` is made from ``/usr/etc``; in a container image there is only one of them."""
SUFFIXES = ("", ".homedirs", ".local", ".subs", ".subs_dist")
"""Files that libselinux reads together (selabel_file(5))."""
BOOTC_STAMP = "/.bootc_labeled"
"""Written by bootc after we are done, and labelled by it where it has a policy: not ours to judge."""
STORE_PATH = "var/lib/containers/storage"
_CONTEXTS_LIMIT = 64 << 20
_TYPE = re.compile(r"^\s*SELINUXTYPE\s*=\s*([A-Za-z0-9_.-]+)\s*$", re.MULTILINE)
_MODE = re.compile(r"^\s*SELINUX\s*=\s*(\w+)\s*$", re.MULTILINE)

BIND_SCRIPT = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


@dataclass(frozen=True, slots=True)
class Policy:
    """The file contexts of a root's policy."""

    name: str
    """``SELINUXTYPE``."""
    where: str
    """The root it was found in."""
    contexts: dict[str, bytes]
    """Content of ``file_contexts`` and its companions, by suffix."""


@dataclass(frozen=True, slots=True)
class WrongLabel:
    """A file whose label is not the policy's."""

    path: str
    """Relative to the graph root."""
    seen: str
    expected: str


def find_policy(root: Rootfs) -> Policy | None:
    """The policy that the system in *root* would load; None without one or when it is disabled.

    Raises DataError for a configuration that names a policy without file contexts.
    """
    config = next((path for path in CONFIGS if root.exists(path)), None)
    if config is None:
        return None
    text = root.read_text(config)
    mode, name = _MODE.search(text), _TYPE.search(text)
    if name is None or (mode and mode[1].lower() == "disabled"):
        return None
    base = f"{config.rpartition('/')[0]}/{name[1]}/contexts/files/file_contexts"
    if not root.exists(base):
        raise DataError(
            config,
            f"names the policy {name[1]}, which has no {base}",
            hint="install the policy in the OS image, or set SELINUX=disabled there",
        )
    contexts = {
        suffix: root.read_bytes(base + suffix, limit=_CONTEXTS_LIMIT)
        for suffix in SUFFIXES
        if root.exists(base + suffix)
    }
    return Policy(name[1], root.label, contexts)


def setfiles_argv(graph_root: Path, scratch: Path, *, check: bool) -> tuple[str, ...]:
    """Label the store as the policy in *scratch* says, or with *check* only tell what is wrong.

    The store is bind-mounted, privately, at the path that the policy has rules for.
    """
    place = scratch / "root" / STORE_PATH
    mode = ("-n", "-v") if check else ()
    setfiles = (
        SETFILES, "-F", *mode, "-r", str(scratch / "root"), str(_contexts(scratch)), str(place)
    )  # fmt: skip
    script = ("sh", "-c", BIND_SCRIPT, "sh", str(graph_root), str(place))
    return private_mounts_argv((*script, *setfiles))


def label_store(graph_root: Path, policy: Policy, scratch: Path, runner: Runner) -> None:
    """Give every file of the store its label; raises CommandError and OSError."""
    _lay_out(policy, scratch)
    argv = setfiles_argv(graph_root, scratch, check=False)
    runner.run(Command(argv=argv, purpose=f"label {graph_root}"))


def wrong_labels(
    graph_root: Path, policy: Policy, scratch: Path, runner: Runner
) -> tuple[WrongLabel, ...]:
    """Files of the store whose label is not the policy's; raises CommandError and OSError."""
    _lay_out(policy, scratch)
    argv = setfiles_argv(graph_root, scratch, check=True)
    completed = runner.run(Command(argv=argv, purpose=f"read the labels of {graph_root}"))
    output = completed.stdout.decode(errors="surrogateescape") + completed.stderr
    prefix = f"{scratch / 'root' / STORE_PATH}"
    wrong = (
        WrongLabel(found.path.removeprefix(prefix) or "/", found.seen, found.expected)
        for found in wrong_labels_of_setfiles(output)
    )
    return tuple(file for file in wrong if file.path != BOOTC_STAMP)


def _contexts(scratch: Path) -> Path:
    return scratch / "policy" / "file_contexts"


def _lay_out(policy: Policy, scratch: Path) -> None:
    (scratch / "root" / STORE_PATH).mkdir(parents=True)
    base = _contexts(scratch)
    base.parent.mkdir()
    for suffix, content in policy.contexts.items():
        base.with_name(base.name + suffix).write_bytes(content)
