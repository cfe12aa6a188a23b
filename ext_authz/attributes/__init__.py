"""What Envoy sent, as a typed and bounded view: the only inbound code that sees protobuf."""
