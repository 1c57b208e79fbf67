"""What the service saw: the journal, the totals, and where the lines go."""
