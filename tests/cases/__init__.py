"""Each behaviour of the session, written once and run on every driver, sync and async."""
