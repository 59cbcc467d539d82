"""What an OS image declares: units read as Quadlet, systemd and bootc read them, and references."""
