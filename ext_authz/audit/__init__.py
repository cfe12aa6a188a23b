"""One record for every decision, written off the decision's thread."""
