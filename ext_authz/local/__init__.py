"""Local mode: a development CA, and an identity provider that answers Envoy as a SPIRE agent does."""
