"""Disks, partitions and disk images: found, opened, mounted privately, and closed on every path."""
