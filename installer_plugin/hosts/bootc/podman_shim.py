"""The ``podman`` that bootc finds during an installation of ours: takes one call, passes on the rest.

bootc has no hook point. It copies each bound image by ``podman image push`` into its store, and finds
podman by name through PATH (bootc ``crates/lib/src/podstorage.rs``, pull_from_host_storage). This
program stands first in PATH for that one run; with the last image it runs the rest of the
installation's phases, which copy all of them, while bootc still holds the target mounted.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from installer_plugin.errors import caught
from installer_plugin.files.atomic import replace_file
from installer_plugin.files.outlet import say
from installer_plugin.hosts.bootc.shim_session import ALIAS, Outcome, Session
from installer_plugin.process.procfs import has_started_us
from installer_plugin.process.runner import our_program_argv

PROGRAM = "installer_plugin.hosts.bootc.podman_shim"
DESTINATION = f"containers-storage:[overlay@{ALIAS}+/proc/self/fd/3]"
PUSH = ("image", "push")
"""Followed by ``--remove-signatures`` since bootc 1.1.0."""
SEEN = "seen.json"


def pushed_image(words: Sequence[str]) -> str | None:
    """The image of bootc's own copy call; None for any other call."""
    if tuple(words[: len(PUSH)]) != PUSH:
        return None
    arguments = [word for word in words[len(PUSH) :] if not word.startswith("--")]
    if len(arguments) != 2 or list(words[-2:]) != arguments:
        return None
    image, destination = arguments
    return image if destination == DESTINATION + image else None


def shim_script(folder: Path) -> str:
    """The program that PATH leads to."""
    return f'#!/bin/sh\nexec {shlex.join(our_program_argv(PROGRAM, str(folder)))} "$@"\n'


def main(argv: Sequence[str]) -> NoReturn:
    """Serve one call: ``FOLDER WORDS...``; without the folder's files it is the end of bootc's run."""
    folder, *words = argv
    try:
        session = Session.load(Path(folder))
        image = pushed_image(words)
        if image is None or image not in session.expected or not has_started_us(session.owner):
            _real_podman(Path(folder), words)
        code = _take_over(session, image)
    except OSError as error:
        known = caught(error)
        say(f"bootc-bound-images: {known}")
        code = known.exit_code
    sys.exit(code)


def _real_podman(folder: Path, words: Sequence[str]) -> NoReturn:
    places = [
        place for place in os.environ.get("PATH", "").split(":") if place != str(folder / "bin")
    ]
    os.environ["PATH"] = ":".join(places)
    try:
        os.execvp("podman", ["podman", *words])  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"podman: {error.strerror}")


def _take_over(session: Session, image: str) -> int:
    if done := Outcome.load(session.folder):
        return done.exit_code  # a second link to an image that was seen to
    seen = _seen(session.folder) | {image}
    replace_file(session.folder / SEEN, json.dumps(sorted(seen)).encode())
    if seen != set(session.expected):
        return 0  # the last call copies all of them, with the layers they share
    from installer_plugin.hosts.bootc.shim_install import install  # noqa: PLC0415 - see there

    outcome = install(session)
    outcome.save(session.folder)
    for problem in outcome.problems:
        say(str(problem))
    return outcome.exit_code


def _seen(folder: Path) -> set[str]:
    file = folder / SEEN
    return set(json.loads(file.read_bytes())) if file.exists() else set()
