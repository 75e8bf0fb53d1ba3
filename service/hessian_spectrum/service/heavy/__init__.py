"""Work that keeps a core busy while a caller waits: in turn, in processes of its own, and no longer than wanted."""
