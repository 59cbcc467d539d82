"""OCI layouts of any shape, written byte by byte: several images, lists within lists, any annotation."""

import gzip
import hashlib
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.crafted import Entry, layer_tar

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker.distribution"
LAYER = f"{OCI}.layer.v1.tar"

Descriptor = Mapping[str, object]


def named(name: str) -> Mapping[str, str]:
    """The annotations that skopeo writes."""
    return {REF_NAME: name}


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout that is being written; nothing is listed before :meth:`index` has been called."""

    path: Path

    def blob(self, content: bytes, media_type: str) -> Descriptor:
        """Store bytes; their descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        folder = self.path / "blobs/sha256"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def blob_file(self, descriptor: Descriptor) -> Path:
        return self.path / "blobs/sha256" / str(descriptor["digest"]).removeprefix("sha256:")

    def image(
        self, word: str, *, platform: str = "linux/amd64", compressed: bool = False
    ) -> Descriptor:
        """An image of one layer with one file, whose content is the word; its manifest."""
        tar = layer_tar([Entry(name="word", content=word.encode())])
        diff_id = f"sha256:{hashlib.sha256(tar).hexdigest()}"
        os, architecture, *variant = platform.split("/")
        config = {
            "architecture": architecture, "os": os, "config": {},
            **({"variant": variant[0]} if variant else {}),
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }  # fmt: skip
        layer = (
            self.blob(gzip.compress(tar, mtime=0), f"{LAYER}+gzip")
            if compressed
            else self.blob(tar, LAYER)
        )
        return self.manifest(config, [layer])

    def manifest(self, config: object, layers: Sequence[Descriptor]) -> Descriptor:
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.blob(as_json(config), f"{OCI}.config.v1+json"),
            "layers": list(layers),
        }
        return self.blob(as_json(manifest), f"{OCI}.manifest.v1+json")

    def list_of(self, instances: Mapping[str, Descriptor]) -> Descriptor:
        """A manifest list of images by their platforms; a platform of "" is not said."""
        listed = []
        for platform, descriptor in instances.items():
            shown = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
            listed.append({**descriptor, "platform": shown} if platform else descriptor)
        return self.blob(
            as_json({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": listed}),
            f"{OCI}.index.v1+json",
        )

    def index(self, *entries: tuple[Descriptor, Mapping[str, str]]) -> None:
        """Write what the layout lists: descriptors with their annotations."""
        listed = [
            {**descriptor, **({"annotations": dict(annotations)} if annotations else {})}
            for descriptor, annotations in entries
        ]
        (self.path / "index.json").write_bytes(as_json({"schemaVersion": 2, "manifests": listed}))
        (self.path / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))

    def archived(self, file: Path) -> Path:
        """The layout as an archive."""
        with tarfile.open(file, "w") as tar:
            for path in sorted(self.path.rglob("*")):
                tar.add(path, path.relative_to(self.path), recursive=False)
        return file


def image_id(layout: Layout, manifest: Descriptor) -> str:
    """The image ID, in hex, of a manifest."""
    content = json.loads(layout.blob_file(manifest).read_bytes())
    return str(content["config"]["digest"]).removeprefix("sha256:")


def as_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
