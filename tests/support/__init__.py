"""What several tests build on: requests as Envoy sends them, and snapshots to judge them by."""
