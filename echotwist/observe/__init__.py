"""What the service saw: the message log, the totals for metrics, and where log lines go."""
