"""What is done again and again beside requests: lost jobs are sent again, old results go."""
