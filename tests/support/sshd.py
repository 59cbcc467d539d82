"""A host that is reached by ssh: an sshd on the loopback interface whose podman has its own store."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.commands import run, unshared
from tests.support.stores import Store

START_SECONDS = 20.0
# sshd wants this directory to exist, and is started by its absolute path.
_PRELUDE = (
    "mkdir -p /run/sshd /var/lib/containers\n"
    "mount -t tmpfs tmpfs /var/lib/containers\n"
    'exec "$@"\n'
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SshHost:
    """The running host, and what a client needs to reach it."""

    address: str
    """`ssh://root@127.0.0.1:PORT`."""
    home: Path
    """Home directory whose `.ssh/known_hosts` has the host's key."""
    programs: Path
    """Directory with an `ssh` that knows the key and reads nobody's settings."""

    def env(self, *, agent: Path | None = None) -> Mapping[str, str]:
        """Variables of a client; without the socket of an agent only `ssh` can log in."""
        return {
            "HOME": str(self.home),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "SSH_AUTH_SOCK": str(agent) if agent else str(self.home / "no-agent"),
        }


@contextmanager
def serve(base: Path, store: Store) -> Iterator[SshHost]:
    """Serve logins as root whose podman uses `store`."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None:
        message = "sshd is missing: install openssh-server"
        raise FileNotFoundError(message)
    port = _free_port()
    host = _client(base, port)
    variables = " ".join(f"{name}={value}" for name, value in store.env.items())
    (base / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {base}/host-key\n"
        f"AuthorizedKeysFile {base}/user-key.pub\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"Subsystem sftp internal-sftp\nSetEnv {variables}\n"
    )
    log = base / "log"
    argv = ("setpriv", "--pdeathsig", "TERM", sshd, "-D", "-e", "-f", str(base / "sshd_config"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            unshared(argv, prelude=_PRELUDE), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        _wait(process, log)
        yield host
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


@contextmanager
def agent(base: Path) -> Iterator[Path]:
    """Run an agent that holds the user's key; yield its socket."""
    path = base / "agent"
    process = subprocess.Popen(
        ("setpriv", "--pdeathsig", "TERM", "ssh-agent", "-D", "-a", str(path)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        run(("ssh-add", "-q", base / "user-key"), env={"SSH_AUTH_SOCK": str(path)})
        yield path
    finally:
        process.terminate()
        process.wait(timeout=START_SECONDS)


def _client(base: Path, port: int) -> SshHost:
    for name in ("host-key", "user-key"):
        run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / name))
    home, programs = base / "home", base / "programs"
    (home / ".ssh").mkdir(parents=True)
    programs.mkdir()
    kind, key, *_ = (base / "host-key.pub").read_text().split()
    known = home / ".ssh/known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    # ssh takes its settings from the home directory in the password file, whatever HOME says.
    (base / "ssh_config").write_text(
        f"IdentityFile {base}/user-key\nIdentitiesOnly yes\nStrictHostKeyChecking yes\n"
        f"UserKnownHostsFile {known}\nGlobalKnownHostsFile /dev/null\n"
    )
    wrapper = programs / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {base}/ssh_config "$@"\n')
    wrapper.chmod(0o755)
    return SshHost(address=f"ssh://root@127.0.0.1:{port}", home=home, programs=programs)


def _free_port() -> int:
    """Find a port that nobody listens on; sshd cannot be asked to pick one and tell."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if "Server listening on 127.0.0.1" in log.read_text():
            return
        time.sleep(0.05)
    message = f"sshd did not start within {START_SECONDS} s:\n{log.read_text()}"
    raise TimeoutError(message)
