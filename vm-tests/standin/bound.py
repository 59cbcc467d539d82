"""Bound images as bootc reads them: links, a plain INI reader, one error ends it."""

import json
import os
import socket
import subprocess
from pathlib import Path

from standin.inroot import resolve_in_root
from standin.process import InstallError

SPEC_DIR = "usr/lib/bootc/bound-images.d"
_SECTIONS = {".image": "Image", ".container": "Container"}
_REPLY_BYTES = 1 << 16


def bound_images(root: Path) -> list[str]:
    """Image references in the order of the directory, neither sorted nor without repetition."""
    folder = root / SPEC_DIR
    if not folder.is_dir():
        return []
    return [_image_of(root, name) for name in os.listdir(folder)]  # noqa: PTH208 # its order is bootc's


def _image_of(root: Path, name: str) -> str:
    if not (root / SPEC_DIR / name).is_symlink():
        raise InstallError(f"Not a symlink: {name}")
    try:
        text = resolve_in_root(root, f"{SPEC_DIR}/{name}").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InstallError(f"Reading {SPEC_DIR}/{name}: {error}") from error
    values = parse_ini(text)
    section = _SECTIONS.get(Path(name).suffix)
    if section is None:
        raise InstallError(f"Invalid file extension: {name}")
    where = f"Parsing {SPEC_DIR}/{name}"
    if (section, "Image") not in values:
        raise InstallError(f"{where}: Missing Image field")
    if section == "Image" and (section, "AuthFile") in values:
        raise InstallError(f"{where}: AuthFile is not supported by bound bootc images")
    return _without_specifiers(values[section, "Image"])


def parse_ini(text: str) -> dict[tuple[str, str], str]:
    """Read as the INI library does that bootc uses: no continuation lines, comments anywhere."""
    values: dict[tuple[str, str], str] = {}
    section = ""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.partition("#")[0].partition(";")[0].strip()
        key, equals, value = (part.strip() for part in line.partition("="))
        if not line:
            continue
        if line.startswith("["):
            if not line.endswith("]"):
                raise InstallError(f"Parse to ini: Incorrect section syntax at line {number}")
            section = line.strip("[]")
        elif not equals:
            raise InstallError(f"Parse to ini: Incorrect syntax at line {number}")
        elif not key:
            raise InstallError(f"Parse to ini: Key is empty at line {number}")
        else:
            values[section, key] = value
    return values


def _without_specifiers(value: str) -> str:
    rest = value.replace("%%", "")
    if rest.endswith("%"):
        raise InstallError("Invalid image value: Unterminated %")
    if "%" in rest:
        raise InstallError(
            "Invalid image value: Systemd specifiers are not supported by bound bootc images: "
            + value
        )
    return value.replace("%%", "%")


def resolve(image: str, tool: str) -> None:
    """Ask for the image through skopeo's proxy protocol, as bootc does; raises InstallError.

    `tool` is skopeo, or what the caller put in its place.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = (tool, "experimental-image-proxy", "--sockfd", str(theirs.fileno()))
    with ours, theirs:
        try:
            proxy = subprocess.Popen(argv, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        except OSError as error:
            raise InstallError(f"resolving bound image {image}: {tool}: {error}") from error
        with proxy:
            theirs.close()
            try:
                _call(ours, "Initialize")
                _call(ours, "OpenImage", f"containers-storage:{image}")
            except InstallError as error:
                raise InstallError(f"resolving bound image {image}: {error}") from error
            finally:
                ours.close()  # the proxy ends with its socket


def _call(connection: socket.socket, method: str, *args: str) -> None:
    connection.send(json.dumps({"method": method, "args": args}).encode())
    packet, descriptors, _, _ = socket.recv_fds(connection, _REPLY_BYTES, 4)
    for descriptor in descriptors:
        os.close(descriptor)
    if not packet:
        raise InstallError(f"the image proxy ended at {method}")
    reply = json.loads(packet)
    if not reply["success"]:
        raise InstallError(f"remote error: {reply['error']}")
