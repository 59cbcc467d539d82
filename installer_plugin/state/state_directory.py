"""The state directory: a JSON file for each stage that has run, and nobody's but ours to write."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.declared import configured
from installer_plugin.errors import ConfigError, DataError
from installer_plugin.fields import Fields, Json, parse_document
from installer_plugin.files.atomic import replace_file
from installer_plugin.opening import read_named
from installer_plugin.pipeline import DOING, Stage
from installer_plugin.request import Request
from installer_plugin.state.codec import parse_request, request_json
from installer_plugin.storage.engine.source_layers import Whole

REQUEST = "request.json"
OVERRIDDEN = "overridden.json"
RECEIPT = "receipt.json"
WHOLE = "whole.json"


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """What is known between two stages; see :meth:`open`."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> StateDirectory:
        """Use the directory *path*, which is made when it is not there.

        Raises ConfigError when it is not ours alone to write: whoever can write it decides what is
        copied and what counts as verified.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            seen = path.lstat()
        except OSError as error:
            message = f"cannot be used as a state directory: {error.strerror}"
            hint = "give a directory, or the name of a new one in a directory that is there"
            raise _wrong(path, message, hint) from error
        if not stat.S_ISDIR(seen.st_mode):
            raise _wrong(path, "is a link, expected a directory", "give the directory itself")
        if seen.st_uid != os.geteuid():
            message = f"belongs to user {seen.st_uid}, expected {os.geteuid()}, who we are"
            raise _wrong(path, message, "let it be made by this command")
        if seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            message = f"has the mode {stat.S_IMODE(seen.st_mode):04o}: others can write it"
            raise _wrong(path, message, f"chmod go-w {path}, if nobody has written it yet")
        return cls(path)

    def has(self, stage: Stage) -> bool:
        """Whether *stage* has run."""
        return (self.path / f"{stage}.json").exists()

    def read(self, stage: Stage) -> Fields:
        """What *stage* has written; raises ConfigError when it is damaged or not there."""
        return self._load(f"{stage}.json", f"bootc-bound-images/stage-{stage}/2")

    def write(self, stage: Stage, document: Json) -> None:
        """Keep what *stage* has found out."""
        self._store(f"{stage}.json", document)

    def forget(self, stage: Stage) -> None:
        """Forget what *stage* and those after it have found out: it begins again."""
        order = tuple(Stage)
        for each in order[order.index(stage) :]:
            (self.path / f"{each}.json").unlink(missing_ok=True)
        if stage not in DOING:
            (self.path / WHOLE).unlink(missing_ok=True)
        if stage is not Stage.RECORD:
            (self.path / RECEIPT).unlink(missing_ok=True)

    def read_request(self) -> Request | None:
        """The request that all stages work on; None when nothing was asked for yet."""
        if not (self.path / REQUEST).exists():
            return None
        data = self._load(REQUEST, "bootc-bound-images/request/1")
        with damaged_is_an_error():
            return parse_request(data)

    def write_request(self, request: Request) -> None:
        """Keep the request; its paths should be absolute, the stages run anywhere."""
        schema = "bootc-bound-images/request/1"
        self._store(REQUEST, {"schema": schema, **request_json(request)})

    def overridden(self) -> Mapping[str, object]:
        """Stages that hooks stand in for, with the hook of each."""
        if not (self.path / OVERRIDDEN).exists():
            return {}
        return self._load(OVERRIDDEN, "bootc-bound-images/overridden/1").data

    def write_overridden(self, hooks: Mapping[Stage, Path]) -> None:
        """Keep which stages will not run, and what stands in for them."""
        by = {str(stage): str(file) for stage, file in hooks.items()}
        self._store(OVERRIDDEN, {"schema": "bootc-bound-images/overridden/1", **by})

    def whole(self) -> Whole:
        """Layers of the sources that preflight has found whole; none when it has not run."""
        if not (self.path / WHOLE).exists():
            return {}
        data = self._load(WHOLE, "bootc-bound-images/whole/1").data
        return {id_: by_tool for id_, by_tool in data.items() if isinstance(by_tool, bool)}

    def write_whole(self, whole: Whole) -> None:
        """Keep which layers need not be looked at again."""
        self._store(WHOLE, {"schema": "bootc-bound-images/whole/1", **whole})

    def read_receipt(self) -> bytes:
        """The receipt as verification left it; raises ConfigError."""
        with configured():
            return read_named(self.path / RECEIPT)

    def write_receipt(self, text: str) -> None:
        """Keep the receipt until it is recorded."""
        self._replace(RECEIPT, text.encode())

    def _load(self, name: str, schema: str) -> Fields:
        file = self.path / name
        with damaged_is_an_error():
            return parse_document(read_named(file), str(file), (schema,))

    def _store(self, name: str, document: Json) -> None:
        self._replace(name, (json.dumps(document, indent=2) + "\n").encode())

    def _replace(self, name: str, content: bytes) -> None:
        try:
            replace_file(self.path / name, content)
        except OSError as error:
            message = f"cannot be written: {error.strerror}"
            raise _wrong(self.path / name, message, "give another state directory") from error


def _wrong(path: Path, message: str, hint: str) -> ConfigError:
    return ConfigError.of(str(path), message, hint=hint)


@contextmanager
def damaged_is_an_error() -> Iterator[None]:
    """Make a damaged file of a state directory an error of the caller, who can begin again."""
    try:
        yield
    except DataError as error:
        hint = "begin again with 'bootc-bound-images stage discover'"
        raise ConfigError.of(error.subject, f"is damaged: {error.message}", hint=hint) from error
