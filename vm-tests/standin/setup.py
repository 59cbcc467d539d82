"""What the environment tells the stand-in."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from standin.process import InstallError

TOOL_VARIABLE = "BOOTC_EXP_EXTERNAL_CONTAINER_TOOL"
STEPS = ("resolve", "store", "deploy", "bootloader", "bound-images", "finalize")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The container that bootc would run in, and the version it would have."""

    root: Path
    version: tuple[int, ...]
    fail_at: str | None
    passphrase: str | None
    separate_boot: bool
    """Whether an unencrypted disk has a boot partition too."""
    pause: tuple[str, Path] | None
    """Where to wait, and the file that is made then: its removal ends it."""
    tool: str | None
    """Takes the place of podman and skopeo alike."""

    @classmethod
    def from_environment(cls) -> "Setup":
        """Read the variables; raises ValueError for what cannot be meant."""
        fail_at = os.environ.get("STANDIN_FAIL_AT") or None
        if fail_at not in (None, *STEPS):
            raise ValueError(f"STANDIN_FAIL_AT={fail_at}: expected one of {', '.join(STEPS)}")
        step, _, file = os.environ.get("STANDIN_PAUSE_AT", "").partition(":")
        version = tuple(map(int, os.environ.get("STANDIN_VERSION", "1.16.9").split(".")))
        return cls(
            root=Path(os.environ.get("STANDIN_CONTAINER_ROOT", "/")).absolute(),
            version=version,
            fail_at=fail_at,
            passphrase=os.environ.get("STANDIN_LUKS_PASSPHRASE"),
            separate_boot="STANDIN_SEPARATE_BOOT" in os.environ,
            pause=(step, Path(file)) if step else None,
            tool=os.environ.get(TOOL_VARIABLE) if version >= (1, 16, 0) else None,
        )

    @property
    def podman(self) -> str:
        """What is called for podman: by name, so that PATH decides."""
        return self.tool or "podman"

    @property
    def skopeo(self) -> str:
        """What is called for skopeo's image proxy."""
        return self.tool or "skopeo"

    @property
    def has_bound_images_option(self) -> bool:
        """Whether `--bound-images` is known."""
        return self.version >= (1, 1, 3)

    @property
    def has_skip_flag(self) -> bool:
        """Whether the older, hidden `--skip-bound-images` is known."""
        return (0, 1, 14) <= self.version < (1, 1, 3)

    @property
    def gives_credentials(self) -> bool:
        """Whether podman gets a file of credentials for all that it does in the store."""
        return self.version >= (1, 12, 0)

    @property
    def labels_store(self) -> bool:
        """Whether the store is labelled, and stamped."""
        return self.version >= (1, 1, 7)

    def reach(self, step: str) -> None:
        """Wait or fail here if a test wants that; raises InstallError."""
        if self.pause and self.pause[0] == step:
            self.pause[1].touch()
            while self.pause[1].exists():
                time.sleep(0.05)
        if step == self.fail_at:
            raise InstallError(f"failing before {step}, as STANDIN_FAIL_AT asks")

    def require_tools(self) -> None:
        """Name what is missing before anything is written; raises InstallError."""
        needed = ("ostree", "tar", "sfdisk", "unshare", "skopeo", self.podman)
        missing = [tool for tool in needed if shutil.which(tool) is None]
        if missing:
            raise InstallError(f"not found in PATH: {', '.join(missing)}")
