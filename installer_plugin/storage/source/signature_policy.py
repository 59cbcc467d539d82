"""Whether the containers policy demands signatures of images that come out of a local store.

Format: containers-policy.json(5). The policy itself is evaluated by skopeo, never here: this only
tells whether there is something to evaluate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from installer_plugin.errors import DataError
from installer_plugin.files.rootfs import Rootfs

PLACES = ("etc/containers/policy.json", "usr/share/containers/policy.json")
ACCEPT = "insecureAcceptAnything"
TRANSPORT = "containers-storage"
POLICY_LIMIT = 4 << 20
"""Bytes of a policy; real ones have some hundreds."""


def load_policy(system: Path) -> bool:
    """Whether the policy of the system at *system* asks for more than "accept anything".

    Without a policy file nothing is asked: skopeo itself would refuse to copy, which a program that
    copies without it need not imitate. Raises DataError that names the file.
    """
    for place in PLACES:
        file = system / place
        if file.is_file():
            try:
                with Rootfs.open(file.parent) as folder:
                    content = folder.read_bytes(file.name, limit=POLICY_LIMIT)
                return demands_signatures(content, str(file))
            except OSError as error:
                raise DataError(str(file), f"cannot be read: {error.strerror}") from error
    return False


def demands_signatures(content: bytes, where: str) -> bool:
    """Whether anything but acceptance is asked for local stores; raises DataError.

    Scopes of the transport name stores and repositories in several ways: any of them that asks for
    more counts, whatever it is for. The default counts unless the transport has a default of its own.
    """
    try:
        data: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"is not JSON: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("default"), list):
        raise DataError(where, "has no default requirements, expected a containers policy")
    transports = data.get("transports")
    scopes = transports.get(TRANSPORT) if isinstance(transports, dict) else None
    asked: Mapping[str, object] = scopes if isinstance(scopes, dict) else {}
    return any(map(_asks, ({"": data["default"]} | dict(asked)).values()))


def _asks(requirements: object) -> bool:
    return not isinstance(requirements, list) or any(
        not isinstance(one, dict) or one.get("type") != ACCEPT for one in requirements
    )
