"""The config of a run: reading it, checking its keys and values, and what a run would need (`--dry-run`)."""
