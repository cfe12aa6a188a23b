"""The gRPC server around the authorizer."""
