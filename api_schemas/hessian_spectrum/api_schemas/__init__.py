"""Every message that crosses a process boundary. Pydantic only; each field states its unit."""
