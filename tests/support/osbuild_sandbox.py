"""Runs a stage as osbuild does: Debian's bubblewrap, no network, an empty /var, read-only inputs.

What is mounted where, the environment and the capabilities are those of osbuild's buildroot.py and
pipeline.py; the build root is this machine. `osbuild.api` has nothing but the two functions that a
stage may call.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.commands import run, unshared

STAGES = Path(__file__).parents[2] / "hooks/osbuild"
STAGE = "org.bootc-bound-images.install"
API = """\
import json

def arguments():
    with open("/run/osbuild/api/arguments", encoding="utf8") as file:
        return json.load(file)

def metadata(data):
    with open("/run/osbuild/meta", "w", encoding="utf8") as file:
        json.dump(data, file, indent=2)
"""
CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK",
    "LINUX_IMMUTABLE", "MAC_OVERRIDE", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_ADMIN", "SYS_CHROOT", "SYS_NICE",
)  # fmt: skip
"""osbuild's own; not SYS_RESOURCE, which not every machine can give."""

# It has the machine's interpreter by its number, and an older one's answers.
_OLD = """\
#!/bin/sh
case "$1" in
-c) exit 1 ;;
esac
exec /run/python "$@"
"""

# What podman leaves on a store, and what osbuild's inputs and mounts are on the host.
_PRELUDE = (
    'mkdir -p "$INPUTS/images/storage"\n'
    'mount --bind "$STORE/overlay" "$STORE/overlay"\n'
    'mount --rbind "$STORE" "$INPUTS/images/storage"\n'
)
_DIRECTORY = 'mkdir -p "$INPUTS/images"\nmount --bind "$STORE" "$INPUTS/images"\n'
_RUNNER = '#!/bin/sh\nexec "$@"\n'


def make_library(library: Path, program: Path | None, *, stage: bool = True) -> Path:
    """Make osbuild's library directory, with our stage, and the program in one file beside them."""
    (library / "osbuild").mkdir(parents=True)
    (library / "osbuild/__init__.py").touch()
    (library / "osbuild/api.py").write_text(API)
    if stage:
        shutil.copytree(STAGES, library / "stages")
    else:
        (library / "stages").mkdir()
    if program:
        shutil.copy(program, library / "bootc-bound-images.pyz")
    return library


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A build root with an osbuild library directory that has our stage."""

    directory: Path
    store: Path
    """Graph root of the host's store."""
    library: Path
    """osbuild's library directory, with the stage; see :func:`make_library`."""
    no_python: bool = False
    """Whether the build root has no Python that is new enough: those of the machine are hidden."""
    images: Path | None = None
    """A directory of `dir:` images by ID, in the place of the store."""

    def run(self, arguments: Mapping[str, Any], root: Path) -> "Ended":
        """Run the stage on what is mounted at *root*."""
        work = self.directory / "work"
        shutil.rmtree(work, ignore_errors=True)
        for name in ("inputs", "tree", "var/tmp", "dev"):
            (work / name).mkdir(parents=True)
        (work / "meta").touch()
        (work / "runner").write_text(_RUNNER)
        (work / "runner").chmod(0o755)
        (work / "arguments").write_text(json.dumps(arguments))
        env = {"INPUTS": str(work / "inputs"), "STORE": str(self.images or self.store)}
        prelude = _DIRECTORY if self.images else _PRELUDE
        argv = unshared(self._argv(work, root), prelude=prelude + 'exec "$@"\n')
        done = run(argv, env=env, ok=(0, 1))
        text = (work / "meta").read_text()
        return Ended(done, json.loads(text) if text else {})

    def _old(self) -> Path:
        """A Python that runs the stage itself, and says that it is too old for the program."""
        old = self.directory / "python-old"
        old.write_text(_OLD)
        old.chmod(0o755)
        return old

    def _argv(self, work: Path, root: Path) -> tuple[str, ...]:
        hidden = [path for path in Path("/usr/bin").glob("python3*") if self.no_python]
        python = [word for path in hidden for word in ("--ro-bind", str(self._old()), str(path))]
        capabilities = (word for name in CAPABILITIES for word in ("--cap-add", f"CAP_{name}"))
        return (
            "bwrap", "--chdir", "/", "--die-with-parent", "--new-session",
            "--unshare-ipc", "--unshare-pid", "--unshare-net",
            "--cap-drop", "ALL", *capabilities, "--cap-add", "CAP_MAC_ADMIN",
            "--ro-bind", "/usr", "/usr", *python,
            "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
            "--symlink", "usr/bin", "/bin", "--symlink", "usr/sbin", "/sbin",
            "--dev", "/dev", "--tmpfs", "/dev/shm",  # noqa: S108 - in the sandbox
            "--dir", "/etc", "--tmpfs", "/run", "--tmpfs", "/tmp",  # noqa: S108
            "--bind", str(work / "var"), "/var", "--proc", "/proc", "--ro-bind", "/sys", "/sys",
            "--ro-bind-try", "/etc/containers", "/etc/containers",
            "--ro-bind-try", "/etc/selinux", "/etc/selinux/",
            "--ro-bind", str(Path("/usr/bin/python3").resolve()), "/run/python",
            "--ro-bind", str(self.library), "/run/osbuild/lib",
            "--bind", str(work / "tree"), "/run/osbuild/tree",
            "--bind", str(work / "meta"), "/run/osbuild/meta",
            "--bind", str(root), "/run/osbuild/mounts",
            "--ro-bind", str(self.library / "stages" / STAGE), f"/run/osbuild/bin/{STAGE}",
            "--ro-bind", str(work / "inputs"), "/run/osbuild/inputs",
            "--ro-bind", str(work / "arguments"), "/run/osbuild/api/arguments",
            "--ro-bind", str(work / "runner"), "/run/osbuild/runner/org.osbuild.linux",
            "--clearenv",
            "--setenv", "container", "bwrap-osbuild", "--setenv", "LC_CTYPE", "C.UTF-8",
            "--setenv", "PATH", "/usr/sbin:/usr/bin", "--setenv", "PYTHONPATH", "/run/osbuild/lib",
            "--setenv", "PYTHONUNBUFFERED", "1", "--setenv", "TERM", "dumb",
            "--", "/run/osbuild/runner/org.osbuild.linux", f"/run/osbuild/bin/{STAGE}",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ended:
    """A stage that is over."""

    done: subprocess.CompletedProcess[str]
    metadata: Mapping[str, Any]

    @property
    def said(self) -> str:
        """Both outputs: osbuild makes them one."""
        return self.done.stdout + self.done.stderr


def arguments(options: Mapping[str, Any], **more: object) -> dict[str, Any]:
    """What osbuild hands a stage whose images come from the host's store."""
    archives = {
        image["id"]: {"format": "containers-storage", "name": image["reference"], "storage": {}}
        for image in options["images"]
    }
    return {
        "tree": "/run/osbuild/tree",
        "paths": {
            "devices": "/dev", "inputs": "/run/osbuild/inputs", "mounts": "/run/osbuild/mounts",
        },
        "devices": {"disk": {"path": "/dev/loop0"}},
        "inputs": {
            "images": {"path": "/run/osbuild/inputs/images", "data": {"archives": archives}}
        },
        "mounts": {"-": {"path": "/run/osbuild/mounts"}},
        "options": options,
        "meta": {"id": "0" * 64},
        **more,
    }  # fmt: skip
