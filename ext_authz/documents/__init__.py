"""Every YAML document that the product reads: the reader, the models, the loader."""
