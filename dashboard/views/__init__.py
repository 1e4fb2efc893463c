"""The pages: Stylize, Library, Compare, Timings."""
