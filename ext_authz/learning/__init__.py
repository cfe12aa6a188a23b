"""From what was seen to a proposal of a policy; nothing here changes one."""
