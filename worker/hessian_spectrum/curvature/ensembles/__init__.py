"""Ensembles: many networks of one shape that are trained and measured together."""
