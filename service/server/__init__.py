"""The HTTP server beneath the application: what it takes from a connection before anybody is known to be behind it."""
