"""SELinux policies in roots made by tests, and what labels files have; the host needs no SELinux."""

import os
import shutil
from pathlib import Path

POLICIES = "*/contexts/files/file_contexts"
RULES = "etc/selinux/default/contexts/files/file_contexts"
"""Of a root that was given a policy."""
# What container-selinux says; policies of Debian have some of it or nothing, by release.
CONTAINER_RULES = """
/var/lib/containers(/.*)? system_u:object_r:container_var_lib_t:s0
/var/lib/containers/storage/overlay(/.*)? system_u:object_r:container_ro_file_t:s0
/var/lib/containers/storage/overlay-images(/.*)? system_u:object_r:container_ro_file_t:s0
/var/lib/containers/storage/overlay-layers(/.*)? system_u:object_r:container_ro_file_t:s0
"""


def give_policy(root: Path, *, config: str = "SELINUX=enforcing\nSELINUXTYPE=default\n") -> None:
    installed = next(Path("/etc/selinux").glob(POLICIES)).parent
    shutil.copytree(installed, (root / RULES).parent)
    rules = (root / RULES).read_text().splitlines(keepends=True)
    others = [rule for rule in rules if not rule.startswith("/var/lib/containers")]
    (root / RULES).write_text("".join(others) + CONTAINER_RULES)
    (root / "etc/selinux/config").write_text(config)


def label_of(path: Path) -> str:
    return os.getxattr(path, "security.selinux", follow_symlinks=False).decode().rstrip("\0")
