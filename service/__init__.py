"""The service: API, dashboard, command line and the laptop stack. It never imports the worker."""
