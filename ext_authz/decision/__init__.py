"""From attributes to one frozen decision: the pipeline and its result."""
