"""What stands beside the way of a message: twistd, signals, systemd, workers, metrics."""
