"""Networks as graphs of operators: what a file of a user's own network becomes, without torch and without code."""
