"""Hosts: programs that install an OS and around which our stages run."""
