"""The calls of a build frontend: pip, build, pybuild, the RPM macros."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backend import archives, tree
from backend.layout import Member, modules, system_files
from backend.project import Project, ProjectError, entry_points, metadata, read_project

Settings = Mapping[str, object] | None
"""What a frontend passes on from its command line; nothing here can be set."""
TAG = "py3-none-any"
_WHEEL = f"Wheel-Version: 1.0\nGenerator: bootc-bound-images\nRoot-Is-Purelib: true\nTag: {TAG}\n"


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:  # noqa: ARG001
    """Return what is needed beside build-system.requires: nothing."""
    return []


get_requires_for_build_sdist = get_requires_for_build_wheel
get_requires_for_build_editable = get_requires_for_build_wheel


def prepare_metadata_for_build_wheel(
    metadata_directory: str,
    config_settings: Settings = None,  # noqa: ARG001
) -> str:
    """Write the .dist-info directory and return its name."""
    project = _project()
    directory = f"{project.base_name}.dist-info"
    (Path(metadata_directory) / directory).mkdir()
    for member in _information(project):
        path = Path(metadata_directory) / member.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(member.content)
    return directory


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_wheel(
    wheel_directory: str,
    config_settings: Settings = None,  # noqa: ARG001
    metadata_directory: str | None = None,  # noqa: ARG001
) -> str:
    """Write the wheel and return its name."""
    project = _project()
    time = tree.epoch(project.root)
    data = [
        Member(f"{project.base_name}.data/data/{member.path}", member.content, member.mode)
        for member in system_files(project, time)
    ]
    return _write(wheel_directory, project, [*modules(project), *data])


def build_editable(
    wheel_directory: str,
    config_settings: Settings = None,  # noqa: ARG001
    metadata_directory: str | None = None,  # noqa: ARG001
) -> str:
    """Write a wheel that leads to the tree, and return its name."""
    project = _project()
    link = Member(f"__editable__.{project.file_name}.pth", f"{project.root}\n".encode())
    return _write(wheel_directory, project, [link])


def build_sdist(
    sdist_directory: str,
    config_settings: Settings = None,  # noqa: ARG001
) -> str:
    """Write the sdist, which holds all the tree's files, and return its name."""
    project = _project()
    if not (tree.has_git(project.root) or tree.is_sdist(project.root)):
        raise ProjectError("git says what belongs into an sdist: it needs a checkout, and git")
    name = f"{project.base_name}.tar.gz"
    archives.write_sdist(Path(sdist_directory) / name, project, tree.epoch(project.root))
    return name


def _project() -> Project:
    root = Path.cwd()
    return read_project(root, tree.find_version(root))


def _information(project: Project) -> list[Member]:
    directory = f"{project.base_name}.dist-info"
    licences = [
        Member(f"{directory}/licenses/{name}", (project.root / name).read_bytes())
        for name in project.table["license-files"]
    ]
    return [
        Member(f"{directory}/METADATA", metadata(project).encode()),
        Member(f"{directory}/WHEEL", _WHEEL.encode()),
        Member(f"{directory}/entry_points.txt", entry_points(project).encode()),
        *licences,
    ]


def _write(directory: str, project: Project, members: list[Member]) -> str:
    name = f"{project.base_name}-{TAG}.whl"
    record = f"{project.base_name}.dist-info/RECORD"
    archives.write_wheel(
        Path(directory) / name, [*members, *_information(project)], record, tree.epoch(project.root)
    )
    return name
