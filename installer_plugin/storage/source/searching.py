"""How references are understood, whatever the source."""

from __future__ import annotations

from dataclasses import dataclass

from installer_plugin.model import Platform
from installer_plugin.storage.source.containers_conf import RegistriesConf


@dataclass(frozen=True, slots=True)
class Searching:
    """What short names stand for, and what the images are for."""

    registries: RegistriesConf
    machine: Platform
    """What the images are to run on: it chooses from manifest lists."""
