"""A policy in the languages of others: for those who must show it in theirs, or want a second fence that does not ask us."""
