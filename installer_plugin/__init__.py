"""Installs a bootc image's logically bound images, proven, or fails the installation."""

__version__ = "1.0.0.dev0"
