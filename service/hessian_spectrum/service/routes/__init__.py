"""HTTP routes, one module for each path; they parse and render, other modules decide."""
