"""Results as arrays, tables and plots."""
