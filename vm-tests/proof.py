"""What a booted system is asked, and has to answer, wherever its bound images came from."""

from collections.abc import Mapping
from pathlib import Path

from guest import Answer
from scene import (
    IN_STORE,
    PODMAN_RUN,
    UNBOUND,
    VERIFY_IN_GUEST,
    WEB,
    WORKER,
    Scene,
    product_files,
)

_QUESTIONS = {
    "listed": f"{IN_STORE} images --format '{{{{.Repository}}}}:{{{{.Tag}}}} {{{{.Digest}}}}'",
    "unbound": f"{IN_STORE} image exists {UNBOUND}",
    "web": f"{PODMAN_RUN} {WEB} /bin/busybox cat /content",
    "worker": f"{PODMAN_RUN} {WORKER}",
    "verify": VERIFY_IN_GUEST,
}


def assert_runs_bound_images(
    stage: Scene,
    disk: Path,
    more: Mapping[str, str] | None = None,
    files: Mapping[str, Path] | None = None,
) -> dict[str, Answer]:
    """Boot the disk, and have both images run and proven there; returns all that was said."""
    files = {**product_files(), **(files or {})}
    said = stage.boot(disk, {**_QUESTIONS, **(more or {})}, files=files)
    digests = [f"{name} {stage.store.image(name).digest}" for name in (WEB, WORKER)]
    assert set(digests) <= set(said["listed"].lines), said["listed"].text
    assert said["unbound"].code == 1, said["unbound"].text
    assert said["web"].lines == [f"this is {WEB}"], said["web"].text
    assert said["worker"].lines == [f"this is {WORKER}"], said["worker"].text
    assert said["verify"].code == 0, said["verify"].text
    assert "2 images verified" in said["verify"].text
    return said
