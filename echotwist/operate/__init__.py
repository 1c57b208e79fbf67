"""How the service is run and watched: twistd, signals, systemd, workers, metrics."""
