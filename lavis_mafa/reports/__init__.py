"""What a run looks like: training curves, the table of results, and a page of the connections it found."""
