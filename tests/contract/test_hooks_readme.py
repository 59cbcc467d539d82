"""What hooks/README.md says is what the code does."""

import re
from pathlib import Path

from installer_plugin.hooks.directories import BACKUPS, PLACES
from installer_plugin.hooks.options import TIMEOUT_SECONDS
from installer_plugin.hooks.phases import OUR_STAGES, Phase
from installer_plugin.hooks.running import (
    FIXED,
    KEPT,
    NOT_APPLICABLE,
    SCHEMA,
    Facts,
)

README = (Path(__file__).parents[2] / "hooks/README.md").read_text()


def test_phases_and_our_stages_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|[^|]*\|(.*)\|$", README, re.MULTILINE)
    assert {phase: tuple(re.findall(r"`([^`]+)`", names)) for phase, names in rows} == OUR_STAGES


def test_variables_are_those_of_the_code() -> None:
    named = re.findall(r"^\| `(BOUND_IMAGES_\w+)` \|", README, re.MULTILINE)
    assert named == list(Facts(state_dir=Path("/state")).variables(Phase.VERIFY))


def test_environment_is_that_of_the_code() -> None:
    listed = README.split("an environment by list:", 1)[1].split("and these variables", 1)[0]
    words = re.findall(r"`([^`]+)`", listed)
    assert dict(word.split("=", 1) for word in words if "=" in word) == FIXED
    assert tuple(word for word in words if "=" not in word) == KEPT


def test_suffixes_numbers_and_places_are_those_of_the_code() -> None:
    assert f"`{' '.join(BACKUPS)}`" in README
    assert f"more than {TIMEOUT_SECONDS:.0f} s" in README
    assert f"| {NOT_APPLICABLE} | not applicable" in README
    assert SCHEMA in README
    places = re.findall(r"`/([^`]+)`", README.split("by precedence", 1)[1].split(".", 1)[0])
    assert tuple(places) == PLACES
