"""What policy authors ask before and after a change: does it do what I mean, why was this denied, what differs."""
