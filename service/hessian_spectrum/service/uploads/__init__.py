"""Requests whose arrays come as npz or multipart/form-data. What is uploaded is hostile until it is checked here."""
