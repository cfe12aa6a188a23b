"""Protobuf messages, compiled from proto/ by `make proto`."""
