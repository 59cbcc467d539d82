"""What a build of ours and the ``osbuild`` in its PATH say to each other, in files of a private folder."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path

from installer_plugin.errors import (
    BoundImagesError,
    ConfigError,
    CopyError,
    HostError,
    PreflightError,
    Problem,
    SourceImageError,
    VerificationError,
)
from installer_plugin.fields import Fields
from installer_plugin.files.atomic import replace_file
from installer_plugin.hosts.image_builder.mode import When
from installer_plugin.hosts.image_builder.os_content import OsImageContent
from installer_plugin.request import Request
from installer_plugin.state import codec

SESSION, KNOWN, OUTCOME, EVENTS = "session.json", "known.pickle", "outcome.json", "events"
PROGRAMS = "bin"
"""Below the folder: what stands first in PATH."""

Listing = dict[str, tuple[int, int, int]]
"""Files of a directory: inode, size in bytes, time of the last change in nanoseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSession:
    """What the build has to say."""

    folder: Path
    when: When
    larger: str
    """See :class:`~installer_plugin.hosts.image_builder.prepare.Wish`."""
    library: Path
    """osbuild's library directory."""
    request: Request
    verify_again: bool = False
    """Whether the content is read in the build too, not only from the finished disk."""
    known: OsImageContent | None = None
    """What was found in the OS image."""

    def save(self) -> None:
        """Write it where the other side finds it."""
        data = {
            "when": self.when,
            "larger": self.larger,
            "library": str(self.library),
            "request": codec.request_json(self.request),
            "verify_again": self.verify_again,
        }
        replace_file(self.folder / SESSION, json.dumps(data).encode())
        replace_file(self.folder / KNOWN, pickle.dumps(self.known))

    @classmethod
    def load(cls, folder: Path) -> BuildSession:
        """Read what :meth:`save` wrote."""
        data = json.loads((folder / SESSION).read_bytes())
        return cls(
            folder=folder,
            when=When(data["when"]),
            larger=data["larger"],
            library=Path(data["library"]),
            request=codec.parse_request(Fields(data["request"], SESSION)),
            verify_again=data["verify_again"],
            known=pickle.loads((folder / KNOWN).read_bytes()),  # noqa: S301 - from a program of ours
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOutcome:
    """What became of the manifest."""

    exit_code: int = 0
    problems: tuple[Problem, ...] = ()
    mode: str = ""
    reason: str = ""
    exports: tuple[str, ...] = ()
    output: str = ""
    """osbuild's output directory; "" where it has none."""
    before: Listing | None = None
    """What was in it before."""
    images: int = 0
    """Bound images on each disk."""
    content_later: bool = False
    """Whether the content of the images is still to be read, from the finished disk."""

    def save(self, folder: Path) -> None:
        """Leave it for the build."""
        data = {name: getattr(self, name) for name in self.__slots__}
        data["problems"] = [asdict(problem) for problem in self.problems]
        replace_file(folder / OUTCOME, json.dumps(data).encode())

    @classmethod
    def load(cls, folder: Path) -> BuildOutcome | None:
        """What was left; None where no manifest came."""
        file = folder / OUTCOME
        if not file.exists():
            return None
        data = json.loads(file.read_bytes())
        before = data.pop("before")
        return cls(
            problems=tuple(Problem(**each) for each in data.pop("problems")),
            exports=tuple(data.pop("exports")),
            before=before and {name: tuple(value) for name, value in before.items()},
            **data,
        )

    def error(self) -> BoundImagesError:
        """What went wrong, as the error it was there."""
        kinds = (SourceImageError, PreflightError, CopyError, VerificationError, ConfigError)
        kind = next((each for each in kinds if each.exit_code == self.exit_code), HostError)
        return kind(*self.problems)


def listing(directory: Path) -> Listing:
    """The regular files below a directory; empty where it is not there."""
    found: Listing = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            seen = path.stat()
            found[str(path.relative_to(directory))] = (
                seen.st_ino,
                seen.st_size,
                seen.st_mtime_ns,
            )
    return found
