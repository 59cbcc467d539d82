"""LVM by its own commands, confined to the devices of one disk: other groups are never touched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from installer_plugin.block.udev import device_mapper_env, ended_with_us
from installer_plugin.errors import DataError, HostError
from installer_plugin.process.runner import Command, CommandError, Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalVolume:
    """A logical volume that may hold a file system."""

    group: str
    group_uuid: str
    name: str
    device: Path

    def __str__(self) -> str:
        return f"volume {self.group}/{self.name}"


def confined(members: Sequence[str]) -> tuple[str, ...]:
    """Options that keep lvm to these devices, whatever the machine's own configuration says."""
    accept = ",".join(f'"a|^{member}$|"' for member in members)
    config = f'devices {{ use_devicesfile=0 filter=[{accept},"r|.*|"] }}'
    return ("--config", config)


def lvs_argv(members: Sequence[str]) -> tuple[str, ...]:
    """The visible logical volumes on *members*."""
    columns = "vg_name,vg_uuid,lv_name,lv_dm_path,lv_layout"
    return ("lvm", "lvs", *confined(members), "--reportformat", "json", "--options", columns)


def activate_argv(group: str, members: Sequence[str]) -> tuple[str, ...]:
    """Make the volumes of *group* appear."""
    return ("lvm", "vgchange", *confined(members), "--activate", "y", group)


def deactivate_argv(group_uuid: str, members: Sequence[str]) -> tuple[str, ...]:
    """Make the volumes of the group with this UUID disappear."""
    select = ("--select", f"vg_uuid={group_uuid}")
    return ("lvm", "vgchange", *confined(members), "--activate", "n", *select)


def parse_lvs(text: str, subject: str) -> tuple[LogicalVolume, ...]:
    """``lvm lvs --reportformat json`` -> volumes that can hold a file system; raises DataError."""
    try:
        rows = [row for report in json.loads(text)["report"] for row in report["lv"]]
        return tuple(
            LogicalVolume(
                group=str(row["vg_name"]),
                group_uuid=str(row["vg_uuid"]),
                name=str(row["lv_name"]),
                device=Path(row["lv_dm_path"]),
            )
            for row in rows
            if "pool" not in str(row["lv_layout"]).split(",")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(subject, "lvm's answer cannot be read, expected its JSON") from error


def list_volumes(members: Sequence[Path], runner: Runner) -> tuple[LogicalVolume, ...]:
    """The logical volumes on *members*; raises CommandError and DataError."""
    shown = ", ".join(map(str, members))
    command = Command(
        argv=lvs_argv(tuple(map(str, members))),
        purpose=f"list the volumes on {shown}",
        env=device_mapper_env(),
    )
    return parse_lvs(runner.run(command).stdout.decode(errors="replace"), shown)


def activate(group: str, members: Sequence[Path], runner: Runner) -> None:
    """Activate *group*; raises HostError."""
    command = Command(
        argv=ended_with_us(activate_argv(group, tuple(map(str, members)))),
        purpose=f"activate the volume group {group}",
        env=device_mapper_env(),
    )
    try:
        runner.run(command)
    except CommandError as error:
        hint = "is a group of this name active on this machine, or dm-mod missing in its kernel?"
        raise HostError(error.problem(f"volume group {group}", hint=hint)) from error
