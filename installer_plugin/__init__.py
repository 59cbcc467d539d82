"""Installs a bootc image's logically bound images, proven, or fails the installation."""

__version__ = "0.1.0"
