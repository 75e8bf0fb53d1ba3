"""What happens to many small networks along a search or a descent, beyond one spectrum at one point."""
