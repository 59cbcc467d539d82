"""What podman makes of the names that a copy writes, also when it later writes to the store itself.

The target's names are the declared ones, letter for letter, because bootc's garbage collection
compares strings, and the complete ones that podman looks them up by. podman itself would never
write the former: the table says how each version gets on with them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.debian import DebianRoot, Suite
from tests.support.declared import PLAIN, Declared, build_image
from tests.support.images import ImageSources
from tests.support.product import Lab, product, records
from tests.support.sources import SourceRootBuilder
from tests.support.stores import Store, make_store

Debian = Callable[[Suite], DebianRoot]
SUITES = ["bookworm", "trixie", pytest.param("sid", marks=pytest.mark.moving)]
REFUSED = 125

# Each operation gets a store of its own; what it did is told by the records.
_PREPARE = """
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
mkdir -p /etc/containers/registries.conf.d
printf '[[registry]]\\nlocation = "%s"\\ninsecure = true\\n' "$REGISTRY" \
    > /etc/containers/registries.conf.d/loopback.conf
podman() { command podman --runroot /run/t/run --cgroup-manager=cgroupfs --events-backend=none "$@"; }
own() { podman --root /run/t/own "$@"; }
reader() { podman --root /run/t/empty --storage-opt additionalimagestore=/store "$@"; }
fresh() {
    umount /run/t/own/overlay /run/t/empty/overlay 2> /dev/null
    rm -rf /run/t
    mkdir -p /run/t
    cp -a /store /run/t/own
}
tell() {
    what=$1
    shift
    code=0
    said=$("$@" 2> /run/t/error) || code=$?
    printf '%s\\t%s\\t%s\\t%s\\t' "$what" "$name" "$code" "$(echo "$said" | tail -n 1)"
    cat /run/t/own/overlay-images/images.json
    echo
}
"""
_OBSERVE = (
    _PREPARE
    + """
for name; do
    fresh
    tell resolve own image inspect --format '{{.Id}}' "$name"
    tell resolve-read-only reader image inspect --format '{{.Id}}' "$name"
    tell use reader create --pull=never --network=none "$name" sh
    tell list own images --format '{{range .Names}}{{.}} {{end}}' --filter "id=$(
        own image inspect --format '{{.Id}}' "$name")"
    id=$(own image inspect --format '{{.Id}}' "$name")
    tell tag own tag "$name" localhost/other:1
    fresh
    tell untag own untag "$id" "$name"
    tell resolve-untagged own image exists "$name"
    fresh
    tell rmi own rmi "$name"
    fresh
    tell remove own rmi --force "$id"
    fresh
    tell pull own pull --quiet "$name"
done
"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """What is known of one way to write a name."""

    declared: str
    """`{registry}`, `{web}` and the like stand for what differs between runs."""
    complete: str
    """What podman takes it for."""
    removable: bool = True
    """Whether podman can take the name away by saying it."""
    from_registry: bool = False


SPELLINGS = {
    "tag": Spelling(declared="localhost/app-a:1", complete="localhost/app-a:1"),
    "no-tag": Spelling(declared=PLAIN, complete=f"{PLAIN}:latest"),
    "short": Spelling(declared="crafted:1", complete="localhost/crafted:1"),
    "digest": Spelling(
        declared="{registry}/team/web@{web}",
        complete="{registry}/team/web@{web}",
        from_registry=True,
    ),
    "list-digest": Spelling(
        declared="{registry}/team/multi@{list}",
        complete="{registry}/team/multi@{list}",
        from_registry=True,
    ),
    "tag-and-digest": Spelling(
        declared="{registry}/team/pinned:1@{pinned}",
        complete="{registry}/team/pinned@{pinned}",
        from_registry=True,
    ),
    "image-unit": Spelling(declared="base.image", complete="localhost/base:1", removable=False),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What an operation came to."""

    code: int
    said: str
    """Last line of its output."""
    names: Mapping[str, str]
    """Image IDs by the names that podman's own store has afterwards."""


@dataclass(frozen=True, slots=True)
class Names:
    """A target store, and what each podman made of its names."""

    store: Path
    spelled: Mapping[str, Spelling]
    observe: Callable[[Suite], Mapping[tuple[str, str], Seen]]

    @property
    def owners(self) -> Mapping[str, str]:
        """Image IDs by the names that the copy wrote."""
        return _owners(records(self.store, "images").values())


def _owners(images: object) -> Mapping[str, str]:
    assert isinstance(images, list | type({}.values()))
    return {name: image["id"] for image in images for name in image.get("names") or ()}


def _spelled(sources: ImageSources) -> Mapping[str, Spelling]:
    values = {
        "registry": sources.registry,
        "web": sources.web_by_digest.partition("@")[2],
        "list": sources.multi_list_digest,
        "pinned": sources.pinned.name.partition("@")[2],
    }
    return {
        id_: replace(
            each,
            declared=each.declared.format_map(values),
            complete=each.complete.format_map(values),
        )
        for id_, each in SPELLINGS.items()
    }


@pytest.fixture(scope="module")
def names(declared: Declared, debian: Debian, tmp_path_factory: pytest.TempPathFactory) -> Names:
    """All declared names in a target store; each podman is watched once."""
    base = tmp_path_factory.mktemp("names")
    root = SourceRootBuilder(base)(declared.units)
    (base / "target").mkdir()
    product("copy", "--quiet", root, base / "target", env=declared.store.env)
    store = base / "target/ostree/bootc/storage"
    spelled = _spelled(declared.sources)
    told: dict[Suite, Mapping[tuple[str, str], Seen]] = {}

    def observe(suite: Suite) -> Mapping[tuple[str, str], Seen]:
        if suite not in told:
            argv = ("sh", "-c", _OBSERVE, "sh", *(each.declared for each in spelled.values()))
            env = {"REGISTRY": declared.sources.registry}
            done = debian(suite).run(argv, ro={"/store": store}, env=env)
            told[suite] = dict(map(_parse, done.stdout.splitlines()))
        return told[suite]

    return Names(store, spelled, observe)


def _parse(line: str) -> tuple[tuple[str, str], Seen]:
    what, name, code, said, content = line.split("\t")
    return (what, name), Seen(int(code), said, _owners(json.loads(content)))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("id_", SPELLINGS)
class TestSpelling:
    """The table: every spelling with every podman."""

    @staticmethod
    def _seen(names: Names, suite: Suite, id_: str, what: str) -> Seen:
        return names.observe(suite)[what, names.spelled[id_].declared]

    def test_is_written_beside_its_complete_form(
        self, id_: str, suite: Suite, names: Names
    ) -> None:
        each = names.spelled[id_]
        assert names.owners[each.declared] == names.owners[each.complete]

    def test_is_listed_as_written(self, id_: str, suite: Suite, names: Names) -> None:
        seen = self._seen(names, suite, id_, "list")
        assert names.spelled[id_].declared in seen.said.split()

    @pytest.mark.parametrize("what", ["resolve", "resolve-read-only"])
    def test_resolves(self, what: str, id_: str, suite: Suite, names: Names) -> None:
        seen = self._seen(names, suite, id_, what)
        assert (seen.code, seen.said) == (0, names.owners[names.spelled[id_].declared])

    def test_can_be_run(self, id_: str, suite: Suite, names: Names) -> None:
        assert self._seen(names, suite, id_, "use").code == 0

    def test_survives_a_new_name_beside_it(self, id_: str, suite: Suite, names: Names) -> None:
        seen = self._seen(names, suite, id_, "tag")
        other = {"localhost/other:1": names.owners[names.spelled[id_].declared]}
        assert (seen.code, seen.names) == (0, {**names.owners, **other})

    @pytest.mark.parametrize("what", ["untag", "rmi"])
    def test_taking_it_away_takes_the_complete_form(
        self, what: str, id_: str, suite: Suite, names: Names
    ) -> None:
        each = names.spelled[id_]
        seen = self._seen(names, suite, id_, what)
        gone = {each.complete} if each.removable else set()
        assert seen.code == (0 if each.removable else REFUSED)
        assert seen.names.keys() == names.owners.keys() - gone

    def test_goes_with_its_image(self, id_: str, suite: Suite, names: Names) -> None:
        each = names.spelled[id_]
        seen = self._seen(names, suite, id_, "remove")
        own = {name for name, id_ in names.owners.items() if id_ == names.owners[each.declared]}
        assert seen.code == 0
        assert seen.names.keys() == names.owners.keys() - own

    def test_pull_leaves_it(self, id_: str, suite: Suite, names: Names) -> None:
        seen = self._seen(names, suite, id_, "pull")
        assert seen.code == (0 if names.spelled[id_].from_registry else REFUSED)
        assert seen.names == names.owners


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("id_", ["no-tag", "short", "tag-and-digest"])
def test_image_is_still_found_by_a_literal_name_when_nothing_else_is_left(
    id_: str, suite: Suite, names: Names
) -> None:
    each = names.spelled[id_]
    seen = names.observe(suite)["resolve-untagged", each.declared]
    assert each.complete not in seen.names
    assert seen.code == 0


# --- when the registry has something newer ------------------------------------------------------


_RENEW = (
    _PREPARE
    + """
printf 'unqualified-search-registries = ["%s"]\\n' "$REGISTRY" \
    > /etc/containers/registries.conf.d/search.conf
fresh
name=$1
tell pull own pull --quiet "$name"
tell resolve own image inspect --format '{{.Id}}' "$name"
reader pull --quiet "$name" > /dev/null 2>&1
tell resolve-read-only reader image inspect --format '{{.Id}}' "$name"
"""
)


def _push(directory: Path, registry: str, name: str, word: str) -> Store:
    store = make_store(directory, registry=registry)
    build_image(store, "localhost/renewed:1", {"word": word.encode()})
    store.podman("push", "--quiet", "localhost/renewed:1", f"docker://{registry}/{name}")
    return store


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    ("declared_name", "complete"),
    [("{registry}/team/{new}", "team/{new}:latest"), ("team/{new}:1", "team/{new}:1")],
    ids=["no-tag", "short"],
)
def test_newer_image_is_taken_and_the_old_one_keeps_the_literal_name(
    declared_name: str,
    complete: str,
    suite: Suite,
    lab: Lab,
    request: pytest.FixtureRequest,
) -> None:
    sources: ImageSources = request.getfixturevalue("image_sources")
    values = {"registry": sources.registry, "new": f"renewed-{lab.directory.name.lower()}"}
    values["new"] = "".join(letter for letter in values["new"] if letter.isalnum())
    name, remote = declared_name.format_map(values), complete.format_map(values)
    first = _push(lab.directory / "1", sources.registry, remote, "old")
    old = first.image("localhost/renewed:1").id
    source = make_store(lab.directory / "source", registry=sources.registry)
    source.podman("pull", "--quiet", f"{sources.registry}/{remote}")
    replace(lab, source=source).run("copy", lab.root(name), lab.target)
    new = (
        _push(lab.directory / "2", sources.registry, remote, "new").image("localhost/renewed:1").id
    )
    debian: Debian = request.getfixturevalue("debian")
    env = {"REGISTRY": sources.registry}
    done = debian(suite).run(("sh", "-c", _RENEW, "sh", name), ro={"/store": lab.store}, env=env)
    seen = {what: each for (what, _), each in map(_parse, done.stdout.splitlines())}
    assert new != old
    assert seen["pull"].names == {name: old, f"{sources.registry}/{remote}": new}
    assert seen["resolve"].said == new
    assert seen["resolve-read-only"].said == new
