"""Care of an index: copies, exports, and what a new one takes over from a damaged one."""
