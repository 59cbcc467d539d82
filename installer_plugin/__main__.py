"""Entry for ``python -m installer_plugin``."""

from installer_plugin.cli import main

main()
