"""A registry on the loopback interface, for as long as the tests run."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 20.0


@contextmanager
def serve(directory: Path) -> Iterator[str]:
    """Serve an empty registry from `directory`; yield its `127.0.0.1:PORT`."""
    # Debian calls the program docker-registry, Fedora (package docker-distribution) registry.
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        message = "no registry program: install docker-registry (Debian) or docker-distribution"
        raise FileNotFoundError(message)
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        # Port 0: the kernel picks a free one, and the log says which.
        "http: {addr: '127.0.0.1:0'}\n"
    )
    log = directory / "log"
    with log.open("wb") as output:
        # The signal ends the registry even if the test run itself is killed.
        process = subprocess.Popen(
            ("setpriv", "--pdeathsig", "TERM", program, "serve", os.fspath(config)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _wait_for_address(process, log)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"listening on (127\.0\.0\.1:[1-9]\d*)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    message = f"the registry did not start within {START_SECONDS} s:\n{log.read_text()}"
    raise TimeoutError(message)
