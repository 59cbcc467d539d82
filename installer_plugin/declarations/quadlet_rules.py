"""What Quadlet does differently from one podman to the next.

Compared by running the generators of podman 4.4, 4.5, 4.6, 4.9, 5.0, 5.4, 5.5, 5.6 and 5.8; the keys
are those of ``pkg/systemd/quadlet/quadlet.go`` in each release.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from installer_plugin.declarations.podman_version import PodmanVersion
from installer_plugin.model import UnitKind

NEWEST = PodmanVersion(5, 8)
"""The newest release whose Quadlet is known here; a root that does not say is taken for one."""
_WIDESPREAD = PodmanVersion(5, 4)
"""What it knows, systems that still get updates know."""
PULL_POLICY = PodmanVersion(5, 6)
"""From here on ``podman pull`` has a policy, and an ``.image`` the key for it."""

_KEYS: dict[UnitKind, dict[tuple[int, int], str]] = {
    UnitKind.CONTAINER: {
        (4, 4): "AddCapability AddDevice Annotation ContainerName DropCapability Environment "
        "EnvironmentFile EnvironmentHost Exec ExposeHostPort Group Image Label Network "
        "NoNewPrivileges Notify PodmanArgs PublishPort ReadOnly RemapGid RemapUid RemapUidSize "
        "RemapUsers RunInit SeccompProfile Timezone User VolatileTmp Volume",
        (4, 5): "HealthCmd HealthInterval HealthOnFailure HealthRetries HealthStartPeriod "
        "HealthStartupCmd HealthStartupInterval HealthStartupRetries HealthStartupSuccess "
        "HealthStartupTimeout HealthTimeout IP IP6 LogDriver Mount Rootfs Secret "
        "SecurityLabelDisable SecurityLabelFileType SecurityLabelLevel SecurityLabelType Tmpfs "
        "UserNS",
        (4, 6): "AutoUpdate HostName Mask Pull SecurityLabelNested Sysctl Unmask WorkingDir",
        (4, 7): "DNS DNSOption DNSSearch PidsLimit ShmSize Ulimit",
        (4, 8): "ContainersConfModule GIDMap GlobalArgs ReadOnlyTmpfs SubGIDMap SubUIDMap UIDMap",
        (5, 0): "Entrypoint Pod StopTimeout",
        (5, 1): "GroupAdd",
        (5, 2): "LogOpt NetworkAlias StopSignal",
        (5, 3): "AddHost CgroupsMode HealthLogDestination HealthMaxLogCount HealthMaxLogSize "
        "ServiceName StartWithPod",
        (5, 5): "Memory ReloadCmd ReloadSignal Retry RetryDelay",
        (5, 7): "HttpProxy",
        (5, 8): "AppArmor",
    },
    UnitKind.IMAGE: {
        (4, 8): "AllTags Arch AuthFile CertDir ContainersConfModule Creds DecryptionKey GlobalArgs "
        "Image ImageTag OS PodmanArgs TLSVerify Variant",
        (5, 3): "ServiceName",
        (5, 5): "Retry RetryDelay",
        (5, 6): "Policy",
    },
}
_SINCE = {
    kind: {key: PodmanVersion(*release) for release, keys in rows.items() for key in keys.split()}
    for kind, rows in _KEYS.items()
}


class DropIns(Enum):
    """Which drop-ins of a unit apply, and which one of several with one name; since when."""

    NONE = PodmanVersion(4, 4)
    OWN = PodmanVersion(5, 0)
    """Those of the unit and of its template."""
    BY_SEARCH_DIRECTORY = PodmanVersion(5, 2)
    """Of prefixes and types too; the first search directory wins, however broad its drop-in."""
    BY_NAME = PodmanVersion(5, 6)
    """The most specific directory name wins, wherever it lies (podman issue 26555)."""

    @property
    def is_current(self) -> bool:
        """Whether systems that still get updates merge drop-ins so."""
        return self.value >= DropIns.BY_SEARCH_DIRECTORY.value

    @property
    def releases(self) -> str:
        """The podmans that it belongs to, for people."""
        until = next((rule.value for rule in DropIns if rule.value > self.value), None)
        if until is None:
            return f"podman {self.value} and newer"
        return f"podman {self.value} to {until.major}.{until.minor - 1}"


@dataclass(frozen=True, slots=True)
class QuadletRules:
    """The rules of one podman."""

    version: PodmanVersion | None
    """None when the root does not say: the newest rules."""
    unknown: str = "the image has no package of podman"
    """Why the root does not say."""

    def __str__(self) -> str:
        """The podman that they belong to."""
        if self.version is None:
            return f"podman {NEWEST} (assumed: {self.unknown})"
        return f"podman {self.version}"

    @property
    def _effective(self) -> PodmanVersion:
        return self.version or NEWEST

    @property
    def drop_ins(self) -> DropIns:
        """How drop-ins apply."""
        known = [rule for rule in DropIns if rule.value <= self._effective]
        return known[-1] if known else DropIns.NONE

    @property
    def drops_directories(self) -> bool:
        """Whether one malformed unit makes it ignore all units of the same directory."""
        return self._effective >= PodmanVersion(5, 0)

    @property
    def has_pull_policy(self) -> bool:
        """Whether an image that is there need not be pulled."""
        return self._effective >= PULL_POLICY

    def doubt(self, kind: UnitKind, key: str) -> str | None:
        """Why a unit with *key* may be refused, where the root does not say which podman it has."""
        since = _SINCE[kind].get(key)
        if self.version is not None or since is None or since <= _WIDESPREAD:
            return None
        return f"podman before {since} does not know it, and {self.unknown}"

    def refusal(self, kind: UnitKind, key: str) -> str | None:
        """Why a unit of *kind* with *key* in its section is refused as a whole; None if it is not."""
        since = _SINCE[kind].get(key)
        if since is None:
            # A podman that is newer than the table may know keys that the table does not.
            newer = self.version is not None and self.version > NEWEST
            return None if newer else f"no podman up to {NEWEST} knows it"
        if self._effective < since:
            return f"{self} does not know it, {since} is the first that does"
        return None


def unit_extensions(version: PodmanVersion | None) -> tuple[str, ...]:
    """File name extensions of the units that Quadlet loads."""
    rows = ((5, 0, ".pod"), (5, 2, ".build"), (5, 7, ".artifact"), (4, 8, ".image"))
    later = (
        name for major, minor, name in rows if (version or NEWEST) >= PodmanVersion(major, minor)
    )
    return (".container", ".volume", ".kube", ".network", *later)
