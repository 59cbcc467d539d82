"""One source root that binds images in every way there is, and the stores that they are in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.images import ImageSources
from tests.support.stores import Store, make_store
from tests.support.tricky import machine_busybox

PLAIN = "localhost/plain"
"""Without a tag; the store has it as `localhost/plain:latest`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a source root declares, and what a target must answer to in return."""

    store: Store
    """Has `PLAIN`; all other images are in its additional stores. Never to be changed by a test."""
    sources: ImageSources
    units: Mapping[str, str]
    """For the `source_root` fixture."""
    names: tuple[str, ...]
    """Every name as declared, as podman completes it, and with the pinned digest."""

    @property
    def stores(self) -> tuple[Path, ...]:
        """All stores, primary first."""
        return (self.store.root, self.sources.store.root, self.sources.extra_store.root)


def unit(reference: str, kind: str = "Image") -> str:
    """Text of a unit whose Image= is the reference."""
    return f"[{kind}]\nImage={reference}\n"


def declare(base: Path, sources: ImageSources) -> Declared:
    """Build the primary store below `base`."""
    others = (sources.store.root, sources.extra_store.root)
    store = make_store(base, additional=others, registry=sources.registry)
    build_image(store, f"{PLAIN}:latest", {"word": b"plain"})
    repository = f"{sources.registry}/team"
    by_list = f"{repository}/multi@{sources.multi_list_digest}"
    digest = sources.pinned.name.partition("@")[2]
    tag_and_digest = f"{repository}/pinned:1@{digest}"
    return Declared(
        store=store,
        sources=sources,
        units={
            "app-a.container": unit(sources.app_a.name, "Container"),
            "app-b.image": unit(sources.app_b.name),
            "web.image": unit(sources.web.name),
            "web-pinned.container": unit(sources.web_by_digest, "Container"),
            "multi.container": unit(by_list, "Container"),
            "indirect.container": unit("base.image", "Container"),
            "base.image": unit(sources.base.name),
            "extra.image": unit(sources.extra.name),
            "short.container": unit("crafted:1", "Container"),
            "untagged.image": unit(PLAIN),
            "tag-and-digest.image": unit(tag_and_digest),
        },
        names=(
            *(image.name for image in sources.images() if image is not sources.multi),
            sources.web_by_digest, by_list, sources.extra.name, PLAIN, f"{PLAIN}:latest",
            tag_and_digest, "crafted:1", "base.image",
        ),
    )  # fmt: skip


def build_image(store: Store, name: str, files: Mapping[str, bytes]) -> None:
    """Build an image of busybox and some files at the top."""
    context = store.settings / f"context-{len(list(store.settings.iterdir()))}"
    (context / "rootfs/bin").mkdir(parents=True)
    (context / "rootfs/bin/busybox").write_bytes(machine_busybox().read_bytes())
    (context / "rootfs/bin/busybox").chmod(0o755)
    (context / "rootfs/bin/sh").symlink_to("busybox")
    for path, content in files.items():
        (context / "rootfs" / path).write_bytes(content)
    (context / "Containerfile").write_text('FROM scratch\nCOPY rootfs /\nCMD ["/bin/sh"]\n')
    store.podman("build", "--quiet", "--isolation=chroot", "--tag", name, str(context))
