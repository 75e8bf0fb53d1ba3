"""From the quadratures of Lanczos runs to densities with error bands, by numpy alone."""
