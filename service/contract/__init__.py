"""What service, supervisor and training child say to each other. Pydantic only; both sides import it.

`spec` is what a child is told to do, `protocol` the messages and files between it and its supervisor, `results` what
its files hold, `failure` why an attempt failed.
"""
