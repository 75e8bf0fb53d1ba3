"""Figures of the sources: each file here computes the measurements of a family, and makes its figures of them.

A file that is added is found. `MEASUREMENTS` says how each message is measured, `FIGURE_CONTENTS` what each figure is
made of.
"""
