"""An Envoy external-authorization server for AI agents."""
