"""Show a run, or a sweep of runs, while it paints and after it has ended."""
