"""The containers-storages of this machine as one image source, searched as podman searches them."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from installer_plugin.declarations.reference import (
    ImageReference,
    find_image_id,
    parse_reference,
)
from installer_plugin.errors import DamagedStoreError, DataError
from installer_plugin.model import (
    DiffId,
    Layer,
    SourceKind,
    SourceLocation,
    parse_image_id,
)
from installer_plugin.storage.base import Found, Manifests
from installer_plugin.storage.layer.paths import split_path, tree_path
from installer_plugin.storage.layer.tar_split import FREE_TEXT, TEXT_PER_BYTE
from installer_plugin.storage.source.containers_conf import RegistriesConf
from installer_plugin.storage.source.short_names import candidates, same_short_name
from installer_plugin.storage.store.drivers import other_driver, way_out
from installer_plugin.storage.store.graph_root import GraphRoot
from installer_plugin.storage.store.manifests import (
    digest_of,
    parse_config,
    parse_created,
    parse_manifest,
)
from installer_plugin.storage.store.records import (
    MANIFEST_KEY,
    ImageRecord,
    LayerRecord,
    Records,
    layer_chain,
)

_FILE_ENTRY = b'"type":1'
_READ_SIZE = 1 << 20
MAX_TEXT = 4 << 30
"""Bytes of any tar-split file's text: that of some millions of files."""
_TOO_LONG = "is far too long for the layer it describes"
DAMAGED_HINT = "remove the image with 'podman image rm' and pull it again"


@dataclass(frozen=True, slots=True)
class _Opened:
    root: GraphRoot
    records: Records


@dataclass(frozen=True, slots=True)
class _Match:
    """An image that a reference means; *name* is the stored name that matched, if one did."""

    store: _Opened
    image: ImageRecord
    name: str


@dataclass(frozen=True, slots=True)
class Searched:
    """Where local images are looked for."""

    paths: tuple[Path, ...]
    """Graph roots, primary first, the absent ones among them."""
    named: bool
    """Whether the user named them; else they are podman's own."""


class LocalStores:
    """A primary store and its additional ones, with the records they had when they were opened."""

    def __init__(
        self, stores: Sequence[_Opened], registries: RegistriesConf, searched: Searched
    ) -> None:
        self._stores = tuple(stores)
        self._registries = registries
        self._searched = searched
        self._counted: dict[str, int] = {}
        """Entries of layers, which several images may share."""

    @property
    def label(self) -> str:
        """The graph roots, in the order in which they are searched, the absent ones among them."""
        return ", ".join(map(str, self._searched.paths))

    def remedy(self, reference: str) -> str:
        """See :class:`~installer_plugin.storage.base.ImageSource`."""
        for path in self._searched.paths:
            driver = other_driver(path)
            if driver:
                return f"{way_out(path, driver, reference)} ({path} has images of that driver)"
        named = f" --root {self._searched.paths[0]}" if self._searched.named else ""
        return f"podman{named} pull {reference}"

    def image_layers(self, reference: str) -> tuple[tuple[Path, LayerRecord], ...] | None:
        """Graph root and record of each layer of the image, base first; None when it is not here.

        *reference* may be an image ID. Raises DataError when the image is damaged.
        """
        match = self._named_or_id(reference)
        if match is None:
            return None
        chain = layer_chain(match.image.layer, self._layer)
        return tuple((self._holder(layer.id).root.path, layer) for layer in chain)

    def image_created(self, reference: str) -> int | None:
        """When the image was made, seconds since 1970; None when it is not here, 0 when it says none.

        *reference* may be an image ID. Raises DataError when the image is damaged.
        """
        match = self._named_or_id(reference)
        if match is None:
            return None
        where = f"image {match.image.id} in {match.store.root.path}"
        return parse_created(_config(match.store.root, match.image, where), where)

    def find(self, reference: str) -> Found | None:
        """See :class:`~installer_plugin.storage.base.ImageSource`."""
        match = self._match(reference, parse_reference(reference))
        if match is None:
            return None
        try:
            return self._identify(match)
        except DataError as error:
            hint = error.hint or DAMAGED_HINT
            raise DataError(error.subject, error.message, hint=hint) from error

    def _named_or_id(self, reference: str) -> _Match | None:
        image_id = find_image_id(reference)
        if image_id is None:
            return self._match(reference, parse_reference(reference))
        found = (
            _Match(store, image, "") for store, image in self._images() if image.id == image_id
        )
        return next(found, None)

    def _match(self, reference: str, wanted: ImageReference) -> _Match | None:
        names = (*candidates(wanted, self._registries), reference)
        return self._by_name(names) or self._by_digest(wanted, names) or self._by_ending(wanted)

    def _by_name(self, names: Sequence[str]) -> _Match | None:
        for name in names:
            for store, image in self._images():
                if name in image.names:
                    return _Match(store, image, name)
        return None

    def _by_ending(self, wanted: ImageReference) -> _Match | None:
        """A short name's last chance: any registry's image with that path."""
        if not wanted.is_short or wanted.is_pinned:
            return None
        for store, image in self._images():
            for name in image.names:
                if same_short_name(wanted, name):
                    return _Match(store, image, name)
        return None

    def _images(self) -> Iterator[tuple[_Opened, ImageRecord]]:
        for store in self._stores:
            for image in store.records.images:
                yield store, image

    def _by_digest(self, wanted: ImageReference, names: Sequence[str]) -> _Match | None:
        """An image with the wanted digest; one with a name in a wanted repository comes first."""
        holders = [
            _Match(store, image, "")
            for store, image in self._images()
            if wanted.digest in image.manifest_digests
        ]
        repositories = {parse_reference(name).repository for name in names}

        def elsewhere(match: _Match) -> bool:
            return repositories.isdisjoint(map(_repository, match.image.names))

        return min(holders, key=elsewhere, default=None)

    def _identify(self, match: _Match) -> Found:
        """All identities of an image, checked against each other as far as records tell."""
        store, image = match.store, match.image
        where = f"image {image.id} in {store.root.path}"
        config = parse_config(_config(store.root, image, where), where)
        try:
            chain = layer_chain(image.layer, self._layer)
        except DataError as error:
            raise DataError(where, f"is not whole: {error}") from error
        stored = tuple(_whole(layer) for layer in chain)
        if stored != config.diff_ids:
            raise DataError(where, "its layers are not those its config lists", hint=DAMAGED_HINT)
        for layer in chain:
            _require_plain(self._holder(layer.id).root, layer)
        _manifests(store.root, image)
        manifest = store.root.big_data(image, MANIFEST_KEY)
        digest = image.digest or digest_of(manifest)
        return Found(
            location=SourceLocation(
                kind=SourceKind.CONTAINERS_STORAGE, store=str(store.root.path), item=image.id
            ),
            image_id=parse_image_id(image.id),
            digest=digest,
            manifest_digests=tuple(dict.fromkeys((digest, *image.manifest_digests))),
            layers=tuple(
                Layer(
                    diff_id=_whole(layer),
                    size=layer.diff_size or 0,
                    entries=self._counted_once(layer),
                )
                for layer in chain
            ),
            compressed=any(layer.compressed for layer in parse_manifest(manifest, where).layers),
            platform=config.platform,
            name=match.name,
        )

    def _layer(self, layer_id: str) -> LayerRecord | None:
        for store in self._stores:
            if layer_id in store.records.layers:
                return store.records.layers[layer_id]
        return None

    def _holder(self, layer_id: str) -> _Opened:
        return next(store for store in self._stores if layer_id in store.records.layers)

    def _counted_once(self, layer: LayerRecord) -> int:
        if layer.id not in self._counted:
            self._counted[layer.id] = self._entries(layer)
        return self._counted[layer.id]

    def _entries(self, layer: LayerRecord) -> int:
        store = self._holder(layer.id).root
        path = split_path(layer.id)
        if not store.root.has_entry(path):
            return 0  # for estimates only; a layer without tar-split fails verification
        try:
            with os.fdopen(store.root.open_file(path), "rb") as file:
                return count_entries(file, _most_text(layer.diff_size))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(store.shown(path), f"is damaged: {error}") from error
        except DataError as error:
            raise DataError(store.shown(path), error.message) from error


def _most_text(diff_size: int | None) -> int:
    """Bytes of tar-split text that a layer of this size can have."""
    return MAX_TEXT if diff_size is None else min(FREE_TEXT + TEXT_PER_BYTE * diff_size, MAX_TEXT)


def count_entries(tar_split: IO[bytes], limit: int) -> int:
    """Number of tar entries, counted without parsing; raises what reading gzip raises.

    Raises DataError for text of more than *limit* bytes, compressed or not.
    """
    count, length, rest = 0, 0, b""
    if os.fstat(tar_split.fileno()).st_size > limit:
        raise DataError("tar-split file", _TOO_LONG)
    with gzip.GzipFile(fileobj=tar_split, mode="rb") as stream:
        while block := stream.read(_READ_SIZE):
            text = rest + block
            count += text.count(_FILE_ENTRY)
            rest = text[1 - len(_FILE_ENTRY) :]
            length += len(block)
            if length > limit:
                raise DataError("tar-split file", _TOO_LONG)
    return count


@contextmanager
def open_local_stores(
    paths: Sequence[Path], registries: RegistriesConf, *, named: bool = False
) -> Iterator[LocalStores]:
    """Open the stores that exist among *paths* and read their records; raises DataError."""
    with ExitStack() as stack:
        opened = []
        for path in paths:
            if path.is_dir():
                root = stack.enter_context(GraphRoot.open(path))
                opened.append(_Opened(root, _records(root)))
        yield LocalStores(opened, registries, Searched(tuple(paths), named))


def _records(root: GraphRoot) -> Records:
    try:
        return root.load()
    except DataError as error:
        raise DamagedStoreError(error.subject, error.message, hint=error.hint) from error


def stored_manifests(location: SourceLocation) -> Manifests:
    """Every manifest that the store keeps for the image at *location*, read again.

    Raises DataError when the image has gone or a manifest's bytes are not what its digest says.
    """
    with GraphRoot.open(Path(location.store)) as root:
        image = root.load_image(location.item)
        if image is None:
            raise DataError(f"image {location.item}", f"has gone from {location.store}")
        return _manifests(root, image)


def _manifests(root: GraphRoot, image: ImageRecord) -> Manifests:
    """Every manifest that the record lists, its bytes compared with the digest beside it."""
    found = {}
    for key in image.manifest_keys:
        content = root.big_data(image, key)
        digest = digest_of(content)
        if image.big_data_digests.get(key) != digest:
            raise DataError(
                f"{key} of image {image.id} in {root.path}",
                f"its bytes have the digest {digest}, not {image.big_data_digests.get(key)}",
                hint=DAMAGED_HINT,
            )
        if image.big_data_sizes.get(key, len(content)) != len(content):
            raise DataError(
                f"{key} of image {image.id} in {root.path}",
                f"has {len(content)} bytes, not {image.big_data_sizes[key]}",
                hint=DAMAGED_HINT,
            )
        found[digest] = content
    return found


def _require_plain(store: GraphRoot, layer: LayerRecord) -> None:
    """Raise DataError where something else is in the place of a layer's files.

    What is missing is for the guards; a link or a fifo would lead a tool astray, or make it wait.
    """
    expected = {
        f"overlay/{layer.id}": "directory",
        tree_path(layer.id): "directory",
        split_path(layer.id): "regular file",
    }
    for path, kind in expected.items():
        if store.root.has_entry(path) and store.root.type_of(path) != kind:
            message = f"is a {store.root.type_of(path)}, expected a {kind}"
            raise DataError(store.shown(path), message, hint=DAMAGED_HINT)


def _config(root: GraphRoot, image: ImageRecord, where: str) -> bytes:
    """The config's bytes; tells manifest lists and images without a config apart."""
    if image.config_key not in image.big_data_names:
        if MANIFEST_KEY in image.big_data_names:
            manifest = parse_manifest(root.big_data(image, MANIFEST_KEY), where)
            if manifest.is_list:
                raise DataError(
                    where,
                    "is a manifest list made here, expected an image: it has no layers of its own",
                    hint="bind one of its images, or push the list to a registry and pull it",
                )
        raise DataError(where, "has no image config, expected one", hint=DAMAGED_HINT)
    content = root.big_data(image, image.config_key)
    if digest_of(content) != image.config_key:
        raise DataError(where, f"its config hashes to {digest_of(content)}", hint=DAMAGED_HINT)
    return content


def _whole(layer: LayerRecord) -> DiffId:
    if layer.incomplete:
        raise DataError(f"layer {layer.id}", "was left incomplete by its writer", hint=DAMAGED_HINT)
    if layer.diff_id is None:
        raise DataError(
            f"layer {layer.id}",
            "has no diff ID (it was pulled by its table of contents only), expected one",
            hint='pull the image again with enable_partial_images = "false" in storage.conf',
        )
    return layer.diff_id


def _repository(name: str) -> str:
    try:
        return parse_reference(name).repository
    except ValueError:
        return name
