"""The program itself: its help and its commands, each of which is loaded when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from installer_plugin import __version__

PROGRAM = "bootc-bound-images"
CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "BOUND_IMAGES"}
COMMANDS = {
    "bootc-image-builder": "image_builder",
    "check": "commands",
    "copy": "commands",
    "hooks": "hooks",
    "image-builder": "image_builder",
    "install": "install",
    "list": "list",
    "lock": "commands",
    "osbuild-manifest": "image_builder",
    "stage": "stage",
    "verify": "verify",
}
"""The module of this folder that each command is in."""


class Program(click.Group):
    """A group that imports a command when it is asked for it: the rest of the program takes longer to
    load than some commands take to run.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  as click calls it
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, None when there is none of this name."""
        if cmd_name not in self.commands and cmd_name in COMMANDS:
            module = import_module(f"installer_plugin.cli.{COMMANDS[cmd_name]}")
            self.add_command(module.COMMANDS[cmd_name])
        return super().get_command(ctx, cmd_name)


@click.group(cls=Program, context_settings=CONTEXT)
@click.version_option(__version__, prog_name=PROGRAM)
def program() -> None:
    """Put every bound image of a bootc OS image on the target, proven bit for bit, or fail.

    /usr/lib/bootc/bound-images.d holds a symbolic link for each bound image, to the Quadlet .image
    or .container file that names it. Each option has an environment variable:
    BOUND_IMAGES_COPY_ENGINE stands for `copy --engine`.

    \b
    Exit codes:
        0  done and proven
        1  a fault of this program: report it
        2  usage or configuration is wrong
        3  the source image is wrong
        4  a check failed, nothing was touched
        5  copying failed
        6  verification failed
        7  the host step failed
      130  interrupted
    """  # noqa: D301  click knows the character, not the escape, as the sign of lines to keep
