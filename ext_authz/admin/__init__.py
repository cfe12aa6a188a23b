"""For operators and their tools: the control store of a running server, over a unix socket."""
