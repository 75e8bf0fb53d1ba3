"""What has a formula: numpy only, no torch."""
