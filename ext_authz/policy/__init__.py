"""The permission matrix: who may ask whom to do what."""
