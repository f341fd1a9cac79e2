"""What an application built on FastAPI sees, in process and over a real server."""
