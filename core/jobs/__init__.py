"""Jobs: who paints which run, when and where."""
