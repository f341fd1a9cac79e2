"""The web edge, the only part that knows FastAPI. Read ``request.py``, then ``response.py``."""
