"""Between numbers as arrays and the messages and files that carry them; workers and the service share it."""
