"""One method a file; importing a file enters its method in the table."""
