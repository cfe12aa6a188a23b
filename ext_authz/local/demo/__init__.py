"""Six agents behind real sidecars on one machine, and the calls that show what is allowed and what is not."""
