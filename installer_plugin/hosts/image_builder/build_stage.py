"""What our osbuild stage has this program do, in one go: compare, copy, look, report.

The stage runs on any Python and only finds us; it hands its arguments over on stdin, and its metadata
comes back on stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from installer_plugin.errors import (
    ExitCode,
    InterruptedBySignal,
    PreflightError,
    Problem,
    caught,
)
from installer_plugin.events import Events, sink_for
from installer_plugin.fields import Fields
from installer_plugin.files.outlet import Outlet, say
from installer_plugin.hosts.image_builder.manifest import CONTENT, LATER
from installer_plugin.hosts.image_builder.rewrite import Wanted
from installer_plugin.image_json import Document
from installer_plugin.model import ImageId, ManifestDigest, ResolvedImage
from installer_plugin.opening import Opened
from installer_plugin.pipeline import DOING, WITHOUT_CONTENT, looked_at
from installer_plugin.process.runner import Runner
from installer_plugin.process.signals import interruptible
from installer_plugin.receipt import entries_of
from installer_plugin.request import IMAGE_PREFIX, Context, Request, Work
from installer_plugin.stages import report
from installer_plugin.steps import receipt_of

SCHEMA = "bootc-bound-images/osbuild/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a stage has to say."""

    request: Request
    images: frozenset[Wanted]
    """What the manifest has."""
    content: bool
    """Whether the content of the images is to be read from the disk: else somebody does it later."""


def parse_asked(data: Fields) -> Asked:
    """The arguments of our stage, which osbuild has checked against its schema; raises DataError."""
    options = data.inner("options")
    return Asked(
        request=Request(
            source=data.text("source"),
            stores=data.texts("stores"),
            target=Path(data.text("root")),
            receipt_source=IMAGE_PREFIX + options.inner("source").text("reference"),
        ),
        images=frozenset(
            Wanted(
                reference=each.text("reference"),
                id=ImageId(each.text("id").removeprefix("sha256:")),
                digest=ManifestDigest(each.text("digest")),
            )
            for each in options.objects("images")
        ),
        content=options.optional(CONTENT, str) != LATER,
    )


def main() -> NoReturn:
    """Serve one stage: its arguments are on stdin."""
    events = Events([sink_for(sys.stderr, Outlet.of(sys.stderr))])
    try:
        with interruptible():
            asked = parse_asked(Fields(json.load(sys.stdin), "arguments of the stage"))
            document = brought(asked, Work(asked.request, Context(Runner(), events, os.environ)))
    except Exception as error:  # noqa: BLE001 - the door of this program: osbuild sees only the code
        known = caught(error)
        say(report.problems_text(known.problems))
        sys.exit(known.exit_code)
    except InterruptedBySignal as interruption:
        say(f"interrupted by {interruption.signal_name}")
        sys.exit(ExitCode.INTERRUPTED)
    sys.stdout.write(json.dumps(document))
    sys.exit(0)


def brought(asked: Asked, work: Work) -> Document:
    """Put the images on the disk; the stage's metadata. Raises every error of copying."""
    with Opened(work) as opened:
        known = looked_at(work, opened)
        require_declared(known.images, asked.images)
        for step in (DOING if asked.content else WITHOUT_CONTENT).values():
            known = step(work, opened, known)
    return {"schema": SCHEMA, "images": entries_of(receipt_of(work, known))}


def require_declared(found: Sequence[ResolvedImage], expected: frozenset[Wanted]) -> None:
    """Raise PreflightError where the installed system and the manifest do not name the same images."""
    seen = frozenset(map(Wanted.of, found))
    differences = (
        ("is declared by the installed system, and not in the manifest", seen - expected),
        ("is in the manifest, and not declared by the installed system", expected - seen),
    )
    problems = [
        Problem(
            subject=each.reference,
            message=f"{message} (image sha256:{each.id}, digest {each.digest})",
            hint="make the manifest again",
        )
        for message, images in differences
        for each in sorted(images, key=lambda each: each.reference)
    ]
    if problems:
        raise PreflightError(*problems)
