"""The contract between service, supervisor and training child. Pydantic only; both sides import it.

`spec` is the specification of a child's work, `protocol` the messages and files between it and its supervisor,
`results` the content of its files, `failure` why an attempt failed.
"""
