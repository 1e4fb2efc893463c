"""Jobs: when and where each run is computed, and by which process."""
