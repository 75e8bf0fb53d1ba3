"""What every process says of itself: lines of JSON, or text on a terminal."""
