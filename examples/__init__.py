"""Tools of agent frameworks that call another agent on behalf of the user."""
