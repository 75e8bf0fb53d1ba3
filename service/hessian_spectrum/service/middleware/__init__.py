"""ASGI middlewares, one concern each; `app.py` lists them in the order in which a request passes them."""
