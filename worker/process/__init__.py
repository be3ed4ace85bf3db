"""How a child process is started, watched and ended. Knows neither the supervisor nor what a child does."""
