"""Commands of `spectrum`, a file for each kind of thing that they are about; `main.py` puts them together."""
