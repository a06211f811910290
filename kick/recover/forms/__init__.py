"""Forms of recovery, one file each."""
