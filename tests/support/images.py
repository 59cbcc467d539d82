"""Builds the images of the test stores with buildah, podman, skopeo and a real registry."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.crafted import LOWER, UPPER, layer_tar, write_layout
from tests.support.stores import Store, StoredImage, make_store
from tests.support.tricky import machine_busybox, write_base

REPOSITORY = Path(__file__).parents[2]

BASE = "localhost/base:1"
APP_A = "localhost/app-a:1"
APP_B = "localhost/app-b:1"
CRAFTED = "localhost/crafted:1"
LOCAL_LIST = "localhost/list:1"
EXTRA = "localhost/extra:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSources:
    """Everything that a bound image can come from. Tests read it and never change it."""

    store: Store
    """All images below except `extra`."""
    extra_store: Store
    """A second store with `extra` alone, to be used as an additional image store."""
    registry: str
    """`127.0.0.1:PORT`, plain http; has `web`, `pinned` and `multi`."""

    base: StoredImage
    app_a: StoredImage
    """On `base`, with every kind of file that is hard to copy (tests/support/tricky.py)."""
    app_b: StoredImage
    """On `base`, with one more layer made by RUN."""
    crafted: StoredImage
    """Unusual tar streams (tests/support/crafted.py), put in by skopeo."""
    web: StoredImage
    """Pulled gzip-compressed from the registry, by tag and by digest."""
    web_by_digest: str
    """`REGISTRY/team/web@sha256:...`, one of the names that `web` has in the store."""
    pinned: StoredImage
    """Pulled by digest only: its one name in the store is `REGISTRY/team/pinned@sha256:...`."""
    multi: StoredImage
    """Pulled by tag from an index."""
    multi_list_digest: str
    """Digest of that index, `sha256:...`; the store keeps it."""
    local_list: str
    """Name of a manifest list made by `podman manifest create`, which holds app_a."""
    extra: StoredImage

    oci: str
    """`oci:DIR:1` of app_a."""
    oci_archive: str
    """`oci-archive:FILE` of app_b."""
    dir: str
    """`dir:DIR` of web, with its compressed layers as in the registry."""

    def images(self) -> tuple[StoredImage, ...]:
        """All images of `store` that have layers."""
        return (
            self.base, self.app_a, self.app_b, self.crafted, self.web, self.pinned, self.multi,
        )  # fmt: skip


def build_sources(base: Path, registry: str) -> ImageSources:
    """Build, push, pull and export everything below the directory `base`."""
    extra_store = make_store(base / "extra")
    extra = _build_scratch(extra_store, EXTRA, "extra")

    store = make_store(base / "source", registry=registry)
    _build_base(store)
    _build_app_a(store)
    _build(store, APP_B, f"FROM {BASE}\nRUN echo b > /etc/app && rm /etc/removed\n")
    _import_crafted(store, base / "crafted")
    web_digest, pinned_digest, list_digest = _publish(base / "workshop", registry)
    web, pinned, multi = (f"{registry}/team/{name}" for name in ("web", "pinned", "multi"))
    for name in (f"{web}:1", f"{web}@{web_digest}", f"{pinned}@{pinned_digest}", f"{multi}:1"):
        store.podman("pull", "--quiet", name)
    store.podman("manifest", "create", LOCAL_LIST)
    store.podman("manifest", "add", LOCAL_LIST, f"containers-storage:{APP_A}")

    oci, archive, directory = f"oci:{base}/oci:1", f"oci-archive:{base}/b.tar", f"dir:{base}/dir"
    store.skopeo("copy", "--quiet", store.ref(APP_A), oci)
    store.skopeo("copy", "--quiet", store.ref(APP_B), archive)
    plain_http = "--src-tls-verify=false"
    store.skopeo("copy", "--quiet", plain_http, f"docker://{web}:1", directory)
    return ImageSources(
        store=store,
        extra_store=extra_store,
        registry=registry,
        base=store.image(BASE),
        app_a=store.image(APP_A),
        app_b=store.image(APP_B),
        crafted=store.image(CRAFTED),
        web=store.image(f"{web}:1"),
        web_by_digest=f"{web}@{web_digest}",
        pinned=store.image(f"{pinned}@{pinned_digest}"),
        multi=store.image(f"{multi}:1"),
        multi_list_digest=list_digest,
        local_list=LOCAL_LIST,
        extra=extra,
        oci=oci,
        oci_archive=archive,
        dir=directory,
    )


def _build(store: Store, name: str, containerfile: str, context: Path | None = None) -> None:
    """Build an image; chroot isolation needs no container runtime and no cgroups."""
    directory = context or store.settings / "context"
    directory.mkdir(exist_ok=True)
    (directory / "Containerfile").write_text(containerfile)
    store.podman("build", "--quiet", "--isolation=chroot", "--tag", name, str(directory))


def _busybox_context(store: Store, name: str) -> Path:
    context = store.settings / f"context-{name}"
    (context / "rootfs/bin").mkdir(parents=True)
    (context / "rootfs/bin/busybox").write_bytes(machine_busybox().read_bytes())
    (context / "rootfs/bin/busybox").chmod(0o755)
    (context / "rootfs/bin/sh").symlink_to("busybox")
    (context / "rootfs/bin/rm").symlink_to("busybox")
    return context


def _build_scratch(store: Store, name: str, word: str) -> StoredImage:
    context = _busybox_context(store, word)
    (context / "rootfs/word").write_text(word)
    _build(store, name, 'FROM scratch\nCOPY rootfs /\nCMD ["/bin/sh"]\n', context)
    return store.image(name)


def _build_base(store: Store) -> None:
    context = _busybox_context(store, "base")
    write_base(context / "rootfs")
    _build(store, BASE, 'FROM scratch\nCOPY rootfs /\nCMD ["/bin/sh"]\n', context)


def _build_app_a(store: Store) -> None:
    """Change a mounted container, so that overlayfs itself makes the whiteouts and opaque marks."""
    script = (
        "set -e\n"
        f"container=$(buildah from --pull-never {BASE})\n"
        'tree=$(buildah mount "$container")\n'
        f'(cd {REPOSITORY} && {sys.executable} -m tests.support.tricky "$tree")\n'
        'buildah umount "$container"\n'
        f'buildah commit --quiet --rm "$container" {APP_A}\n'
    )
    store.run(("sh", "-c", script))
    # Unpacking writes the zeros of a sparse file; a store may well hold it with its holes again.
    (sparse,) = store.root.glob("overlay/*/diff/opt/sparse")
    before = sparse.stat()
    store.run(("fallocate", "--dig-holes", str(sparse)))
    os.utime(sparse, ns=(before.st_atime_ns, before.st_mtime_ns))


def _import_crafted(store: Store, layout: Path) -> None:
    write_layout(layout, "1", [layer_tar(LOWER), layer_tar(UPPER)])
    store.skopeo("copy", "--quiet", f"oci:{layout}:1", store.ref(CRAFTED))


def _publish(base: Path, registry: str) -> tuple[str, str, str]:
    """Push from a store that is then forgotten: what is pulled must come from the registry."""
    workshop = make_store(base, registry=registry)
    for name in ("web", "pinned"):
        local, remote = f"localhost/{name}:1", f"docker://{registry}/team/{name}:1"
        _build_scratch(workshop, local, name)
        workshop.podman("push", "--quiet", local, remote)
    # Other architectures stand in the index only to make it one that has a choice.
    workshop.podman("manifest", "create", "localhost/multi:1")
    _build_scratch(workshop, "localhost/multi-native:1", "multi")
    other = workshop.settings / "context-multi"
    tag = "--tag=localhost/multi-other:1"
    # The cache knows no platforms.
    workshop.podman("build", "--quiet", "--no-cache", "--platform=linux/s390x", tag, str(other))
    for member in ("native", "other"):
        local = f"containers-storage:localhost/multi-{member}:1"
        workshop.podman("manifest", "add", "localhost/multi:1", local)
    workshop.podman(
        "manifest", "push", "--all", "localhost/multi:1", f"docker://{registry}/team/multi:1"
    )
    return (
        _remote_digest(workshop, registry, "web"),
        _remote_digest(workshop, registry, "pinned"),
        _remote_digest(workshop, registry, "multi"),
    )


def _remote_digest(store: Store, registry: str, name: str) -> str:
    raw = store.skopeo(
        "inspect",
        "--tls-verify=false",
        "--format={{.Digest}}",
        f"docker://{registry}/team/{name}:1",
    )
    return raw if raw.startswith("sha256:") else str(json.loads(raw)["Digest"])
